"""Interpolation with NumPy: by hand, and torch's on a CPU."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pixellm.imaging import interpolation
from pixellm.imaging.interpolation import Taps, interpolate, resize

SIDE = st.one_of(st.integers(1, 90), st.integers(91, 300))


def test_by_hand():
    values = np.array([[0, 8], [4, 0]], dtype=np.float32)
    assert interpolate(values, Taps.of(2, 4)).tolist() == [[0, 8], [1, 6], [3, 2], [4, 0]]
    assert interpolate(values, Taps.of(2, 1)).tolist() == [[2, 4]]
    assert interpolate(values, Taps.of(2, 2)).tolist() == values.tolist()
    assert interpolate(values, Taps.of(2, 4).at(slice(1, 3))).tolist() == [[1, 6], [3, 2]]
    assert resize(values, 1, 1).tolist() == [[3]]


@settings(max_examples=25, deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from([1e-3, 1.0, 30.0]))
def test_equals_torch(height, width, new_height, new_width, scale):
    """Bit by bit where torch is built for AVX2, else up to rounding."""
    noise = np.random.default_rng(height * width).normal(scale=scale, size=(height, width)).astype(np.float32)
    tensor = torch.from_numpy(noise)[None, None]
    expected = F.interpolate(tensor, (new_height, new_width), mode="bilinear", align_corners=False)[0, 0].numpy()
    found = resize(noise, new_height, new_width)
    assert found.dtype == np.float32
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        assert np.array_equal(found, expected)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(noise).max()


def test_the_size_of_a_block_is_no_matter(monkeypatch):
    noise = np.random.default_rng(0).normal(size=(70, 50)).astype(np.float32)
    whole = resize(noise, 210, 90)
    monkeypatch.setattr(interpolation, "BLOCK", 1)
    assert np.array_equal(resize(noise, 210, 90), whole)
