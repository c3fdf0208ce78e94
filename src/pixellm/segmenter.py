"""Whatever answers questions about photographs, by one name: PixelLM and the baselines."""

from pathlib import Path

import torch

import pixellm.baselines.lisa  # noqa: F401, so that transformers knows it
from pixellm.predictor import Predictor
from pixellm.types import Segmenter


def load_segmenter(
    name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Segmenter:
    """A trained model, ready to be asked.

    Args:
        name: see `pixellm.hub.resolve`.
        device: where it runs.
        dtype: in which precision.

    Raises:
        ValueError: no such model, or a directory that does not hold one.
    """
    return Predictor.load(name, device, dtype)
