"""Gemma 3: one square view, stretched, without a class token; image tokens see each other in the language model.

With pan-and-scan the language model sees crops, too; the pixel decoder reads the first view, which is the whole image.
"""

from typing import Any, ClassVar

from torch import Tensor

from pixellm.backbones.adapter import Adapter, View, tile_maps


class Gemma3Adapter(Adapter):
    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    bidirectional: ClassVar[bool] = True

    def raster(self, model: Any, states: Tensor, view: View) -> Tensor:
        return tile_maps(states)[0]
