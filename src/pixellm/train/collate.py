"""Samples → what the model's forward pass takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pixellm.baselines.seem import SeemProcessor
from pixellm.model import PixelLMProcessor
from pixellm.types import Sample


@dataclass(frozen=True)
class Collator:
    """Samples → the model's keyword arguments; rows of more than `max_length` tokens are shortened."""

    processor: PixelLMProcessor | SeemProcessor
    max_length: int | None = None

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor | list[Tensor]]:
        batch = self.processor(samples, self.max_length)
        return {name: value for name, value in vars(batch).items() if value is not None}
