"""Simulated clicks by brute force, and the metrics of their curves by hand."""

import numpy as np
import pytest

from pixellm.eval.clicks import ClickCurves, click_through, depths, iou, next_click


def rectangle(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (24, 30)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def brute_depth(region: np.ndarray) -> tuple[float, set[tuple[int, int]]]:
    """Return the largest distance to a pixel outside, the image's border counting as outside, and where it is."""
    padded = np.pad(region, 1)
    outside = np.argwhere(~padded)
    distances = {tuple(p - 1): float(np.hypot(*(outside - p).T).min()) for p in np.argwhere(padded)}
    largest = max(distances.values())
    return largest, {(int(y), int(x)) for (y, x), d in distances.items() if d == pytest.approx(largest)}


def test_depth_equals_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(5):
        region = rng.random((12, 15)) < 0.8
        depth, place = depths(region)
        wanted, places = brute_depth(region)
        assert depth == pytest.approx(wanted)
        assert place in places


def test_nothing_has_no_depth():
    assert depths(np.zeros((4, 5), dtype=bool)) == (0.0, (0, 0))


def test_the_largest_error_is_clicked_at_its_centre():
    wanted = rectangle(2, 2, 13, 13)  # 11 × 11, its centre is pixel (7, 7)
    assert next_click(np.zeros_like(wanted), wanted) == (7.5, 7.5, True)
    excess = rectangle(18, 4, 23, 9)
    assert next_click(wanted | excess, wanted) == (20.5, 6.5, False)
    missing_more = wanted & ~rectangle(2, 2, 9, 13)  # 7 columns are missing, 5 × 5 pixels are too much
    x, _, positive = next_click(missing_more | excess, wanted)
    assert (x, positive) == (5.5, True)
    assert next_click(wanted, wanted) is None


def test_an_error_at_the_border_is_as_deep_as_it_is_to_the_border():
    wanted = rectangle(0, 0, 3, 24)
    x, _, positive = next_click(np.zeros_like(wanted), wanted)
    assert (x, positive) == (1.5, True)


def test_clicking_goes_on_from_the_new_mask_until_it_is_good_enough():
    wanted, first, seen = rectangle(0, 0, 10, 10), rectangle(0, 0, 2, 10), []

    def refine(mask, clicks):
        seen.append((int(mask.sum()), len(clicks)))
        return mask | rectangle(0, 0, 4 * len(clicks), 10)

    curve = click_through(first, wanted, refine, clicks=5, enough=0.75)
    assert curve == [0.2, 0.4, 0.8]
    assert seen == [(20, 1), (40, 2)]
    assert click_through(wanted, wanted, refine) == [1.0]
    assert len(click_through(first, wanted, lambda mask, _: mask, clicks=3)) == 4


def test_metrics_by_hand():
    curves = ClickCurves([[0.5, 0.86, 0.95], [0.9], [0.1, 0.2, 0.3, 0.4]])
    assert curves.mean_iou(0) == pytest.approx((0.5 + 0.9 + 0.1) / 3)
    assert curves.mean_iou(3) == pytest.approx((0.95 + 0.9 + 0.4) / 3)
    assert curves.clicks_to(0.85) == pytest.approx((1 + 0 + 20) / 3)
    assert curves.clicks_to(0.9, most=1) == pytest.approx((1 + 0 + 1) / 3)
    assert curves.reached(0.9) == pytest.approx(2 / 3)
    assert curves.reached(0.9, most=1) == pytest.approx(1 / 3)


def test_iou_of_nothing():
    nothing = np.zeros((3, 3), dtype=bool)
    assert iou(nothing, nothing) == 1
    assert iou(nothing, ~nothing) == 0
