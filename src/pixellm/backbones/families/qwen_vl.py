"""Qwen2.5-VL, Qwen3-VL and Qwen3.5: one view of any height and width, tokens in blocks that are merged, M-RoPE.

Qwen2.5-VL's tower works in windows: its states are in the order of the windows, then of the blocks.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from pixellm.backbones.adapter import Adapter, ImageLoad, View

DEFAULT_GRID = 48  # cells of the longer side; these towers have none of their own


class Qwen3VlAdapter(Adapter):
    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl", "qwen3_5")
    pixel_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_grid_thw")

    def num_layers(self, config: Any) -> int:
        return config.vision_config.depth

    def default_grid(self, config: Any) -> int:
        return DEFAULT_GRID

    def image_load(self, config: Any) -> ImageLoad:
        vision = config.vision_config
        block = vision.patch_size * vision.spatial_merge_size
        blocks = round(1024 / block) * round(768 / block)
        return ImageLoad(1, blocks * vision.spatial_merge_size**2, blocks)

    def raster(self, model: Any, states: Tensor, view: View) -> Tensor:
        """Un-merge blocks: they follow one another row by row, and within a block its cells do."""
        merge = model.config.vision_config.spatial_merge_size
        rows, columns = (int(side) // merge for side in view.pixels["image_grid_thw"][0, 1:])
        blocks = states.unflatten(0, (rows, columns, merge, merge))
        return blocks.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)

    def positions(self, model: Any, input_ids: Tensor, pixels: Mapping[str, Tensor]) -> Tensor:
        types = (input_ids == model.config.image_token_id).int()
        grid = pixels["image_grid_thw"]
        return model.get_rope_index(input_ids, image_grid_thw=grid, mm_token_type_ids=types)[0]


class Qwen25VlAdapter(Qwen3VlAdapter):
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_vl",)

    def raster(self, model: Any, states: Tensor, view: View) -> Tensor:
        """Bring the windows' blocks back to their order first."""
        vision = model.config.vision_config
        order, _ = get_vision_window_index(
            view.pixels["image_grid_thw"],
            spatial_merge_size=vision.spatial_merge_size,
            window_size=vision.window_size,
            patch_size=vision.patch_size,
        )
        blocks = states.unflatten(0, (-1, vision.spatial_merge_size**2))[torch.argsort(order).to(states.device)]
        return super().raster(model, blocks.flatten(0, 1), view)
