"""pixellm-mini, and LISA over its encoder, as kinds of model that are trained."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from pixellm.mini.build import name_forms
from pixellm.mini.configuration import MiniConfig
from pixellm.mini.lisa import MiniLisaConfig
from pixellm.train.model_kind import Parts, Tuning
from pixellm.train.pixellm_kind import PixelLMKind

PARTS = ("class_prompts", "candidate_tokens", "mentions", "pointer")
TUNING_RATES = {"class_prompts.unknown_bias": 0.3}  # it has a long way to go where images teach a new category


class MiniKind(PixelLMKind):
    """PixelLM with a dense classifier."""

    config_class = MiniConfig
    keeps_features = False  # its classifier trains with them
    shardable = False  # the embeddings of its categories are read where no layer runs

    def part_settings(
        self, preset: Any, parts: Parts, tokenizer: PreTrainedTokenizerBase, vision: Mapping[str, Any]
    ) -> dict[str, Any]:
        forms = name_forms(tokenizer, vision["vocabulary"])
        return super().part_settings(preset, parts, tokenizer, vision) | {"vocabulary_ids": forms}

    def trained_parts(self, config: Any) -> tuple[str, ...]:
        parts = super().trained_parts(config)
        if not config.num_candidates:
            return (*parts, *PARTS[:1])
        return (*(part for part in parts if part != "llm_projector"), *PARTS)

    def tuning(self, config: Any) -> Tuning:
        tuning = super().tuning(config)
        return Tuning((*tuning.trained, "class_prompts"), {**tuning.rates, **TUNING_RATES})


class MiniLisaKind(MiniKind):
    """LISA's mask decoder over the encoder of pixellm-mini, without a SAM."""

    config_class = MiniLisaConfig
