"""SAM's encoding of visual prompts (arXiv 2304.02643, appendix A) as tokens.

A point is the random Fourier code of its place plus a learned embedding of its label. A previous mask is no token:
whoever decodes reads it beside the image's features.

Shapes:  T targets · P prompt points · C width
"""

import math

import torch
from torch import Tensor, nn

from pixellm.imaging.visual_prompts import BOTTOM_RIGHT, NOTHING


class VisualPromptEncoder(nn.Module):
    """Encode prompt points as tokens: random Fourier code of the place plus the label's embedding, as in SAM.

    Args:
        dim: C, even.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, dim // 2))
        self.labels = nn.Embedding(BOTTOM_RIGHT + 1, dim)
        self.nothing = nn.Parameter(torch.zeros(dim))
        nn.init.normal_(self.labels.weight, std=0.1)

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        """Encode points (T, P, 2), x and y in 0..1 of the region that is decoded, with labels (T, P) → (T, P, C)."""
        angle = 2 * math.pi * ((2 * points.to(self.frequencies.dtype) - 1) @ self.frequencies)
        code = torch.cat([angle.sin(), angle.cos()], dim=-1) + self.labels(labels.clamp(min=0))
        return torch.where((labels == NOTHING)[..., None], self.nothing, code)
