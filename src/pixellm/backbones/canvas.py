"""Feature maps of any shape → the square that the pixel decoder works on: longest side to the grid, rest padding.

It is the letterbox of `imaging/geometry.py` at the size of the features, so masks come back by the same inverse.

Shapes:  D width · h, w cells of a map · g side of the square in cells
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pixellm.imaging import geometry

# Pixels of the square that stand for one cell: `resized_hw` is in whole pixels, so borders are exact to 1/32 cell.
PIXELS_PER_CELL = 16


def resized_hw(image_hw: tuple[int, int], grid: int) -> tuple[int, int]:
    """Height and width in pixels of an image inside the square of g cells."""
    return geometry.resized_hw(*image_hw, grid * PIXELS_PER_CELL)


def place(feature_map: Tensor, extent_hw: tuple[float, float], image_hw: tuple[int, int], grid: int) -> Tensor:
    """Resample a map to the square; cells that lie outside of the image are 0.

    Args:
        feature_map: (D, h, w).
        extent_hw: height and width in pixels of the image that the map covers, from the top left corner.
        image_hw: of the image.
        grid: g.

    Returns:
        (D, g, g)
    """
    cell = max(image_hw) / grid  # pixels of the image
    fewer = [
        max(1, min(cells, round(extent / cell))) for cells, extent in zip(feature_map.shape[1:], extent_hw, strict=True)
    ]
    # Averaged first where the map is finer than the square: sampling alone would skip cells.
    averaged = F.interpolate(feature_map[None].float(), fewer, mode="bilinear", antialias=True)
    centre = (torch.arange(grid, device=feature_map.device) + 0.5) * cell
    y, x = (2 * centre / extent - 1 for extent in extent_hw)
    where = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[None]
    sampled = F.grid_sample(averaged, where.to(averaged), padding_mode="border", align_corners=False)[0]
    corner = centre - cell / 2
    inside = (corner < image_hw[0])[:, None] & (corner < image_hw[1])
    return (sampled * inside).to(feature_map.dtype)
