import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixellm.imaging import geometry

SIDE = st.integers(1, 3000)


def square_of(mask, size):
    """A mask as the vision encoder's square: resized, padded right and bottom; logits ±10 at its resolution."""
    resized = geometry.resize_longest_side(Image.fromarray(mask.astype(np.uint8) * 255), size)
    square = torch.full((size, size), -10.0)
    square[: resized.height, : resized.width] = torch.from_numpy(np.asarray(resized) / 255.0 * 20 - 10)
    return square, (resized.height, resized.width)


def ellipse(height, width):
    y, x = np.mgrid[:height, :width]
    return ((y - 0.45 * height) / (0.4 * height)) ** 2 + ((x - 0.55 * width) / (0.35 * width)) ** 2 <= 1


@pytest.mark.parametrize(("height", "width"), [(300, 200), (200, 300), (448, 448), (1000, 1500), (97, 640), (64, 48)])
def test_a_mask_survives_the_letterbox(height, width):
    mask = ellipse(height, width)
    square, resized = square_of(mask, 448)
    back = geometry.restore(square[None], resized, (height, width))[0].numpy() > 0
    assert back.shape == mask.shape
    assert (back & mask).sum() / (back | mask).sum() >= 0.97


def test_where_things_are_stays_where_they_are():
    """A quarter of the photograph, not just something of the same size."""
    mask = np.zeros((120, 400), bool)
    mask[:60, 200:] = True
    square, resized = square_of(mask, 112)
    back = geometry.restore(square[None], resized, (120, 400))[0].numpy() > 0
    assert (back != mask).mean() < 0.03


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), (448, 448)),
        ((20_000, 3), (448, 1)),
        ((3, 20_000), (1, 448)),
        ((480, 640), (336, 448)),
        ((640, 480), (448, 336)),
        ((100, 67), (448, 300)),  # 300.16
        ((1000, 501), (448, 224)),  # 224.448
        ((1000, 503), (448, 225)),  # 225.344
        ((896, 1), (448, 1)),  # 0.5 rounds up
    ],
)
def test_resized_hw_by_hand(size, expected):
    assert geometry.resized_hw(*size, 448) == expected


@given(SIDE, SIDE, st.sampled_from([56, 64, 224, 448, 1024]))
def test_the_longest_side_is_exactly_the_square(height, width, size):
    """`restore` relies on it."""
    resized = geometry.resized_hw(height, width, size)
    assert max(resized) == size
    assert min(resized) >= 1
    scale = size / max(height, width)
    assert abs(resized[0] - height * scale) <= 1
    assert abs(resized[1] - width * scale) <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 3), st.sampled_from([4, 14, 28]))
def test_restore_shapes(height, width, targets, resolution):
    resized = geometry.resized_hw(height, width, 28)
    logits = torch.randn(targets, resolution, resolution, dtype=torch.float64)
    restored = geometry.restore(logits, resized, (height, width))
    assert restored.shape == (targets, height, width)
    assert restored.dtype == torch.float32


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000)])
def test_extreme_sizes(size):
    image = Image.new("RGB", size[::-1], (10, 20, 30))
    resized = geometry.resize_longest_side(image, 64)
    assert (resized.height, resized.width) == geometry.resized_hw(*size, 64)
    assert resized.getpixel((0, 0)) == (10, 20, 30)
    restored = geometry.restore(torch.ones(2, 8, 8), geometry.resized_hw(*size, 64), size)
    assert restored.shape == (2, *size)
    assert (restored == 1).all()


def test_the_padding_is_cut_off():
    square = torch.full((1, 8, 8), -5.0)
    square[:, :4] = 5.0  # the image fills the upper half of the square
    restored = geometry.restore(square, (4, 8), (6, 12))
    # Only the last row feels the padding, through interpolation of neighbouring pixels at the same resolution.
    assert restored.shape == (1, 6, 12)
    assert (restored > 0).all()


def test_gradient_flows_back():
    logits = torch.zeros(1, 4, 4, requires_grad=True)
    geometry.restore(logits, (8, 4), (20, 10)).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[0, :, :2] > 0).all()
    assert (logits.grad[0, :, 3] == 0).all()  # padding


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (33, 33), (1, 200)], ids=str)
def test_letterbox(size):
    """Longest side, normalisation and padding, pixel by pixel."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    square, (height, width) = geometry.Letterbox(48, mean, std)(Image.fromarray(noise))
    assert (square.shape, square.dtype) == ((3, 48, 48), np.float32)
    assert (height, width) == geometry.resized_hw(*size, 48)
    pixels = np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR))
    for channel in range(3):
        expected = (pixels[..., channel] / np.float32(255) - np.float32(mean[channel])) / np.float32(std[channel])
        assert np.array_equal(square[channel, :height, :width], expected)
    assert not square[:, height:].any()
    assert not square[:, :, width:].any()


def test_letterbox_takes_rgb_alone():
    with pytest.raises(ValueError, match="expected RGB images, got mode L"):
        geometry.Letterbox(48, (0.5,) * 3, (0.5,) * 3)(Image.new("L", (8, 8)))


SETTINGS = {"image_size": 48, "image_mean": [0.5, 0.4, 0], "image_std": [0.2, 0.25, 1]}


def test_letterbox_of_settings():
    assert geometry.Letterbox.of(SETTINGS | {"more": 1}) == geometry.Letterbox(48, (0.5, 0.4, 0), (0.2, 0.25, 1))
    for wrong in (
        *({"image_size": 0}, {"image_size": 10**6}, {"image_size": True}, {"image_size": "48"}),
        *({"image_mean": 0.5}, {"image_mean": [0.5, 0.5]}, {"image_std": [0.5, 0.5, "1"]}, {"image_std": None}),
    ):
        with pytest.raises(ValueError, match="expected an image_size of 1 to 8192 pixels"):
            geometry.Letterbox.of(SETTINGS | wrong)
    with pytest.raises(ValueError, match="expected an image_size"):
        geometry.Letterbox.of([])
