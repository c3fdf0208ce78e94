"""The embedded default, and LISA over its encoder, as kinds of model that are trained."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from pixellm.baselines.lisa.kind import LisaKind
from pixellm.mini.build import form_ids
from pixellm.train.model_kind import Parts, Tuning
from pixellm.train.pixellm_kind import PixelLMKind

PART = "word_mix"
# The map to categories reads large states: a higher rate destroys what it has learned (docs/LOG.md).
TUNING_RATES = {f"{PART}.to_names": 1e-5}


class MiniKind(PixelLMKind):
    """PixelLM with a dense classifier."""

    shardable = False  # the embeddings of its categories are read where no layer runs

    def matches(self, config: Any) -> bool:
        return super().matches(config) and bool(config.vision_config.vocabulary)

    def part_settings(
        self, preset: Any, parts: Parts, tokenizer: PreTrainedTokenizerBase, vision: Mapping[str, Any]
    ) -> dict[str, Any]:
        return super().part_settings(preset, parts, tokenizer, vision) | vocabulary_settings(tokenizer, vision)

    def trained_parts(self, config: Any) -> tuple[str, ...]:
        return (*super().trained_parts(config), PART)

    def tuning(self, config: Any) -> Tuning:
        return with_classes(super().tuning(config))


class MiniLisaKind(LisaKind):
    """LISA's mask decoder over the encoder of the embedded default, without a SAM."""

    shardable = False

    def matches(self, config: Any) -> bool:
        return super().matches(config) and bool(config.vision_config.vocabulary)

    def part_settings(
        self, preset: Any, parts: Parts, tokenizer: PreTrainedTokenizerBase, vision: Mapping[str, Any]
    ) -> dict[str, Any]:
        return super().part_settings(preset, parts, tokenizer, vision) | vocabulary_settings(tokenizer, vision)

    def trained_parts(self, config: Any) -> tuple[str, ...]:
        return (*super().trained_parts(config), PART)

    def tuning(self, config: Any) -> Tuning:
        return with_classes(super().tuning(config))


def vocabulary_settings(tokenizer: PreTrainedTokenizerBase, vision: Mapping[str, Any]) -> dict[str, Any]:
    """Return the token ids of the classifier's categories."""
    return {"vocabulary_ids": [form_ids(tokenizer, name) for name in vision["vocabulary"]]}


def with_classes(tuning: Tuning) -> Tuning:
    """Train the class embeddings' part, too."""
    return Tuning((*tuning.trained, PART), {**tuning.rates, **TUNING_RATES})
