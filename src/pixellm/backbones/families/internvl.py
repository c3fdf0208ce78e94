"""InternVL 3 and 3.5: square tiles of the stretched image, row by row, then a thumbnail; each with a class token."""

from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from pixellm.backbones.adapter import Adapter, ImageLoad, View, stitch, tile_maps


class InternVlAdapter(Adapter):
    model_types: ClassVar[tuple[str, ...]] = ("internvl",)

    def view(self, processor: Any, image: Image.Image, pixels: Mapping[str, Tensor]) -> View:
        settings = processor.image_processor
        rows = columns = 1
        if len(pixels["pixel_values"]) > 1:
            tile = (settings.size["height"], settings.size["width"])
            size = (image.height, image.width)
            columns, rows = get_optimal_tiled_canvas(size, tile, settings.min_patches, settings.max_patches)
        return View(pixels, (image.height, image.width), (rows, columns))

    def feature_arguments(self, config: Any) -> dict[str, Any]:
        return {
            "vision_feature_layer": config.vision_feature_layer,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
        }

    def image_load(self, config: Any) -> ImageLoad:
        tiles = 4 * 3 + 1  # as the released processors make them
        return ImageLoad(tiles, self.default_grid(config) ** 2 + 1, tiles * config.image_seq_length)

    def raster(self, model: Any, states: Tensor, view: View) -> Tensor:
        return stitch(tile_maps(states), view.tiles)
