"""Idefics3, SmolVLM and SmolVLM2: square tiles of the stretched image, then a view of the whole; no class token."""

from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from pixellm.backbones.adapter import Adapter, ImageLoad, View, stitch, tile_maps


class SmolVlmAdapter(Adapter):
    model_types: ClassVar[tuple[str, ...]] = ("smolvlm", "idefics3")
    pixel_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_attention_mask")

    def view(self, processor: Any, image: Image.Image, pixels: Mapping[str, Tensor]) -> View:
        # The processor keeps rows and columns to itself, and its count of them differs from what it does (5.23).
        layout = processor.image_processor([image], return_row_col_info=True, return_tensors="pt")
        rows, columns = (max(1, int(layout[name][0][0])) for name in ("rows", "cols"))
        return View(pixels, (image.height, image.width), (rows, columns))

    def image_load(self, config: Any) -> ImageLoad:
        tiles = 4 * 3 + 1  # as the released processors make them
        cells = self.default_grid(config) ** 2
        return ImageLoad(tiles, cells, tiles * cells // config.scale_factor**2)

    def raster(self, model: Any, states: Tensor, view: View) -> Tensor:
        return stitch(tile_maps(states), view.tiles)
