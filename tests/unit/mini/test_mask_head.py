"""Mask head: parts of maps, and where its masks are placed."""

import numpy as np
import pytest
import torch

from pixellm.mini.mask_head import SIDE, MaskHead, paste, with_margin
from tests.support import tiny

BOXES = torch.tensor([[4.0, 6.0, 40.0, 30.0], [20.0, 0.0, 64.0, 64.0], [-3.0, 50.0, 9.0, 70.0]])


def head() -> MaskHead:
    torch.manual_seed(0)
    made = MaskHead([4, 6], 16, 3)
    tiny.randomise(made, 0)
    return made.eval()


def inputs(images: int, instances: int) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Maps, pixels and evidence."""
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(images, 4, 16, 16, generator=generator), torch.randn(images, 6, 8, 8, generator=generator)]
    pixels = torch.randn(images, 3, 64, 64, generator=generator)
    return maps, pixels, 3 * torch.randn(instances, 8, 8, generator=generator)


def sample(values: np.ndarray, x: float, y: float) -> float:
    """Bilinear value at (x, y) in cells, whose centres are at halves; beyond the outer centres the nearest."""
    height, width = values.shape
    x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    dx, dy = x - left, y - top
    upper = (1 - dx) * values[top, left] + dx * values[top, left + 1]
    return (1 - dy) * upper + dy * ((1 - dx) * values[top + 1, left] + dx * values[top + 1, left + 1])


def test_paste_is_bilinear_sampling():
    logits = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0))
    pasted, inside = paste(logits, BOXES, 64, 16)
    for number, (left, top, right, bottom) in enumerate(BOXES.tolist()):
        for row in range(16):
            for column in range(16):
                x, y = 4 * column + 2, 4 * row + 2  # pixels
                at = (x - left) / (right - left) * 5, (y - top) / (bottom - top) * 5
                wanted = sample(logits[number].double().numpy(), *at)
                assert float(pasted[number, row, column]) == pytest.approx(wanted, abs=1e-4)
                assert bool(inside[number, row, column]) == (left <= x <= right and top <= y <= bottom)


def test_paste_of_a_box_on_the_grid_copies():
    logits = torch.randn(1, 4, 4)
    pasted, inside = paste(logits, torch.tensor([[16.0, 32.0, 32.0, 48.0]]), 64, 16)
    torch.testing.assert_close(pasted[0, 8:12, 4:8], logits[0])
    assert inside.sum() == 16
    assert inside[0, 8:12, 4:8].all()


def test_paste_of_boxes_smaller_than_a_cell():
    """Each gets the cell that its middle lies in, wherever that is."""
    middles = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 64
    boxes = torch.cat([middles - 0.6, middles + 0.6], dim=1)
    _, inside = paste(torch.zeros(200, 4, 4), boxes, 64, 16)
    assert (inside.flatten(1).sum(dim=1) >= 1).all()
    cells = (middles / 4).long()
    assert inside[torch.arange(200), cells[:, 1], cells[:, 0]].all()


def test_margin_is_a_tenth_on_each_side():
    boxes = with_margin(torch.tensor([[10.0, 20.0, 20.0, 60.0], [0.0, 0.0, 30.0, 5.0]]))
    torch.testing.assert_close(boxes, torch.tensor([[9.0, 16.0, 21.0, 64.0], [-3.0, -0.5, 33.0, 5.5]]))


@torch.no_grad()
def test_instances_do_not_see_each_other():
    """One by one, from one image of two or from that image alone, each mask is the same."""
    model, (maps, pixels, evidence) = head(), inputs(2, 3)
    index, classes = torch.tensor([1, 0, 1]), torch.tensor([2, 0, 1])
    together = model(model.prepare(maps), pixels, evidence, BOXES, index, classes)
    assert together.shape == (3, 2 * SIDE, 2 * SIDE)
    for n in range(3):
        row, image = slice(n, n + 1), slice(int(index[n]), int(index[n]) + 1)
        own = [map_[image] for map_ in maps]
        alone = model(model.prepare(own), pixels[image], evidence[row], BOXES[row], torch.zeros(1).long(), classes[row])
        torch.testing.assert_close(alone[0], together[n], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_every_input_counts():
    """Maps, pixels, evidence, box, image and class each change the mask; what lies far from the box does not."""
    model, (maps, pixels, evidence) = head(), inputs(2, 1)
    prepared, box = model.prepare(maps), torch.tensor([[4.0, 6.0, 30.0, 30.0]])
    index, classes = torch.tensor([0]), torch.tensor([0])
    before = model(prepared, pixels, evidence, box, index, classes)
    for changed in (
        model([prepared[0] + 1, prepared[1]], pixels, evidence, box, index, classes),
        model([prepared[0], prepared[1] + 1], pixels, evidence, box, index, classes),
        model(prepared, pixels + 1, evidence, box, index, classes),
        model(prepared, pixels, evidence.neg(), box, index, classes),
        model(prepared, pixels, evidence, box + 3, index, classes),
        model(prepared, pixels, evidence, box, index + 1, classes),
        model(prepared, pixels, evidence, box, index, classes + 1),
    ):
        assert (changed - before).abs().max() > 1e-3
    pixels[:, :, 40:], evidence[:, 6:] = 99, 99
    assert torch.equal(model(prepared, pixels, evidence, box, index, classes), before)


@torch.no_grad()
def test_without_an_instance():
    model, (maps, pixels, evidence) = head(), inputs(2, 0)
    none = torch.zeros(0, dtype=torch.long)
    assert model(model.prepare(maps), pixels, evidence, BOXES[:0], none, none).shape == (0, 56, 56)
    pasted, inside = paste(torch.zeros(0, 56, 56), BOXES[:0], 64, 16)
    assert (pasted.shape, inside.shape) == ((0, 16, 16), (0, 16, 16))
