"""PixelLM as a kind of model that is trained; its variants override what is different."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from torch import Tensor
from transformers import AddedToken, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pixellm.inference.quantization import FROZEN_LAYERS
from pixellm.model import PixelLMConfig, PixelLMForConditionalGeneration, PixelLMImageProcessor, PixelLMProcessor
from pixellm.model.losses import LossWeights
from pixellm.model.processing import add_codebook_tokens
from pixellm.model.templates import CHATML, IMAGE_MARKERS, VICUNA
from pixellm.predictor import Predictor
from pixellm.train.model_kind import Parts, Tuning, has_tied_embeddings
from pixellm.train.pretrained_parts import (
    encoder_weights,
    language_config,
    load_fitting,
    load_language_model,
    vision_settings,
    with_text_settings,
)
from pixellm.train.recipe import AdapterConfig, check_names
from pixellm.types import Segmenter

EMBEDDINGS = ("embed_tokens", "lm_head")
# Settings for a few images: the adapters' weights are many, and pretrained.
TUNING_RATES = {"lora_": 2e-4}


class PixelLMKind:
    """See `ModelKind`.

    A variant overrides `part_settings`, `image_processor`, and what it trains.
    """

    config_class: type[PixelLMConfig] = PixelLMConfig
    processor_class = PixelLMProcessor
    shardable = True
    keeps_features = True

    def describe(self, preset: PixelLMConfig, parts: Parts) -> tuple[PixelLMConfig, PixelLMProcessor]:
        vision, mean, std = vision_settings(parts.vision_model, preset.vision_config)
        vision |= parts.settings.get("vision_config", {})
        tokenizer = AutoTokenizer.from_pretrained(parts.language_model)
        settings = preset.to_dict() | dict(parts.settings)
        tokens = add_codebook_tokens(tokenizer, settings["num_scales"] * settings["tokens_per_scale"])
        template = CHATML if "<|im_start|>" in tokenizer.get_vocab() else VICUNA
        if template is VICUNA:
            absent = [token for token in IMAGE_MARKERS if token not in tokenizer.get_vocab()]
            tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in absent])
        text = language_config(parts.language_model)
        text.vocab_size = max(text.vocab_size, len(tokenizer))
        settings |= self.part_settings(preset, parts, tokenizer, vision)
        settings |= {
            "text_config": with_text_settings(text.to_dict(), parts.settings.get("text_config", {})),
            "vision_config": vision,
            "codebook_ids": tokenizer.convert_tokens_to_ids(tokens),
        }
        config = type(preset).from_dict(settings)
        image_processor = self.image_processor(config, mean, std)
        return config, PixelLMProcessor(image_processor, tokenizer, tokens, config.num_image_tokens, **template)

    def part_settings(
        self, preset: Any, parts: Parts, tokenizer: PreTrainedTokenizerBase, vision: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the fields of the configuration that follow from the parts.

        Args:
            preset: configuration of the preset.
            parts: the pretrained parts.
            tokenizer: of the language model.
            vision: fields of the vision encoder's configuration.
        """
        if parts.sam_model:
            raise ValueError(f"initialise: expected no sam_model with this preset, got {parts.sam_model}.")
        return {}

    def image_processor(self, config: Any, mean: Sequence[float], std: Sequence[float]) -> PixelLMImageProcessor:
        """Return the image settings; `mean` and `std` are those of the vision encoder's RGB in 0..1."""
        return PixelLMImageProcessor(config.vision_config.image_size, mean, std)

    def load_parts(self, model: PixelLMForConditionalGeneration, parts: Parts) -> None:
        load_language_model(model, parts.language_model)
        state = encoder_weights(parts.vision_model, model, shifted=model.config.compat == "released")
        state |= self.part_weights(parts)
        load_fitting(model, state, self.pretrained_prefixes(parts), parts.vision_model)

    def part_weights(self, parts: Parts) -> dict[str, Tensor]:
        """Return the weights of further parts under the model's names."""
        return {}

    def pretrained_prefixes(self, parts: Parts) -> tuple[str, ...]:
        """Return prefixes of the weights that the parts must have."""
        return ("vision_encoder.",)

    def trained_parts(self, config: Any) -> tuple[str, ...]:
        return ("llm_projector", "pixel_projector", "neck", "codebook", "pixel_decoder")

    def tuning(self, config: Any) -> Tuning:
        return Tuning(("codebook", "pixel_decoder", "pixel_projector", "neck"), TUNING_RATES)

    def text_module(self, model: PixelLMForConditionalGeneration) -> PreTrainedModel:
        return model.language_model

    def add_adapters(self, model: PixelLMForConditionalGeneration, adapters: AdapterConfig) -> None:
        """Insert LoRA in the language model, and rows of its embedding tables that train alone; rank 0: unfreeze it."""
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import Linear

        model.freeze_constants()
        if adapters.rank == 0:
            model.text_model.requires_grad_(True)
            model.get_output_embeddings().requires_grad_(True)
            return
        tied = has_tied_embeddings(model)
        rows = {name: model.config.codebook_ids for name in (EMBEDDINGS[:1] if tied else EMBEDDINGS)}
        config = LoraConfig(
            r=adapters.rank,
            lora_alpha=adapters.alpha,
            lora_dropout=adapters.dropout,
            target_modules=self.adapter_targets(model, adapters),
            trainable_token_indices=rows,
        )
        config._register_custom_module(dict.fromkeys(FROZEN_LAYERS, Linear))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unsupported layer type")  # they have what peft reads
            inject_adapter_in_model(config, self.text_module(model))

    def adapter_targets(self, model: PixelLMForConditionalGeneration, adapters: AdapterConfig) -> list[str] | str:
        """Return the names of the linear layers that get an adapter, or a regular expression of them."""
        return list(adapters.targets)

    def codebook_ids(self, config: PixelLMConfig) -> list[int]:
        return config.codebook_ids

    def num_prefix_tokens(self, processor: PixelLMProcessor) -> int:
        return len(processor.prefix_ids)

    def loss_weights(self, model: PixelLMForConditionalGeneration, changes: Mapping[str, float]) -> LossWeights:
        check_names(changes, {field.name for field in fields(model.default_loss_weights)}, "stage: losses: ")
        return replace(model.default_loss_weights, **changes)

    def segmenter(
        self, model: PixelLMForConditionalGeneration, processor: PixelLMProcessor, max_new_tokens: int
    ) -> Segmenter:
        return Predictor(model, processor, sampling={"max_new_tokens": max_new_tokens})
