"""LISA's settings: those of PixelLM with one token a target, and a SAM."""

from typing import Any

from transformers import PreTrainedConfig, SamVisionConfig
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig

from pixellm.model import PixelLMConfig, PixelLMVisionConfig

PUBLISHED = {
    "num_scales": 1,
    "tokens_per_scale": 1,
    "own_state": False,  # [SEG] is read from the state that predicts it
    "learned_fusion": False,
    "projector_ratio": 0.0,  # one linear layer
}


def sam_mask_decoder(config: SamMaskDecoderConfig | dict | None) -> SamMaskDecoderConfig:
    """Return SAM's mask decoder config with the eps that SAM was trained with, which is not transformers' default."""
    if isinstance(config, SamMaskDecoderConfig):
        return config
    return SamMaskDecoderConfig(**{"layer_norm_eps": 1e-5, **(config or {})})


class LisaConfig(PixelLMConfig):
    """All of LISA (arXiv 2308.00692): `vision_config` is what the language model reads.

    Args:
        sam_vision_config: SAM's image encoder (transformers' `SamVisionConfig` or its fields); None: there is none, and
            SAM's mask decoder reads the finest map of the vision encoder, through PixelLM's neck.
        sam_decoder_config: SAM's mask decoder; its width is `decoder_dim`.
        vision_config, text_config: see `PixelLMConfig`.
        kwargs: fields of `PixelLMConfig`; by default those of the paper (`PUBLISHED`).
    """

    model_type = "pixellm-lisa"
    sub_configs = PixelLMConfig.sub_configs | {
        "sam_vision_config": SamVisionConfig,
        "sam_decoder_config": SamMaskDecoderConfig,
    }

    def __init__(
        self,
        sam_vision_config: SamVisionConfig | dict | None = None,
        sam_decoder_config: SamMaskDecoderConfig | dict | None = None,
        vision_config: PixelLMVisionConfig | dict | None = None,
        text_config: PreTrainedConfig | dict | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(sam_vision_config, dict):
            sam_vision_config = SamVisionConfig(**sam_vision_config)
        sam_decoder_config = sam_mask_decoder(sam_decoder_config)
        self.sam_vision_config, self.sam_decoder_config = sam_vision_config, sam_decoder_config
        settings = PUBLISHED | {"decoder_dim": sam_decoder_config.hidden_size} | kwargs
        super().__init__(vision_config, text_config, **settings)
        self._validate_sam()

    def _validate_sam(self) -> None:
        if self.num_scales != 1 or self.tokens_per_scale != 1:
            raise ValueError(
                f"expected one [SEG] a target, got num_scales {self.num_scales} and tokens_per_scale "
                f"{self.tokens_per_scale}. Several are what PixelLM adds to LISA."
            )
        widths = {
            "decoder_dim": self.decoder_dim,
            "sam_decoder_config.hidden_size": self.sam_decoder_config.hidden_size,
        }
        if self.sam_vision_config is not None:
            widths["sam_vision_config.output_channels"] = self.sam_vision_config.output_channels
        if len(set(widths.values())) > 1:
            raise ValueError(f"expected the same width of prompts and maps, got {widths}.")

    @property
    def decoder_grids(self) -> list[int]:
        """Side of the map that SAM's mask decoder reads."""
        sam = self.sam_vision_config
        return self.vision_config.grid_sizes[-1:] if sam is None else [sam.image_size // sam.patch_size]
