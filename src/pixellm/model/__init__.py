"""The model: configuration, assembly, processing and decoding, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from pixellm.model.configuration import PixelLMConfig, PixelLMVisionConfig
from pixellm.model.modeling import PixelLMForConditionalGeneration
from pixellm.model.processing import PixelLMImageProcessor, PixelLMProcessor

AutoConfig.register("pixellm", PixelLMConfig)
AutoModel.register(PixelLMConfig, PixelLMForConditionalGeneration)
AutoProcessor.register(PixelLMConfig, PixelLMProcessor)
AutoImageProcessor.register(PixelLMConfig, slow_image_processor_class=PixelLMImageProcessor)

__all__ = [
    "PixelLMConfig",
    "PixelLMForConditionalGeneration",
    "PixelLMImageProcessor",
    "PixelLMProcessor",
    "PixelLMVisionConfig",
]
