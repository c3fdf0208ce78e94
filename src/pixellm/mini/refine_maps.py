"""Feature maps that refinement reads: those of the detector, then those of the encoder.

Shapes:  B images · c channels · h, w sides of a map
"""

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
