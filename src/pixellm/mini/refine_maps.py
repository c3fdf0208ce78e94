"""Feature maps that refinement reads, cropped to the image: those of the detector, then those of the encoder.

Shapes:  c channels · h, w sides of a map · S side of the square
"""

import math
from collections.abc import Sequence

from torch import Tensor

from pixellm.mini.configuration import MiniVisionConfig
from pixellm.mini.nanodet import FINE_WIDTH, STRIDES, WIDTH
from pixellm.mini.vision import ClassifiedFeatures


def map_channels(config: MiniVisionConfig) -> tuple[int, ...]:
    """Return the channels of each map."""
    return FINE_WIDTH, *[WIDTH] * len(STRIDES), *[config.hidden_size] * len(config.reductions)


def refinement_sources(features: ClassifiedFeatures) -> list[Tensor]:
    """Return the maps (B, c, h, w) over the square, the finest of each encoder first."""
    assert features.objects is not None
    return [*features.objects.maps, *features.scales[::-1]]


def refinement_maps(sources: Sequence[Tensor], row: int, resized_hw: Tensor, size: int) -> list[Tensor]:
    """Return the maps (c, h, w) of one image, without the square's padding.

    Args:
        sources: what `refinement_sources` gave.
        row: of the image.
        resized_hw: (2,) of the image.
        size: side of the square in pixels.
    """
    height, width = resized_hw.tolist()
    cells = [(math.ceil(height * m.shape[-1] / size), math.ceil(width * m.shape[-1] / size)) for m in sources]
    return [map_[row, :, :h, :w] for map_, (h, w) in zip(sources, cells, strict=True)]
