"""Masks made column by column = masks made of restored logits, pixel by pixel, in far less memory."""

import subprocess
import sys
import tracemalloc

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pixellm.imaging import geometry, masks
from pixellm.imaging import postprocess as binarize

LOGITS = torch.tensor([[1.0, -1.0], [3.0, 0.0]])
SIZES = [(300, 200), (200, 300), (448, 448), (97, 640), (641, 98), (1003, 1501), (3, 2000), (2000, 3), (1, 1), (31, 1)]


def blobs(count, resolution, level, seed=0):
    """Smooth logits of so many masks, around `level`."""
    coarse = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return 4 * F.interpolate(coarse, (resolution, resolution), mode="bicubic")[:, 0] + level


def whole(logits, resized, original, peak_share=None):
    """The same from whole masks of logits at the image's size, and which pixels rounding may put on either side."""
    found = []
    for one in (geometry.restore(one[None], resized, original)[0] for one in logits):
        threshold = 0.0
        if peak_share is not None and one.max().sigmoid() >= binarize.MIN_PEAK:
            threshold = min(0.0, float((one.max().sigmoid() * peak_share).logit()))
        inside = one > threshold
        score = float(one[inside].sigmoid().mean()) if bool(inside.any()) else 0.0
        open_ = torch.zeros_like(inside)
        if threshold < 0:  # made of a probability by exp and log, whose last bit differs between libraries
            open_ = (one - threshold).abs() <= 1e-6 * max(1, -threshold)
        found.append((masks.encode(inside.numpy()), score, open_.numpy()))
    return found


def same(logits, original, size=448, peak_share=None):
    resized = geometry.resized_hw(*original, size)
    expected = whole(logits, resized, original, peak_share)
    found = list(binarize.binarize(logits, resized, original, peak_share))
    for one, (rle, score, either) in zip(found, expected, strict=True):
        if either.any():
            assert not ((masks.decode(one.rle, *original) != masks.decode(rle, *original)) & ~either).any()
        else:
            assert one.rle == rle
            assert one.score == pytest.approx(score, abs=1e-6)
    return expected


@pytest.mark.parametrize("peak_share", [None, 0.5, 1.0])
@pytest.mark.parametrize("original", SIZES, ids=str)
def test_equals_restoring_all(original, peak_share, monkeypatch):
    monkeypatch.setattr(binarize, "CHUNK", 1000)
    logits = torch.cat([blobs(2, 112, level, seed) for seed, level in enumerate((-6.0, -2.0, 0.0, 5.0))])
    expected = same(logits, original, peak_share=peak_share)
    areas = {masks.area(rle) for rle, *_ in expected}
    assert min(original) < 4 or len(areas) > 4  # small and large ones


@settings(max_examples=30, deadline=None)
@given(
    *[st.integers(1, 90)] * 2,
    st.sampled_from([4, 14, 28, 56]),
    st.sampled_from([14, 28, 56]),
    st.floats(-40, 40),
    st.sampled_from([None, 0.01, 0.5, 1.0]),
)
def test_any_size_and_level(height, width, resolution, size, level, peak_share):
    noise = torch.randn(4, resolution, resolution, generator=torch.Generator().manual_seed(height * width)) + level
    same(noise, (height, width), size, peak_share)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(*[st.integers(65, 400)] * 2, st.sampled_from([28, 56, 448]), st.floats(-6, 4), st.sampled_from([None, 0.5]))
def test_any_size_in_chunks(monkeypatch, height, width, size, level, peak_share):
    monkeypatch.setattr(binarize, "CHUNK", 1000)
    same(blobs(3, 28, level, height * width), (height, width), size, peak_share)


@pytest.mark.parametrize("original", [(60, 60), (100, 100), (600, 600), (45, 60), (900, 1200)], ids=str)
def test_logits_next_to_zero(original):
    """Along the diagonal of a plane all depends on how sums were rounded."""
    side = torch.arange(56.0) / 7
    planes = torch.stack([k * side[:, None] - k * side / scale for k in (0.1, 1.0, 3.3) for scale in (1.0, 0.75)])
    same(planes, original, size=64)


@pytest.mark.parametrize("original", [(100, 150), (150, 100), (700, 900)], ids=str)
def test_the_peak_may_be_in_any_column(original, monkeypatch):
    """Of noise that is scaled down, the column with the highest logit may lose it."""
    monkeypatch.setattr(binarize, "CHUNK", 1000)
    noise = torch.randn(6, 448, 448, generator=torch.Generator().manual_seed(0)) - 8
    expected = same(noise, original, peak_share=0.95)
    assert all(0 < masks.area(rle) < 40 for rle, *_ in expected)


def test_at_once_or_one_by_one():
    """What all masks of a photograph gave when they were restored together."""
    logits = blobs(5, 112, -1.0)
    for original in ((300, 451), (800, 601)):
        resized = geometry.resized_hw(*original, 448)
        together = geometry.restore(logits, resized, original) > 0
        found = [one.rle for one in binarize.binarize(logits, resized, original)]
        assert found == [masks.encode(mask.numpy()) for mask in together]


def test_empty_full_and_flat_masks():
    flat = torch.tensor([-30.0, -1.0, -1e-7, 0.0, 1e-7, 1.0, 30.0])[:, None, None].expand(-1, 28, 28)
    for peak_share in (None, 0.5, 1.0):
        same(flat, (120, 90), 56, peak_share)
        same(flat, (90, 120), 56, peak_share)
    found = list(binarize.binarize(flat, (56, 42), (120, 90)))
    assert [masks.area(one.rle) / (120 * 90) for one in found] == [0, 0, 0, 0, 1, 1, 1]
    assert [one.score for one in found[:4]] == [0.0] * 4


def test_no_mask():
    assert list(binarize.binarize(torch.zeros(0, 28, 28), (56, 42), (120, 90))) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precisions(dtype):
    same(blobs(3, 56, -1.0).to(dtype), (211, 307), peak_share=0.5)


@pytest.mark.parametrize("chunk", [1, 500, 10_000])
def test_the_size_of_a_chunk_is_no_matter(chunk, monkeypatch):
    monkeypatch.setattr(binarize, "CHUNK", chunk)
    same(blobs(2, 56, -1.0), (211, 307), peak_share=0.5)
    same(blobs(2, 56, -9.0), (307, 211), peak_share=0.5)


def test_logits_that_training_follows():
    logits = blobs(2, 28, 0.0).requires_grad_()
    assert [one.rle for one in binarize.binarize(logits, (56, 42), (120, 90))] == [
        rle for rle, *_ in whole(logits.detach(), (56, 42), (120, 90))
    ]


def binarized(logits, peak_share=None):
    """Logits that are at the photograph's size already: bool (H, W), and the score."""
    ((rle, score),) = binarize.binarize(logits[None], tuple(logits.shape), tuple(logits.shape), peak_share)
    return masks.decode(rle, *logits.shape), score


def test_by_hand():
    mask, score = binarized(LOGITS)
    assert mask.tolist() == [[True, False], [True, False]]  # a logit of 0 is outside
    assert score == pytest.approx((torch.sigmoid(torch.tensor(1.0)) + torch.sigmoid(torch.tensor(3.0))).item() / 2)
    empty, nothing = binarized(torch.full((2, 2), -1.0))
    assert not empty.any()
    assert nothing == 0.0


def test_a_faint_mask_keeps_its_likeliest_pixels():
    faint = torch.tensor([[0.3, 0.16], [0.14, 0.01]]).logit()
    mask, score = binarized(faint, peak_share=0.5)
    assert mask.tolist() == [[True, True], [False, False]]
    assert score == pytest.approx(0.23)
    strong = torch.tensor([[0.98, 0.51], [0.48, 0.01]]).logit()
    assert binarized(strong, peak_share=0.5)[0].tolist() == [[True, True], [False, False]]
    assert binarized(strong, peak_share=1.0)[0].tolist() == binarized(strong)[0].tolist()
    certain, _ = binarized(torch.full((2, 2), 50.0), peak_share=1.0)  # its probability is 1, its logit infinite
    assert certain.all()


def test_memory_does_not_grow_with_masks_nor_hold_one():
    """Of a photograph of 3000 × 2000 pixels; its mask takes 6 MB as bool, 24 MB as logits."""
    original = (2000, 3000)
    resized = geometry.resized_hw(*original, 448)

    def peak(count):
        logits = blobs(count, 112, 0.0).numpy()
        tracemalloc.start()
        found = list(binarize.binarize(logits, resized, original, peak_share=0.5))
        arrays = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(found) == count
        return arrays

    one = peak(1)
    assert one < 32 * binarize.CHUNK
    assert peak(3) < one + 2**20  # of runs, and the RLEs themselves


@pytest.mark.parametrize("original", [(300, 451), (97, 640), (40, 60)], ids=str)
def test_arrays_and_tensors_give_the_same(original):
    logits = blobs(3, 56, -1.0)
    resized = geometry.resized_hw(*original, 448)
    tensors, arrays, one_by_one = (
        list(binarize.binarize(given, resized, original, 0.5)) for given in (logits, logits.numpy(), [*logits.numpy()])
    )
    assert tensors == arrays == one_by_one


def test_without_torch():
    code = "import sys, pixellm.imaging.postprocess, pixellm.imaging.geometry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
