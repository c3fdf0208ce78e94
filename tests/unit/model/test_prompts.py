"""Encoding of visual prompts by formula."""

import math

import torch

from pixellm.imaging.visual_prompts import FOREGROUND, NOTHING, TOP_LEFT
from pixellm.model.prompts import VisualPromptEncoder


def test_encoding_by_formula():
    torch.manual_seed(0)
    encoder = VisualPromptEncoder(8)
    points = torch.tensor([[[0.25, 0.75], [0.5, 0.5], [0.0, 0.0]]])
    tokens = encoder(points, torch.tensor([[FOREGROUND, TOP_LEFT, NOTHING]]))
    angle = 2 * math.pi * (-0.5 * encoder.frequencies[0] + 0.5 * encoder.frequencies[1])
    code = torch.cat([angle.sin(), angle.cos()])
    torch.testing.assert_close(tokens[0, 0], code + encoder.labels.weight[FOREGROUND])
    centre = torch.cat([torch.zeros(4), torch.ones(4)])  # of the region
    torch.testing.assert_close(tokens[0, 1], centre + encoder.labels.weight[TOP_LEFT])
    assert torch.equal(tokens[0, 2], encoder.nothing)
