"""Class targets: the names of a vocabulary that each cell of a grid shows, and where that is known.

Sources annotate different names, some only by boxes. A cell's target for a name counts only where the source tells.

Shapes:  V names · g grid side
"""

from collections.abc import Sequence

import numpy as np

from pixellm.data.records import AnnotatedImage

# Objects on or around which others are usually seen: a pixel of theirs may be something else, too.
OVERLAPPING = frozenset(
    (
        *("person", "dining table", "chair", "couch", "bed", "bench", "vehicle", "road", "fruit", "bicycle"),
        *("motorcycle", "bowl", "cup", "sink", "oven", "tv", "boat", "refrigerator", "backpack", "handbag", "bag"),
        *("purse", "suitcase", "umbrella", "book", "cake", "sandwich", "pizza", "potted plant", "vase", "food"),
        *("nut", "top", "suit", "accessory"),
    )
)


def class_targets(
    annotated: AnnotatedImage, vocabulary: Sequence[str], size: int, grid: int
) -> tuple[np.ndarray, np.ndarray]:
    """Targets for a dense classifier on a letterboxed image.

    Args:
        annotated: no larger than size × size; it lies in the top-left corner of the square.
        vocabulary: the V names.
        size: side of the square in pixels, a multiple of `grid`.
        grid: side of the grid of cells.

    Returns:
        target: float16 (V, g, g) in 0..1, the share of the cell that shows the name.
        weight: bool (V, g, g), where the target is known.
    """
    index = {name: i for i, name in enumerate(vocabulary)}
    target = np.zeros((len(vocabulary), grid, grid), dtype=np.float16)
    weight = np.zeros((len(vocabulary), grid, grid), dtype=bool)
    width, height = annotated.image.size
    inside = _cells(np.ones((height, width), dtype=bool), size, grid) > 0
    if annotated.exhaustive is not None:
        weight[[index[name] for name in annotated.exhaustive if name in index]] = inside
    for name, mask in annotated.category_masks().items():
        share = _cells(mask, size, grid)
        if name not in OVERLAPPING:
            weight |= share > 0.5  # what is surely this is nothing else
        if name in index:
            target[index[name]] = share
            weight[index[name]] |= share > 0.5
    for name, (x, y, w, h) in annotated.boxes:
        if name in index:
            _box_targets(target[index[name]], weight[index[name]], (x, y, w, h), size / grid)
    return target, weight


def _box_targets(target: np.ndarray, weight: np.ndarray, box: tuple[float, float, float, float], cell: float) -> None:
    """Mark the inner ellipse of a box as the object and leave the rest of the box open."""
    x, y, w, h = box
    centres = (np.arange(len(target)) + 0.5) * cell
    dx = np.abs(centres - (x + w / 2)) / (w / 2)
    dy = np.abs(centres - (y + h / 2)) / (h / 2)
    in_box = (dx[None] <= 1) & (dy[:, None] <= 1)
    core = dx[None] ** 2 + dy[:, None] ** 2 < 0.5
    target[in_box & core] = 1
    weight[in_box] = core[in_box]


def _cells(mask: np.ndarray, size: int, grid: int) -> np.ndarray:
    """Share of each cell that a bool (H, W) mask in the top-left corner of the square covers: float32 (g, g)."""
    square = np.zeros((size, size), dtype=np.float32)
    square[: mask.shape[0], : mask.shape[1]] = mask
    return square.reshape(grid, size // grid, grid, size // grid).mean(axis=(1, 3))
