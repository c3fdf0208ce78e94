"""Feature maps that refinement reads, cropped to the image: those of the detector, then those of the encoder.

Shapes:  c channels · h, w sides of a map · S side of the square
"""

import math

from torch import Tensor

from pixellm.mini.configuration import MiniVisionConfig
from pixellm.mini.nanodet import FINE_WIDTH, STRIDES, WIDTH
from pixellm.mini.vision import ClassifiedFeatures


def map_channels(config: MiniVisionConfig) -> tuple[int, ...]:
    """Return the channels of each map."""
    return FINE_WIDTH, *[WIDTH] * len(STRIDES), *[config.hidden_size] * len(config.reductions)


def refinement_maps(features: ClassifiedFeatures, resized_hw: Tensor) -> list[list[Tensor]]:
    """Return the maps (c, h, w) of each image, the finest of each encoder first, without the square's padding.

    Args:
        features: of the vision encoder, with a detector's.
        resized_hw: (B, 2).
    """
    assert features.objects is not None
    size = features.objects.pixels.shape[-1]
    sources = [*features.objects.maps, *features.scales[::-1]]
    rows = []
    for row, (height, width) in enumerate(resized_hw.tolist()):
        cells = [(math.ceil(height * m.shape[-1] / size), math.ceil(width * m.shape[-1] / size)) for m in sources]
        rows.append([map_[row, :, :h, :w] for map_, (h, w) in zip(sources, cells, strict=True)])
    return rows
