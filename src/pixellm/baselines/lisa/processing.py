"""Image processor of LISA: the whole image for SAM, its centre for CLIP."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from pixellm.model import PixelLMImageProcessor


class LisaImageProcessor(PixelLMImageProcessor):
    """Letterbox for SAM, and for CLIP the shortest side to `context_size` with the centre cut out.

    Args:
        image_size: side of SAM's square in pixels.
        context_size: side of CLIP's.
        context_mean, context_std: of CLIP's RGB in 0..1.
        kwargs: further arguments of `PixelLMImageProcessor`.
    """

    model_input_names = ["pixel_values", "resized_hw", "context_pixel_values"]  # noqa: RUF012

    def __init__(
        self,
        image_size: int = 1024,
        context_size: int = 224,
        context_mean: Sequence[float] = OPENAI_CLIP_MEAN,
        context_std: Sequence[float] = OPENAI_CLIP_STD,
        **kwargs,
    ) -> None:
        super().__init__(image_size, **kwargs)
        self.context_size = context_size
        self.context_mean, self.context_std = list(context_mean), list(context_std)

    def preprocess(self, images: Sequence[Image.Image], **kwargs) -> BatchFeature:
        """RGB images → also `context_pixel_values` (B, 3, s, s) fp32."""
        features = super().preprocess(images, **kwargs)
        features["context_pixel_values"] = torch.stack([self._middle(image) for image in images])
        return features

    def _middle(self, image: Image.Image) -> Tensor:
        """Resize and crop like CLIP's own processor."""
        size = self.context_size
        short, long = sorted(image.size)
        other = int(size * long / short)
        width, height = (size, other) if image.width <= image.height else (other, size)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        pixels = np.asarray(resized.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
        pixels = (pixels - np.float32(self.context_mean)) / np.float32(self.context_std)
        return torch.from_numpy(pixels).permute(2, 0, 1)
