"""LLaVA-OneVision: the whole image stretched to a square, then tiles of the image padded on all sides.

The pixel decoder reads the first, whose cells are exact; the borders of the padding need not be those of cells.
"""

from typing import Any, ClassVar

from torch import Tensor

from pixellm.backbones.adapter import Adapter, View, tile_maps


class LlavaOnevisionAdapter(Adapter):
    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    pixel_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")

    def feature_arguments(self, config: Any) -> dict[str, Any]:
        return {
            "vision_feature_layer": config.vision_feature_layer,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "vision_aspect_ratio": config.vision_aspect_ratio,
        }

    def raster(self, model: Any, states: Tensor, view: View) -> Tensor:
        return tile_maps(states)[0]
