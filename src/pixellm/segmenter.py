"""Whatever answers questions about photographs, by one name: PixelLM and the baselines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

import pixellm.baselines.lisa  # noqa: F401, so that transformers knows it
from pixellm import hub
from pixellm.baselines.seem import SeemConfig, SeemForGrounding, SeemPredictor
from pixellm.predictor import Predictor
from pixellm.types import Segmenter


def load_segmenter(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    sampling: Mapping[str, Any] | None = None,
) -> Segmenter:
    """A trained model, ready to be asked.

    Args:
        name: see `pixellm.hub.resolve`.
        device: where it runs.
        dtype: in which precision.
        sampling: how its answers are written, see `pixellm.model.generation.Sampling`; None: as it does by itself.

    Raises:
        ValueError: no such model, a directory that does not hold one, or `sampling` for one that writes nothing.
    """
    directory = hub.resolve(name)
    if not isinstance(AutoConfig.from_pretrained(directory), SeemConfig):
        return Predictor.load(directory, device, dtype, sampling=sampling)
    if sampling:
        raise ValueError(
            f"expected no {', '.join(sampling)} for {name}, which is SEEM-style: it writes no text. Leave that out."
        )
    return SeemPredictor.load(directory, device, dtype)


def segmenter_of(model: PreTrainedModel, processor: Any, sampling: Mapping[str, Any] | None = None) -> Segmenter:
    """What asks a model that is here already; `sampling`, as above, is for those that write."""
    if isinstance(model, SeemForGrounding):
        return SeemPredictor(model, processor)
    return Predictor(model, processor, sampling=sampling)
