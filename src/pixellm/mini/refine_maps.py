"""Feature maps that refinement reads, cropped to the image: those of the detector, then those of the encoder.

Shapes:  c channels · h, w sides of a map · S side of the square
"""

import math

from torch import Tensor

from pixellm.mini.nanodet import FINE_WIDTH, STRIDES, WIDTH
from pixellm.mini.configuration import MiniVisionConfig
from pixellm.mini.vision import ClassifiedFeatures


def map_channels(config: MiniVisionConfig) -> tuple[int, ...]:
    """Return the channels of each map."""
    return FINE_WIDTH, *[WIDTH] * len(STRIDES), *[config.hidden_size] * len(config.reductions)


def refinement_maps(features: ClassifiedFeatures, resized_hw: Tensor, size: int, row: int = 0) -> list[Tensor]:
    """Return the maps (c, h, w) of one image, the finest of each encoder first, without the square's padding.

    Args:
        features: of the vision encoder, with a detector's.
        resized_hw: (B, 2).
        size: S, in pixels.
        row: of the image.
    """
    assert features.objects is not None
    height, width = resized_hw[row].tolist()
    maps = []
    for map_ in (*features.objects.maps, *features.scales[::-1]):
        stride = size / map_.shape[-1]
        maps.append(map_[row, :, : math.ceil(height / stride), : math.ceil(width / stride)])
    return maps
