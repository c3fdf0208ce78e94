"""Where vision states lie in the image: an image whose colours are its positions, through each family's tower."""

import pytest
import torch
from torch import Tensor

from pixellm.backbones import canvas
from pixellm.backbones.adapter import View, stitch, tile_maps
from pixellm.backbones.create import NewParts, extend
from pixellm.imaging import geometry
from tests.support.tiny_vlms import every_family, families, position_image, tiny_vlm

SIZES = {"square": (112, 112), "wide": (60, 200), "tall": (211, 70), "tiny": (5, 9), "huge": (1400, 1900)}
GRID = 16


@pytest.fixture(scope="module")
def colour_models():
    """Models by family whose patch embedding is the mean of red and of green, with nothing added to it."""
    made = {}

    def of(family: str):
        if family not in made:
            base, processor = tiny_vlm(family)
            model, processor = extend(base, processor, NewParts(decoder_dim=32, mask_grid=GRID))
            read_colours(base)
            made[family] = model, processor
        return made[family]

    return of


@torch.no_grad()
def read_colours(base) -> None:
    """Let the first channels of the embeddings be mean red and mean green; nothing else changes them."""
    for name, parameter in base.named_parameters():
        if "position_embedding" in name or "pos_embed" in name or name.endswith("class_embedding"):
            parameter.zero_()
    for name, module in base.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
            module.weight.zero_()
            for channel in (0, 1):
                module.weight[channel, channel] = 1 / module.weight[0, 0].numel()
            if module.bias is not None:
                module.bias.zero_()
        elif name.endswith(("pre_layrnorm", "ln_pre")):  # norms before the first layer mix the channels
            module.forward = torch.nn.Identity().forward


def embedding_map(model, inputs) -> Tensor:
    """Red and green (2, h, w), 0..1, of the cells of the view, before any layer."""
    features = model._features(inputs.view.pixels)
    raster = model.adapter.raster(model.backbone.base_model, features.hidden_states[0], inputs.view)[:2]
    least, most = raster.flatten(1).min(dim=1).values, raster.flatten(1).max(dim=1).values
    return (raster - least[:, None, None]) / (most - least)[:, None, None].clamp(min=1e-6)


@every_family
@pytest.mark.parametrize("shape", SIZES)
@torch.inference_mode()
def test_cells_are_in_raster_order(family, shape, colour_models):
    model, processor = colour_models(family)
    height, width = SIZES[shape]
    inputs = processor.image_inputs(position_image(height, width))
    rows, columns = embedding_map(model, inputs)
    extent = inputs.view.extent_hw
    cells_down, cells_across = rows.shape
    inside_down = int(height / extent[0] * cells_down)  # whole cells; what follows is padding
    inside_across = int(width / extent[1] * cells_across)
    red, green = rows[:inside_down, :inside_across], columns[:inside_down, :inside_across]
    # Each row has one red, each column one green, and both grow from cell to cell.
    tolerance = 0.03
    assert (red.amax(dim=1) - red.amin(dim=1)).max() < tolerance
    assert (green.amax(dim=0) - green.amin(dim=0)).max() < tolerance
    if min(height, width) > 50:  # a tiny image has fewer colours than cells
        assert (red.mean(dim=1).diff() > 0).all()
        assert (green.mean(dim=0).diff() > 0).all()


@families
@pytest.mark.parametrize("shape", SIZES)
@torch.inference_mode()
def test_painted_rectangle_lands_in_its_place(family, shape, colour_models):
    """A mask made of the cells' positions, through the square and the inverse."""
    model, processor = colour_models(family)
    height, width = SIZES[shape]
    inputs = processor.image_inputs(position_image(height, width))
    raster = model.adapter.raster(
        model.backbone.base_model, model._features(inputs.view.pixels).hidden_states[0], inputs.view
    )
    cells = raster.shape[1:]
    extent = inputs.view.extent_hw
    # Exact positions of the cells' centres in pixels of the image, in the order that the adapter says.
    down = (torch.arange(cells[0]) + 0.5) * extent[0] / cells[0]
    across = (torch.arange(cells[1]) + 0.5) * extent[1] / cells[1]
    position = torch.stack(torch.meshgrid(down, across, indexing="ij"))
    grid = 48
    square = canvas.place(position, extent, (height, width), grid)
    top, bottom, left, right = height // 4, height * 3 // 4, width // 4, width * 3 // 4
    sides = [square[0] - top, bottom - square[0], square[1] - left, right - square[1]]
    logits = torch.stack(sides).amin(dim=0)[None]  # above 0 in the rectangle; padding is at (0, 0), outside
    (restored,) = geometry.restore(logits, canvas.resized_hw((height, width), grid), (height, width)) > 0
    target = torch.zeros(height, width, dtype=torch.bool)
    target[top:bottom, left:right] = True
    assert (restored & target).sum() / (restored | target).sum() >= 0.98


def test_place_pads_right_and_bottom():
    square = canvas.place(torch.ones(1, 3, 6), (30, 60), (30, 60), 6)
    assert square[0, :3].eq(1).all()
    assert square[0, 3:].eq(0).all()


def test_place_keeps_a_map_of_its_own_size():
    feature_map = torch.randn(4, 6, 6)
    assert torch.allclose(canvas.place(feature_map, (90, 90), (90, 90), 6), feature_map, atol=1e-5)


def test_stitch_and_tiles():
    tiles = torch.arange(12).reshape(3, 4, 1)  # 2 tiles of 2 × 2 and a thumbnail
    assert stitch(tile_maps(tiles), (1, 2))[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert stitch(tile_maps(tiles), (2, 1))[0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with_class = torch.cat([torch.full((3, 1, 1), -1), tiles], dim=1)
    assert torch.equal(tile_maps(with_class), tile_maps(tiles))
    with pytest.raises(ValueError, match="square of vision tokens"):
        tile_maps(torch.zeros(1, 7, 2))


def test_cropped_view_is_replaced():
    """LLaVA's processor crops to the middle: the pixel decoder sees the padded image in its place."""
    base, processor = tiny_vlm("llava")
    _, processor = extend(base, processor, NewParts(decoder_dim=32))
    wide = processor.image_inputs(position_image(60, 200))
    assert wide.view.pixels is not wide.pixels
    assert wide.view.extent_hw == (200, 200)
    square = processor.image_inputs(position_image(60, 60))
    assert square.view.pixels is square.pixels
    assert View(square.pixels, (60, 60)) == square.view
