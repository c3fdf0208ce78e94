"""Interface of a family's adapter: where in the image the rows of its vision states lie, and what its tower takes.

An adapter knows the family's resizing, tiles, windows and merge blocks. Everything else (prompts, generation, codebook,
decoder) is the same for all families (docs/any_vlm.md).

Shapes:  T tiles · N tokens of a tile · D width of the vision tower · h, w cells of the map
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class View:
    """Input of the vision tower for the pixel decoder, of one image.

    Args:
        pixels: arguments of the base's `get_image_features`.
        extent_hw: height and width in pixels of the image that its map covers, from the top left corner; more than the
            image's own where the view is padded.
        tiles: rows and columns of tiles; (1, 1): one view of the whole.
    """

    pixels: Mapping[str, Tensor]
    extent_hw: tuple[float, float]
    tiles: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class ImageLoad:
    """Tokens of an image of 1024 × 768 pixels, for counting costs.

    Args:
        sequences: images that the vision tower reads, each with attention of its own.
        tokens: vision tokens of each.
        image_tokens: tokens that the language model reads of all, without text between them.
    """

    sequences: int
    tokens: int
    image_tokens: int


class Adapter(ABC):
    """One family.

    Attributes:
        model_types: of its configurations.
        pixel_inputs: outputs of the processor that `get_image_features` takes.
        bidirectional: the image tokens of an unbroken run see each other in the language model.
    """

    model_types: ClassVar[tuple[str, ...]]
    pixel_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    bidirectional: ClassVar[bool] = False

    def num_layers(self, config: Any) -> int:
        """Number of layers of the vision tower; `config` is the base's."""
        return config.vision_config.num_hidden_layers

    def default_grid(self, config: Any) -> int:
        """Side of the square of cells that the pixel decoder gets where the user names none."""
        side, patch = config.vision_config.image_size, config.vision_config.patch_size
        return _first(side) // _first(patch)

    def image_load(self, config: Any) -> ImageLoad:
        """Return the tokens of an image of 1024 × 768 pixels; `config` is the base's."""
        raise ValueError(
            f"expected a family whose costs can be counted, got {config.model_type}: its adapter has no `image_load`."
        )

    def image_token_id(self, processor: Any) -> int:
        """Id that stands for an image in a rendered prompt, before it is expanded."""
        return processor.image_token_id

    def image_token(self, processor: Any) -> str:
        """Text of `image_token_id`."""
        return processor.image_token

    def view(self, processor: Any, image: Image.Image, pixels: Mapping[str, Tensor]) -> View:
        """Return what the pixel decoder sees: `pixels`, which the language model sees, or others if those are cropped.

        Args:
            processor: the base's.
            image: RGB.
            pixels: the `pixel_inputs` that the processor made of it.
        """
        return View(pixels, (image.height, image.width))

    def feature_arguments(self, config: Any) -> dict[str, Any]:
        """Further arguments of `get_image_features`."""
        return {}

    @abstractmethod
    def raster(self, model: Any, states: Tensor, view: View) -> Tensor:
        """Bring one layer's vision states of a view to a map (D, h, w) in raster order.

        Args:
            model: the base model, without its head.
            states: an entry of `hidden_states`, as the tower gives it.
            view: the view that was encoded.
        """

    def positions(self, model: Any, input_ids: Tensor, pixels: Mapping[str, Tensor]) -> Tensor:
        """Position ids (1, P) of a prefix `input_ids` (1, P) that ends with the image; (3, 1, P) for M-RoPE."""
        return torch.arange(input_ids.shape[1], device=input_ids.device)[None]


def tile_maps(states: Tensor) -> Tensor:
    """Bring square tiles (T, N, D) to maps (T, D, s, s), with the class token dropped where there is one."""
    tokens = states.shape[1]
    side = math.isqrt(tokens)
    if side * side != tokens:  # a class token stands before the others
        side = math.isqrt(tokens - 1)
        states = states[:, 1:]
    if side * side != states.shape[1]:
        raise ValueError(f"expected a square of vision tokens, with or without a class token, got {tokens}.")
    return states.transpose(1, 2).unflatten(2, (side, side))


def stitch(maps: Tensor, tiles: tuple[int, int]) -> Tensor:
    """Lay the first rows · columns maps (T, D, s, s) side by side, row after row: (D, rows · s, columns · s)."""
    rows, columns = tiles
    grid = maps[: rows * columns].unflatten(0, (rows, columns))
    return grid.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def _first(value: Any) -> int:
    return value[0] if isinstance(value, list | tuple) else value
