"""The refiner's inputs by hand, and what its prompts change."""

import pytest
import torch

from pixellm.imaging.prompt_region import INPUTS, SIDE, Region
from pixellm.imaging.visual_prompts import NOTHING, Prompts
from pixellm.mini.refine_maps import map_channels
from pixellm.mini.refiner import Refiner, RegionInputs, region_inputs
from tests.support import tiny

HW = (48, 64)


def maps(seed: int = 0) -> list[torch.Tensor]:
    """Maps of a tiny encoder for an image of 64 × 48 in a square of 64 pixels."""
    torch.manual_seed(seed)
    sides = ((12, 16), (6, 8), (3, 4), (2, 2), (6, 8), (3, 4), (2, 2))
    channels = map_channels(tiny.detector_config().vision_config)
    return [torch.randn(count, *side) for count, side in zip(channels, sides, strict=True)]


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (3, *HW), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def mask() -> torch.Tensor:
    mask = torch.zeros(HW, dtype=torch.bool)
    mask[10:30, 20:40] = True
    return mask


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    torch.manual_seed(0)
    return Refiner(tiny.detector_config().vision_config, 32).eval()


def inputs(prompts: Prompts) -> RegionInputs:
    return region_inputs(pixels(), maps(), mask(), prompts, Region(10, 5, 50, 45))


def test_inputs_by_hand():
    prompts = Prompts.read([(30, 25, 1), (12, 7, 0)], (20, 15, 20, 20), original_hw=HW)
    found = inputs(prompts)
    torch.testing.assert_close(found.points[0, :2], torch.tensor([[0.5, 0.5], [0.05, 0.05]]))
    assert found.labels.tolist() == [[1, 0, 2, 3]]
    dense = found.dense[0]
    assert dense.shape == (INPUTS, SIDE, SIDE)
    cell = SIDE / 40
    assert dense[3, int(15 * cell), int(20 * cell)] == 1  # pixel (30, 20) lies in the mask
    assert dense[3, int(30 * cell), int(20 * cell)] == -1
    for layer, place in ((4, 0.5), (6, 0.05)):
        peak = divmod(int(dense[layer].argmax()), SIDE)
        assert all(abs(side - place * SIDE) <= 1 for side in peak)
        assert dense[layer].max() > 0.8
        assert dense[layer].mean() < dense[layer + 1].mean()  # the wide one
    inside = dense[8] > 0
    assert int(inside.sum()) == (SIDE // 2) ** 2
    assert bool(inside[int(10 * cell), int(10 * cell)])


def test_features_are_those_of_the_region():
    constant = [torch.zeros(m.shape) + torch.arange(m.shape[2]) / m.shape[2] for m in maps()]
    found = region_inputs(pixels(), constant, mask(), Prompts(((30.0, 25.0),), (1,)), Region(16, 5, 48, 45))
    assert found.fine.shape == (1, len(constant[0]), SIDE // 2, SIDE // 2)
    assert found.coarse.shape == (1, sum(len(m) for m in constant[1:]), SIDE // 4, SIDE // 4)
    row = found.fine[0, 0, 0]  # from a quarter of the width to three quarters, less half a cell
    assert row[0] == pytest.approx(0.25 - 0.5 / 16 + 0.5 / SIDE, abs=0.01)
    assert row[-1] == pytest.approx(0.75 - 0.5 / 16 - 0.5 / SIDE, abs=0.01)


def test_it_starts_as_the_mask_that_it_was_given(refiner):
    refiner.output.weight.data.zero_()
    refiner.output.bias.data.zero_()
    new, score = refiner.refine(pixels(), maps(), mask(), Prompts(((30.0, 20.0),), (1,)))
    assert torch.equal(new, mask())
    assert score > 0.8


def test_every_input_matters():
    torch.manual_seed(0)
    model = Refiner(tiny.detector_config().vision_config, 32).eval()
    base = inputs(Prompts(((30.0, 20.0),), (1,)))
    with torch.inference_mode():
        before = model(base)
        assert before.shape == (1, SIDE, SIDE)
        for name in ("dense", "fine", "coarse", "points"):
            changed = RegionInputs(**{**vars(base), name: getattr(base, name) + 0.1})
            assert not torch.equal(model(changed), before), name
        changed = RegionInputs(**{**vars(base), "labels": 1 - base.labels})
        assert not torch.equal(model(changed), before)


def test_targets_of_a_batch_do_not_see_each_other():
    torch.manual_seed(0)
    model = Refiner(tiny.detector_config().vision_config, 32).eval()
    one = inputs(Prompts(((30.0, 20.0), (12.0, 8.0)), (1, 0)))
    two = inputs(Prompts(((35.0, 25.0),), (1,)))
    stacked = RegionInputs.stack([one, two])
    assert stacked.labels.tolist() == [[1, 0], [1, NOTHING]]
    with torch.inference_mode():
        torch.testing.assert_close(model(stacked)[:1], model(one), atol=1e-4, rtol=1e-4)


def test_background_alone_leaves_an_empty_mask_empty(refiner):
    nothing = torch.zeros(HW, dtype=torch.bool)
    new, score = refiner.refine(pixels(), maps(), nothing, Prompts(((30.0, 20.0),), (0,)))
    assert torch.equal(new, nothing)
    assert score == 0
