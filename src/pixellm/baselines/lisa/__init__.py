"""LISA, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from pixellm.baselines.lisa.configuration import LisaConfig
from pixellm.baselines.lisa.modeling import LisaForConditionalGeneration
from pixellm.baselines.lisa.processing import LisaImageProcessor
from pixellm.model import PixelLMProcessor

AutoConfig.register(LisaConfig.model_type, LisaConfig)
AutoModel.register(LisaConfig, LisaForConditionalGeneration)
AutoProcessor.register(LisaConfig, PixelLMProcessor)
AutoImageProcessor.register(LisaConfig, LisaImageProcessor, LisaImageProcessor)

__all__ = ["LisaConfig", "LisaForConditionalGeneration", "LisaImageProcessor"]
