"""The model: configuration, assembly, processing and decoding, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from pixellm.model.configuration import PixelLMConfig, PixelLMVisionConfig
from pixellm.model.modeling import PixelLMForConditionalGeneration
from pixellm.model.processing import PixelLMImageProcessor, PixelLMProcessor

AutoConfig.register("pixellm", PixelLMConfig)
AutoModel.register(PixelLMConfig, PixelLMForConditionalGeneration)
AutoProcessor.register(PixelLMConfig, PixelLMProcessor)
# For both backends: it has no other, and transformers would warn that it falls back to this one.
AutoImageProcessor.register(PixelLMConfig, PixelLMImageProcessor, PixelLMImageProcessor)

__all__ = [
    "PixelLMConfig",
    "PixelLMForConditionalGeneration",
    "PixelLMImageProcessor",
    "PixelLMProcessor",
    "PixelLMVisionConfig",
]
