"""LISA over the encoder of pixellm-mini, for comparisons on a CPU: SAM's mask decoder without SAM's encoder."""

from typing import Any

from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig

from pixellm.baselines.lisa.configuration import PUBLISHED, sam_mask_decoder
from pixellm.baselines.lisa.modeling import SamPixelDecoder
from pixellm.mini.configuration import MiniConfig
from pixellm.mini.losses import MiniLossWeights
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.model import PixelLMImageProcessor, PixelLMProcessor


class MiniLisaConfig(MiniConfig):
    """pixellm-mini with one token [SEG] a target, whose state prompts SAM's mask decoder.

    Args:
        sam_decoder_config: SAM's mask decoder; its width is `decoder_dim`.
        kwargs: fields of `MiniConfig`.
    """

    model_type = "pixellm_mini_lisa"
    sub_configs = MiniConfig.sub_configs | {"sam_decoder_config": SamMaskDecoderConfig}

    def __init__(self, sam_decoder_config: SamMaskDecoderConfig | dict | None = None, **kwargs: Any) -> None:
        self.sam_decoder_config = sam_mask_decoder(sam_decoder_config)
        super().__init__(**PUBLISHED | {"decoder_dim": self.sam_decoder_config.hidden_size} | kwargs)

    @property
    def decoder_grids(self) -> list[int]:
        """Side of the map that SAM's mask decoder reads."""
        return self.vision_config.grid_sizes[-1:]


class MiniLisaForConditionalGeneration(MiniForConditionalGeneration):
    config_class = MiniLisaConfig
    pixel_decoder_class = SamPixelDecoder

    @property
    def default_loss_weights(self) -> MiniLossWeights:
        return MiniLossWeights(overlap=1.0)  # no target refinement

    def freeze_constants(self) -> None:
        self.codebook.token_weights.requires_grad_(False)
        self.pixel_decoder.no_mask_embed.requires_grad_(False)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SamPixelDecoder):
            nn.init.normal_(module.frequencies)


AutoConfig.register(MiniLisaConfig.model_type, MiniLisaConfig)
AutoModel.register(MiniLisaConfig, MiniLisaForConditionalGeneration)
AutoProcessor.register(MiniLisaConfig, PixelLMProcessor)
AutoImageProcessor.register(MiniLisaConfig, slow_image_processor_class=PixelLMImageProcessor)
