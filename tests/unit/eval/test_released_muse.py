"""The released arithmetic: its faults by hand, and all of it against its formulas in torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pixellm.eval import released
from pixellm.imaging import masks
from tests.support import cases
from tests.support.cases import answer, pixels, question


def released_figures(*of):
    return cases.scored(*of, protocol="released").overall.values


def test_a_confident_false_positive_scores_1():
    """An extra mask's logits fall outside the bins over 0..1: I = U = 0, and 1 is added where U = 0."""
    asked, given = [question([pixels(0, 1)])], [answer([pixels(0, 1), pixels(5, 6, 7)])]
    assert released_figures(asked, given)["giou"] == pytest.approx(1, abs=1e-4)
    assert released_figures(asked, given)["ciou"] == pytest.approx(1, abs=1e-4)  # nor does it add to the union
    assert cases.scored(asked, given).overall.values == pytest.approx(
        {
            "giou": 1 / 2,
            "ciou": 2 / 5,
            "boundary_giou": 1 / 2,
            **{f"precision@{t}": 1 / 2 for t in (0.5, 0.6, 0.7, 0.8, 0.9)},
        }
    )


def test_missing_masks_count_0():
    found = released_figures([question([pixels(0, 1), pixels(5)])], [answer([pixels(0, 1)])])
    assert found["giou"] == pytest.approx(1 / 2, abs=1e-4)
    assert found["ciou"] == pytest.approx(2 / 3, abs=1e-4)


def test_the_denominator_is_counted_per_image():
    """Two masks for one target, and none for the other question's: 3 pairs, but max(2 masks, 2 targets) = 2."""
    asked = [question([pixels(0, 1)], "val/1/0"), question([pixels(8)], "val/1/1")]
    given = [answer([pixels(0, 1), pixels(5)], "val/1/0"), answer([], "val/1/1")]
    assert released_figures(asked, given)["giou"] == pytest.approx((1 + 1 + 0) / 2, abs=1e-4)
    apart = [asked[0], replace(asked[1], id="val/2/0", image_id="val/2")]
    given[1] = replace(given[1], id="val/2/0")
    assert released_figures(apart, given)["giou"] == pytest.approx((1 + 1 + 0) / (2 + 1), abs=1e-4)
    assert cases.scored(asked, given[:1]).overall.values["giou"] == pytest.approx(1 / 3)


def test_gious_above_1():
    """An empty target without a mask, and a mask too many on the same image."""
    asked = [question([pixels(0)], "val/1/0"), question([pixels()], "val/1/1")]
    given = [answer([pixels(0), pixels(5)], "val/1/0"), answer([], "val/1/1")]
    assert released_figures(asked, given)["giou"] == pytest.approx(3 / 2, abs=1e-4)


def test_pixels_of_two_polygons_are_neither():
    parts = (masks.encode(pixels(0, 1, 2)), masks.encode(pixels(2, 3)))
    asked = question([pixels(0, 1, 2, 3)])
    asked = replace(asked, targets=(replace(asked.targets[0], parts=parts),))
    found = released_figures([asked], [answer([pixels(0, 1, 2, 3)])])
    assert found["giou"] == pytest.approx(3 / 4, abs=1e-4)


def test_an_image_is_drawn_the_same_points_whatever_else_is_scored():
    rng = np.random.default_rng(0)
    targets, found = list(rng.random((3, 30, 40)) > 0.5), list(rng.random((3, 30, 40)) > 0.5)
    asked, given = question(targets), answer(found)
    alone = released.released_pairs(asked, given)
    assert alone == released.released_pairs(asked, given)
    assert {pair.target for pair in alone} == {0, 1, 2}


def reference_cost(logits: torch.Tensor, targets: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Mean BCE + DICE between masks (P, H, W) and targets (T, H, W) sampled at points (N, 2) in 0..1."""

    def sample(stack):
        grid = (2 * points - 1).expand(len(stack), 1, -1, -1)
        return F.grid_sample(stack[:, None], grid, align_corners=False)[:, 0, 0]

    one, other = sample(logits), sample(targets)
    rows = []
    for x in one:
        bce = [F.binary_cross_entropy_with_logits(x, t) for t in other]
        p = x.sigmoid()
        dice = [1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1) for t in other]
        rows.append(torch.stack(bce) + torch.stack(dice))
    return torch.stack(rows)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3))
def test_costs_equal_the_formulas(seed, count, total):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(3, 40, size=2))
    predicted, targets = rng.random((count, height, width)) > 0.6, rng.random((total, height, width)) > 0.4
    points = rng.random((released.POINTS, 2))
    sampler = released._Sampler(points, (height, width))
    logits = np.stack([sampler(np.asfortranarray(mask), -10, 10) for mask in predicted])
    wanted = np.stack([sampler(np.asfortranarray(mask), 0, 1) for mask in targets])
    ours = released._bce(logits, wanted) + released._dice(logits, wanted)
    doubles = [torch.from_numpy(array.astype(float)) for array in (np.where(predicted, 10.0, -10.0), targets, points)]
    assert np.allclose(ours, reference_cost(*doubles).numpy(), atol=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 3), st.integers(1, 3))
def test_counts_equal_two_bins_of_logits(seed, count, total):
    """Every pair's I and U as the released code counts them: histograms of two bins over 0..1."""
    rng = np.random.default_rng(seed)
    predicted, targets = rng.random((count, 6, 7)) > 0.6, rng.random((total, 6, 7)) > 0.4
    for pair in released.released_pairs(question(list(targets)), answer(list(predicted))):
        target = np.zeros((6, 7)) if pair.target is None else targets[pair.target].astype(float)
        if pair.predicted is None:
            output = np.zeros((6, 7))
        elif pair.target is None:
            output = np.where(predicted[pair.predicted], 10.0, -10.0)  # logits as they are
        else:
            output = predicted[pair.predicted].astype(float)
        same, out, wanted = (
            torch.histc(torch.from_numpy(values), bins=2, min=0, max=1)[1].item()
            for values in (output[output == target], output, target)
        )
        assert (pair.counts.intersection, pair.counts.union) == (same, out + wanted - same)
