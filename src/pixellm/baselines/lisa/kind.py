"""LISA as a kind of model that is trained, from a pretrained SAM in transformers' format or without one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase, SamConfig

from pixellm.baselines.lisa.configuration import LisaConfig
from pixellm.baselines.lisa.processing import LisaImageProcessor
from pixellm.model import PixelLMImageProcessor
from pixellm.train.model_kind import Parts, Tuning
from pixellm.train.pixellm_kind import TUNING_RATES, PixelLMKind
from pixellm.utils.model_files import read_json
from pixellm.utils.weights import read_weights

TRAINED_WITH_SAM = ("codebook", "pixel_decoder")
# Prefixes of SAM's weights → ours; the rest reads points, boxes and masks.
_SAM_RENAMED = {
    "vision_encoder.": "sam_encoder.",
    "mask_decoder.": "pixel_decoder.mask_decoder.",
    "shared_image_embedding.positional_embedding": "pixel_decoder.frequencies",
    "prompt_encoder.no_mask_embed.weight": "pixel_decoder.no_mask_embed",
}


class LisaKind(PixelLMKind):
    """LISA with a SAM, or SAM's mask decoder over the vision encoder."""

    config_class = LisaConfig
    keeps_features = False

    def part_settings(
        self, preset: LisaConfig, parts: Parts, tokenizer: PreTrainedTokenizerBase, vision: Mapping[str, Any]
    ) -> dict[str, Any]:
        if preset.sam_vision_config is None:
            return super().part_settings(preset, parts, tokenizer, vision)
        if parts.sam_model is None:
            raise ValueError("initialise: expected a sam_model with this preset, got none.")
        return sam_settings(parts.sam_model)

    def image_processor(self, config: LisaConfig, mean: Sequence[float], std: Sequence[float]) -> PixelLMImageProcessor:
        if config.sam_vision_config is None:
            return super().image_processor(config, mean, std)
        return LisaImageProcessor(config.sam_vision_config.image_size, config.vision_config.image_size, mean, std)

    def part_weights(self, parts: Parts) -> dict[str, Tensor]:
        """Return the weights of SAM."""
        weights = {}
        for key, tensor in read_weights(parts.sam_model).items() if parts.sam_model else ():
            prefix = next((prefix for prefix in _SAM_RENAMED if key.startswith(prefix)), None)
            if prefix:
                weights[_SAM_RENAMED[prefix] + key.removeprefix(prefix)] = tensor
        return weights

    def pretrained_prefixes(self, parts: Parts) -> tuple[str, ...]:
        return ("vision_encoder.", *(("sam_encoder.", "pixel_decoder.") if parts.sam_model else ()))

    def trained_parts(self, config: LisaConfig) -> tuple[str, ...]:
        return super().trained_parts(config) if config.sam_vision_config is None else TRAINED_WITH_SAM

    def tuning(self, config: LisaConfig) -> Tuning:
        return super().tuning(config) if config.sam_vision_config is None else Tuning(TRAINED_WITH_SAM, TUNING_RATES)


def sam_settings(directory: Path) -> dict[str, Any]:
    """Return the fields of `LisaConfig` that hold the sizes of a SAM.

    Raises:
        ValueError: the directory holds another model.
    """
    kind = read_json(directory / "config.json").get("model_type")
    if kind != "sam":
        raise ValueError(
            f"sam_model: expected a SAM in transformers' format, got {directory}, a model of type {kind!r}."
        )
    config = SamConfig.from_pretrained(directory)
    decoder = config.mask_decoder_config.to_diff_dict() | {"layer_norm_eps": 1e-5}  # see `LisaConfig`
    return {
        "sam_vision_config": config.vision_config.to_diff_dict(),
        "sam_decoder_config": decoder,
        "decoder_dim": config.mask_decoder_config.hidden_size,
    }
