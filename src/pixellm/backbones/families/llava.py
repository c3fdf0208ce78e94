"""LLaVA 1.5: one square view, from CLIP (with a class token) or SigLIP (without)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from pixellm.backbones.adapter import Adapter, ImageLoad, View, tile_maps


class LlavaAdapter(Adapter):
    model_types: ClassVar[tuple[str, ...]] = ("llava",)

    def view(self, processor: Any, image: Image.Image, pixels: Mapping[str, Tensor]) -> View:
        """Return the language model's view, or the padded image where that one is cropped to the middle."""
        settings = processor.image_processor
        cropped = settings.do_center_crop or getattr(settings, "do_pad", False)
        if not cropped or image.width == image.height:
            return View(pixels, (image.height, image.width))
        side = max(image.size)
        mean = tuple(round(255 * channel) for channel in settings.image_mean)
        square = Image.new("RGB", (side, side), mean)
        square.paste(image)
        return View({"pixel_values": settings(square, return_tensors="pt")["pixel_values"]}, (side, side))

    def image_load(self, config: Any) -> ImageLoad:
        cells = self.default_grid(config) ** 2
        return ImageLoad(1, cells + config.vision_config.model_type.startswith("clip"), cells)

    def raster(self, model: Any, states: Tensor, view: View) -> Tensor:
        return tile_maps(states)[0]
