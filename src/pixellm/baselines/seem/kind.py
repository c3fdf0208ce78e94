"""SEEM-style as a kind of model that is trained: an encoder, and the first layers of a language model for phrases."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from pixellm.baselines.seem.configuration import SeemConfig
from pixellm.baselines.seem.modeling import SeemForGrounding
from pixellm.baselines.seem.predictor import SeemPredictor
from pixellm.baselines.seem.processing import SeemProcessor
from pixellm.model import PixelLMImageProcessor
from pixellm.train.model_kind import Parts, Tuning
from pixellm.train.pretrained_parts import (
    encoder_weights,
    language_config,
    load_fitting,
    vision_settings,
    with_text_settings,
)
from pixellm.train.recipe import AdapterConfig, check_names


class SeemKind:
    """See `ModelKind`."""

    config_class = SeemConfig
    processor_class = SeemProcessor
    shardable = True
    keeps_features = False

    def describe(self, preset: SeemConfig, parts: Parts) -> tuple[SeemConfig, SeemProcessor]:
        text = language_config(parts.language_model).get_text_config().to_dict()
        layers = {"num_hidden_layers": preset.text_config.num_hidden_layers}
        vision, mean, std = vision_settings(parts.vision_model, preset.vision_config)
        own = {"image_size": preset.vision_config.image_size}
        settings = {
            "text_config": with_text_settings(text, layers | dict(parts.settings.get("text_config", {}))),
            "vision_config": vision | own | dict(parts.settings.get("vision_config", {})),
        }
        config = SeemConfig.from_dict(preset.to_dict() | dict(parts.settings) | settings)
        image_processor = PixelLMImageProcessor(config.vision_config.image_size, mean, std)
        tokenizer = AutoTokenizer.from_pretrained(parts.language_model)
        return config, SeemProcessor(image_processor, tokenizer, config.max_tokens)

    def load_parts(self, model: SeemForGrounding, parts: Parts) -> None:
        loaded: Any = AutoModel.from_pretrained(
            parts.language_model, config=model.config.text_config, dtype="auto", output_loading_info=True
        )
        base, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"{parts.language_model}: expected a text encoder of the recipe's sizes, got one without {missing[0]}."
            )
        model.text_encoder.to(base.dtype).load_state_dict(base.state_dict())
        load_fitting(model, encoder_weights(parts.vision_model, model), ("vision_encoder.",), parts.vision_model)

    def trained_parts(self, config: SeemConfig) -> tuple[str, ...]:
        return ("pixel_decoder", "decoder", "text_projection", "logit_scale")

    def tuning(self, config: SeemConfig) -> Tuning:
        return Tuning(self.trained_parts(config))

    def text_module(self, model: SeemForGrounding) -> PreTrainedModel:
        return model.text_encoder

    def add_adapters(self, model: SeemForGrounding, adapters: AdapterConfig) -> None:
        """Insert nothing: no language model answers."""

    def codebook_ids(self, config: SeemConfig) -> Sequence[int]:
        return ()

    def num_prefix_tokens(self, processor: SeemProcessor) -> int:
        return 0

    def loss_weights(self, model: SeemForGrounding, changes: Mapping[str, float]) -> None:
        check_names(changes, (), "stage: losses (SEEM-style has them in its settings): ")

    def segmenter(self, model: SeemForGrounding, processor: SeemProcessor, max_new_tokens: int) -> SeemPredictor:
        return SeemPredictor(model, processor)
