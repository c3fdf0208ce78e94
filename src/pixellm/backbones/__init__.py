"""Any vision-language model of transformers as PixelLM's vision encoder and language model: one adapter a family."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from pixellm.backbones.configuration import BackboneConfig
from pixellm.backbones.modeling import BackboneForConditionalGeneration
from pixellm.backbones.processing import BackboneProcessor

AutoConfig.register("pixellm_backbone", BackboneConfig)
AutoModel.register(BackboneConfig, BackboneForConditionalGeneration)
AutoProcessor.register(BackboneConfig, BackboneProcessor)

__all__ = ["BackboneConfig", "BackboneForConditionalGeneration", "BackboneProcessor"]
