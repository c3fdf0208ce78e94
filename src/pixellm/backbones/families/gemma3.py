"""Gemma 3: one square view, stretched, without a class token; image tokens see each other in the language model.

With pan-and-scan the language model sees crops, too; the pixel decoder reads the first view, which is the whole image.
"""

from typing import Any, ClassVar

from torch import Tensor

from pixellm.backbones.adapter import Adapter, ImageLoad, View, tile_maps


class Gemma3Adapter(Adapter):
    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    bidirectional: ClassVar[bool] = True

    def image_load(self, config: Any) -> ImageLoad:
        return ImageLoad(1, self.default_grid(config) ** 2, config.mm_tokens_per_image)

    def raster(self, model: Any, states: Tensor, view: View) -> Tensor:
        return tile_maps(states)[0]
