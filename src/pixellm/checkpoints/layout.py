"""Layout of a kind of released checkpoint, and the report of a conversion."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import LlamaTokenizer

from pixellm.model.configuration import PixelLMConfig
from pixellm.model.modeling import PixelLMForConditionalGeneration
from pixellm.model.processing import PixelLMImageProcessor


@dataclass(frozen=True)
class Layout:
    """Names and settings of a kind of released checkpoint, and the model that it becomes.

    Args:
        name: name of the model, for messages.
        prefix: some weights' names begin with it, in this layout alone.
        extend: adds to a base model's tokenizer, where a checkpoint came without its own, the tokens that the rows
            (their number) of the embedding table are for.
        renamed: pattern of released names → ours; the first that matches wins.
        dropped: pattern of the weights that are stored but never read.
        config: settings of the checkpoint and of CLIP, tokenizer and state → our configuration.
        image_processor: our configuration → image settings.
        constants: our configuration → values of our keys that are no weights of the released model.
        model: class of the model.
    """

    name: str
    prefix: str
    extend: Callable[[LlamaTokenizer, int], None]
    renamed: list[tuple[str, str]]
    dropped: re.Pattern
    config: "Callable[[dict[str, Any], dict[str, Any], LlamaTokenizer, dict[str, Tensor]], PixelLMConfig]"
    image_processor: Callable[[PixelLMConfig], PixelLMImageProcessor]
    constants: Callable[[PixelLMConfig], dict[str, Tensor]]
    model: type[PixelLMForConditionalGeneration]


@dataclass
class ConversionReport:
    """Keys of a released checkpoint by what became of them.

    Args:
        used: released key (or CLIP's) → ours.
        dropped: released keys that no part of the model of this configuration reads.
        unknown: keys that no layout knows; left out, too.
        missing: our keys without a value, so that the model cannot be complete.
        mismatched: our key → (expected, got) shapes.
        constants: our keys written from the released code's constants.
    """

    used: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.mismatched or self.unknown)

    def faults(self, name: str) -> str:
        """Return, in a sentence, why a checkpoint of the model called `name` can't be used."""
        groups = {
            "keys missing": self.missing,
            "keys unknown": self.unknown,
            "keys of the wrong shape": list(self.mismatched),
        }
        counts = [
            f"{len(keys)} {label} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
            for label, keys in groups.items()
            if keys
        ]
        return "; ".join(counts) + f". Is it a {name} checkpoint, with the CLIP that it was trained with?"

    def lines(self) -> Iterator[str]:
        """Yield a line for each group of keys."""
        yield f"used {len(self.used)} keys"
        if self.constants:
            yield f"written from the released code's constants: {', '.join(self.constants)}"
        for label, keys in (("dropped", self.dropped), ("unknown", self.unknown), ("missing", self.missing)):
            yield f"{label} {len(keys)} keys" + (f": {', '.join(keys)}" if keys else "")
        for key, (expected, got) in self.mismatched.items():
            yield f"{key}: expected shape {expected}, got {got}"
