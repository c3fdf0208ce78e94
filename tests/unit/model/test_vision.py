import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from pixellm.checkpoints.convert import resize_positions
from pixellm.model import PixelLMVisionConfig
from pixellm.model.pixel_decoder import PixelDecoder, position_code
from pixellm.model.vision import ClipEncoder, TimmEncoder, build_vision_encoder, valid_area
from tests.support import tiny


def clip_encoder(**changes):
    torch.manual_seed(0)
    fields = {"image_size": 56, "clip": tiny.CLIP_SIZES, "hidden_layers": (-2, -3)} | changes
    encoder = ClipEncoder(PixelLMVisionConfig(kind="clip", **fields)).eval()
    tiny.randomise(encoder, 0)
    return encoder


# --- what lies in the image ---


def test_valid_area_by_hand():
    """A cell counts where its top-left pixel is inside: 14·i < h and 14·j < w (spec 1.2)."""
    valid = valid_area(torch.tensor([[56, 56], [15, 56], [14, 29], [1, 1]]), 56, 4)
    assert valid[0].all()
    assert valid[1].int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert valid[2].int().tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert valid[3].int().tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("hw", [(448, 300), (29, 448), (1, 448), (448, 448), (337, 336)])
def test_valid_area_is_nearest_sampling_of_the_pixels(hw):
    """The released code resizes a pixel mask with mode "nearest"."""
    pixels = torch.zeros(1, 1, 448, 448)
    pixels[:, :, : hw[0], : hw[1]] = 1
    for grid in (16, 32):
        expected = nn.functional.interpolate(pixels, (grid, grid), mode="nearest")[0, 0].bool()
        assert (valid_area(torch.tensor([hw]), 448, grid)[0] == expected).all()


# --- CLIP ---


@torch.no_grad()
def test_clip_padding_has_no_effect_on_the_image():
    """Whatever stands in the padding's patches: they are masked as keys, so the image's patches do not see them."""
    encoder, hw = clip_encoder(), torch.tensor([[28, 42]])
    pixels = torch.randn(1, 3, 56, 56)
    changed = pixels.clone()
    changed[:, :, 28:] = 9 * torch.randn(1, 3, 28, 56)
    changed[:, :, :, 42:] = 0
    for plain, other in zip(encoder(pixels, hw).scales, encoder(changed, hw).scales, strict=True):
        torch.testing.assert_close(other[:, :, :2, :3], plain[:, :, :2, :3], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(other[:, :, 2:], plain[:, :, 2:], atol=1e-2)
    # Without the mask they would be seen.
    whole = torch.tensor([[56, 56]])
    first, second = encoder(pixels, whole).scales[0], encoder(changed, whole).scales[0]
    assert not torch.allclose(first[:, :, :2, :3], second[:, :, :2, :3], atol=1e-2)


@torch.no_grad()
def test_clip_features_are_the_hidden_states():
    encoder = clip_encoder(hidden_layers=(-1, 1, 0))
    pixels = torch.randn(2, 3, 56, 56)
    expected = encoder.clip(pixels, output_hidden_states=True).hidden_states
    scales = encoder(pixels, torch.tensor([[56, 56], [56, 56]])).scales
    for scale, layer in zip(scales, (-1, 1, 0), strict=True):
        patches = scale.flatten(2).transpose(1, 2)
        torch.testing.assert_close(patches, expected[layer][:, 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "layers"), [(56, (-2, -3)), (84, (-1, -2, -4)), (14, (-2,))])
@torch.no_grad()
def test_clip_shapes(size, layers):
    encoder = clip_encoder(image_size=size, hidden_layers=layers)
    features = encoder(torch.randn(2, 3, size, size), torch.tensor([[size, size], [size, 1]]))
    assert [tuple(scale.shape) for scale in features.scales] == [(2, 32, size // 14, size // 14)] * len(layers)


@torch.no_grad()
def test_clip_images_do_not_see_each_other():
    encoder, hw = clip_encoder(), torch.tensor([[56, 30], [20, 56], [56, 56]])
    pixels = torch.randn(3, 3, 56, 56)
    together = encoder(pixels, hw).scales
    for row in range(3):
        alone = encoder(pixels[row : row + 1], hw[row : row + 1]).scales
        for scale, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(scale[row], expected[0], atol=1e-5, rtol=1e-5)


# --- positions ---


def test_shifted_positions():
    """The released resize takes the last row for the class token (docs/parity.md#positions)."""
    torch.manual_seed(0)
    table = torch.randn(1 + 9, 5)
    resized = resize_positions(table, 5, shifted=True)
    assert resized.shape == (1 + 25, 5)
    torch.testing.assert_close(resized[0], table[0])  # the corner of the wrong grid is the class token
    torch.testing.assert_close(resized[-1], table[-1])
    grid = table[:-1].T.reshape(1, 5, 3, 3)
    expected = nn.functional.interpolate(grid, (5, 5), mode="bilinear", align_corners=False)[0].flatten(1).T
    torch.testing.assert_close(resized[:-1], expected)
    assert not torch.allclose(resized, resize_positions(table, 5, shifted=False), atol=1e-2)


def test_shifted_positions_of_the_same_size():
    table = torch.randn(1 + 16, 3)
    torch.testing.assert_close(resize_positions(table, 4, shifted=True), table)
    assert torch.equal(resize_positions(table, 4, shifted=False), table)


@pytest.mark.parametrize(("old", "new"), [(56, 112), (112, 56), (56, 70)])
@torch.no_grad()
def test_right_positions_are_those_of_transformers(old, new):
    torch.manual_seed(0)
    embeddings = CLIPVisionModel(CLIPVisionConfig(**tiny.CLIP_SIZES, image_size=old)).embeddings
    table = nn.init.normal_(embeddings.position_embedding.weight)
    side = new // 14
    expected = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + side**2, 32), new, new)[0]
    torch.testing.assert_close(resize_positions(table, side, shifted=False), expected, atol=1e-5, rtol=1e-5)


# --- timm ---


def timm_encoder(backbone="tf_efficientnet_lite0", **changes):
    torch.manual_seed(0)
    fields = {"image_size": 64, "reductions": (32, 16, 8), "hidden_size": 16} | changes
    return build_vision_encoder(PixelLMVisionConfig(kind="timm", backbone=backbone, **fields)).eval()


@pytest.mark.parametrize(
    "backbone", ["tf_efficientnet_lite0", "resnet18", "convnext_atto", "mobilenetv3_small_050", "regnetx_002"]
)
@torch.no_grad()
def test_timm_backbones(backbone):
    encoder = timm_encoder(backbone)
    assert isinstance(encoder, TimmEncoder)
    features = encoder(torch.randn(2, 3, 96, 96), torch.tensor([[64, 96], [64, 10]]))
    assert [tuple(s.shape) for s in features.scales] == [(2, 16, 3, 3), (2, 16, 6, 6), (2, 16, 12, 12)]


@torch.no_grad()
def test_timm_backbone_with_channels_last():
    encoder = timm_encoder("swin_tiny_patch4_window7_224", image_size=224, reductions=(32, 8))
    features = encoder(torch.randn(1, 3, 224, 224), torch.tensor([[224, 100]]))
    assert [tuple(s.shape) for s in features.scales] == [(1, 16, 7, 7), (1, 16, 28, 28)]


@pytest.mark.parametrize("reductions", [(32,), (16, 8), (32, 4), (8, 4, 2)])
@torch.no_grad()
def test_timm_scales(reductions):
    encoder = timm_encoder("resnet18", reductions=reductions)
    features = encoder(torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]]))
    assert [tuple(s.shape) for s in features.scales] == [(1, 16, 64 // r, 64 // r) for r in reductions]


@torch.no_grad()
def test_timm_coarse_to_fine():
    """Of two strides the coarser one comes first, and both see the corner of the photograph in their corner."""
    encoder = timm_encoder("resnet18", reductions=(32, 8))
    tiny.randomise(encoder, 0)
    pixels = torch.randn(1, 3, 256, 256)
    changed = pixels.clone()
    changed[:, :, 0, 0] += 50
    hw = torch.tensor([[256, 256]])
    plain, other = encoder(pixels, hw).scales, encoder(changed, hw).scales
    coarse, fine = ((a - b).abs().amax((0, 1)) for a, b in zip(plain, other, strict=True))
    assert coarse.shape == (8, 8)
    assert fine.shape == (32, 32)
    assert coarse[0, 0] > 0
    assert fine[0, 0] > 0


def test_timm_batch_statistics_stay_as_pretrained():
    encoder = timm_encoder().train()
    assert encoder.training
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    assert before
    encoder(torch.randn(2, 3, 64, 64), torch.tensor([[64, 64], [64, 64]]))
    for name, buffer in encoder.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_timm_stride_that_the_backbone_lacks():
    with pytest.raises(ValueError, match=r"resnet18: .*none of stride \[64\].*\[2, 4, 8, 16, 32\]"):
        timm_encoder("resnet18", reductions=(64, 32))


# --- the pixel decoder's grids ---


@pytest.mark.parametrize(("config", "grids"), [(tiny.clip_config(), [4, 8]), (tiny.timm_config(), [2, 4, 8])])
@torch.no_grad()
def test_decoder_grids(config, grids):
    decoder = PixelDecoder(config)
    features = [torch.randn(2, 32, grid, grid) for grid in config.vision_config.grid_sizes]
    maps = decoder.prepare(features)
    assert [m.shape[-1] for m in maps] == config.decoder_grids == grids
    assert torch.equal(maps[0], features[0])
    logits = decoder(maps, torch.randn(3, len(grids), 32), torch.tensor([0, 1, 1]))
    assert logits.shape == (3, 2 * grids[-1], 2 * grids[-1])
    empty = decoder(maps, torch.randn(0, len(grids), 32), torch.zeros(0, dtype=torch.long))
    assert empty.shape == (0, 2 * grids[-1], 2 * grids[-1])


@torch.no_grad()
def test_dot_products_are_those_of_the_upscaled_image():
    """The transposed convolution as a linear layer, and the products before its pixels are at their places."""
    torch.manual_seed(0)
    decoder = PixelDecoder(tiny.clip_config())
    image, weights = torch.randn(2, 5 * 5, 32), torch.randn(2, 4)
    upscaled = decoder.upscale(image.transpose(1, 2).unflatten(2, (5, 5)))
    expected = torch.einsum("tc,tcxy->txy", weights, upscaled)
    torch.testing.assert_close(decoder._dot_products(image, weights), expected, atol=1e-5, rtol=1e-5)


def test_position_code_by_hand():
    """Fourier features of the cell's centre in -1..1, x first; rows run through y."""
    code = position_code(torch.tensor([[0.5], [0.125]]), 2)
    assert code.shape == (1, 4, 2)
    centres = [(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)]
    for cell, (x, y) in zip(code[0], centres, strict=True):
        angle = torch.tensor(2 * torch.pi * (0.5 * x + 0.125 * y))
        torch.testing.assert_close(cell, torch.stack([angle.sin(), angle.cos()]))
