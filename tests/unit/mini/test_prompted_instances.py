"""The detector's boxes as prompts of the refiner: the same regions as a user's box and click give."""

import numpy as np
import pytest
import torch

from pixellm.imaging.prompt_region import Region
from pixellm.imaging.visual_prompts import FOREGROUND, Prompts
from pixellm.mini.nanodet import NanoDet
from pixellm.mini.prompted_instances import refine_instances
from pixellm.mini.refiner import RegionInputs, region_inputs

SIZE, BOX = 128, (32.0, 32.0, 96.0, 80.0)
REGION = Region(16, 20, 112, 92)  # the box and a quarter of its sides


class Recorder(torch.nn.Module):
    """Keeps what it reads, and answers with a mask whose logits are the region's rows."""

    def forward(self, inputs: RegionInputs) -> torch.Tensor:
        self.inputs = inputs
        rows = torch.linspace(-1, 1, 64)[None, :, None]
        return rows.expand(len(inputs.dense), -1, 64)


@pytest.fixture
def seen() -> dict[str, torch.Tensor]:
    """A smooth image, maps of two sides, and a mask that is likeliest on the right of its box."""
    ramp = torch.linspace(0, 1, SIZE)
    rgb = torch.stack([ramp[None].expand(SIZE, -1), ramp[:, None].expand(-1, SIZE), torch.full((SIZE, SIZE), 0.5)])
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    inside = (x >= 40) & (x < 90) & (y >= 36) & (y < 76)
    logits = torch.where(inside, 0.05 + 0.05 * (x - 40), torch.full((), -6.0))
    maps = [torch.rand(1, 4, 32, 32), torch.rand(1, 6, 16, 16)]
    return {"rgb": rgb[None], "logits": logits[None].float(), "fine": maps[0], "coarse": maps[1]}


def refined(seen: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, RegionInputs]:
    refiner = Recorder()
    index, hw = torch.zeros(1, dtype=torch.long), torch.tensor([[SIZE, SIZE]])
    maps = [seen["fine"], seen["coarse"]]
    logits, near = refine_instances(refiner, seen["rgb"], maps, seen["logits"], torch.tensor([BOX]), hw, index)
    return logits[0], near[0], refiner.inputs


def test_the_region_is_read_as_a_users_prompts_are(seen) -> None:
    """Pixels, previous mask, box and features are those of the box and a click there, but for resampling."""
    _, _, own = refined(seen)
    x, y = (own.points[0, 0] * torch.tensor([96.0, 72.0]) + torch.tensor([16.0, 20.0])).tolist()
    box = Prompts.read(box=(BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1]), original_hw=(SIZE, SIZE))
    prompts = box.followed_by(Prompts(((x, y),), (FOREGROUND,)))
    pixels = (seen["rgb"][0] * 255).to(torch.uint8)
    maps = [seen["fine"][0], seen["coarse"][0]]
    like = region_inputs(pixels, maps, seen["logits"][0] > 0, prompts, REGION)
    assert own.labels.tolist() == like.labels.tolist()
    torch.testing.assert_close(own.points, like.points, atol=1e-5, rtol=0)
    torch.testing.assert_close(own.fine, like.fine, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(own.coarse, like.coarse, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(own.dense[:, 4:], like.dense[:, 4:], atol=1e-3, rtol=0)  # bumps and box
    assert (own.dense[:, :3] - like.dense[:, :3]).abs().max() < 0.1
    assert (own.dense[:, 3] - like.dense[:, 3]).abs().mean() < 0.05


def test_the_point_is_in_the_likeliest_part(seen) -> None:
    _, _, own = refined(seen)
    x, y = (own.points[0, 0] * torch.tensor([96.0, 72.0]) + torch.tensor([16.0, 20.0])).tolist()
    assert 74 < x < 90
    assert 40 < y < 72


def test_the_result_lies_in_the_region(seen) -> None:
    logits, near, _ = refined(seen)
    rows, columns = (np.flatnonzero(near.any(dim=dim).numpy()) for dim in (1, 0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (
        REGION.top,
        REGION.bottom - 1,
        REGION.left,
        REGION.right - 1,
    )
    assert logits[REGION.top, 60] < -0.9
    assert logits[REGION.bottom - 1, 60] > 0.9


def test_pixels_are_restored() -> None:
    rgb = torch.rand(2, 3, 4, 5) * 255
    network = NanoDet(2)
    torch.testing.assert_close(network.restore(network.normalise(rgb)), rgb, atol=1e-3, rtol=0)
