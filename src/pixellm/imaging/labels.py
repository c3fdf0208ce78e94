"""Labels on an image: each near its mask, none on another.

Shapes:  N labels · H, W image height and width
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
GRID = 256  # least number of points along a side of the mask where a label is looked for a place
ROUNDS = 100  # of pushing labels apart
LOW, HIGH = slice(0, 2), slice(2, 4)  # corners of a box (left, top, right, bottom)
PUSH, LEAST_PUSH = 10, 2  # pixels that a label is moved in a round for an IoU of 1, and at least


@dataclass(frozen=True)
class Label:
    """Text of a label, the middle of its upper edge (x, y) in pixels, and its colours as #RRGGBB."""

    text: str
    anchor: tuple[float, float]
    ground: str
    ink: str


def draw(scene: Image.Image, labels: Sequence[Label], font: Font, padding: int) -> None:
    """Draw at least one label on an RGB image, `padding` pixels around each text; moved where they would overlap."""
    canvas = ImageDraw.Draw(scene)
    boxes = []
    for label in labels:
        left, top, right, bottom = canvas.textbbox((0, 0), label.text, font=font)
        width, height = int(right - left + 2 * padding), int(bottom - top + 2 * padding)
        x, y = int(label.anchor[0]), int(label.anchor[1])
        boxes.append((x - width // 2, y, x + width // 2, y + height))
    places = _inside(np.array(boxes, dtype=np.float32), scene.size)
    if len(places) > 1:
        places = _inside(_apart(places), scene.size)
    margin_left, margin_top, _, _ = canvas.textbbox((0, 0), "Tg", font=font)
    for label, (left, top, right, bottom) in zip(labels, places.astype(int).tolist(), strict=True):
        canvas.rounded_rectangle((left, top, right, bottom), padding, fill=label.ground)
        canvas.text((left + padding - margin_left, top + padding - margin_top), label.text, label.ink, font)


def anchor(mask: np.ndarray, height: int) -> tuple[float, float]:
    """Return the middle of the upper edge of a label `height` high: in the widest part of the mask, or above it."""
    step = max(1, min(mask.shape) // GRID)  # coarse is exact enough for a label, unless nothing is left of the mask
    step = step if mask[::step, ::step].any() else 1
    depth = depths(mask[::step, ::step]) * step
    y, x = (int(v) * step for v in np.unravel_index(depth.argmax(), depth.shape))
    radius = float(depth.max())
    return (x, y - height / 2) if radius > 0.9 * height else (x, y - radius - height)


def depths(mask: np.ndarray) -> np.ndarray:
    """Return the Euclidean distance of each pixel to the nearest one outside of a bool (H, W) mask; fp64 (H, W).

    The edge of the image counts as the mask's edge.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros(mask.shape)
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inner = np.pad(mask[box], 1)
    squares = _steps_to_edge(inner) ** 2  # along the columns; then the nearest of those in each row
    nearest = squares.copy()
    offset, top, bottom = 1, 0, len(nearest)
    # Rows that are nowhere deeper than the offset stay as they are.
    while len(deep := np.flatnonzero(nearest[top:bottom].max(axis=1) > offset**2)):
        top, bottom = top + deep[0], top + deep[-1] + 1
        rows, edges = nearest[top:bottom], squares[top:bottom]
        np.minimum(rows[:, offset:], edges[:, :-offset] + offset**2, out=rows[:, offset:])
        np.minimum(rows[:, :-offset], edges[:, offset:] + offset**2, out=rows[:, :-offset])
        offset += 1
    whole = np.zeros(mask.shape)
    whole[box] = np.sqrt(nearest[1:-1, 1:-1])
    return whole


def _steps_to_edge(mask: np.ndarray) -> np.ndarray:
    """Return how many pixels above or below each pixel the nearest one outside is; row 0 and the last are outside."""
    # 32 bits hold the squares, and what is added to them: a mask's deepest pixel is half of its height from an edge.
    numbers = np.arange(len(mask), dtype=np.int32 if len(mask) < 1 << 16 else np.int64)[:, None]
    above = np.maximum.accumulate(np.where(mask, 0, numbers), axis=0)
    below = np.minimum.accumulate(np.where(mask, len(mask) - 1, numbers)[::-1], axis=0)[::-1]
    return np.minimum(numbers - above, below - numbers)


def _inside(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Move boxes (N, 4) into an image of (width, height); what is larger begins at its left or upper edge."""
    lengths = boxes[:, 2:] - boxes[:, :2]
    corners = np.maximum(0, np.minimum(boxes[:, :2], np.array(size) - lengths))
    return np.concatenate([corners, corners + lengths], axis=1)


def _apart(boxes: np.ndarray) -> np.ndarray:
    """Push boxes (N, 4) that overlap away from each other's centres, a little in each round."""
    margins = np.array([-1, -1, 1, 1], dtype=boxes.dtype)
    boxes = boxes + margins
    order = np.sign(np.arange(len(boxes))[:, None] - np.arange(len(boxes)))
    for _ in range(ROUNDS):
        overlap = _ious(boxes)
        if not overlap.any():
            break
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        away = centres[:, None] - centres
        away[..., 1] = np.where((away == 0).all(axis=2), order, away[..., 1])  # of one centre: apart vertically
        away = (away * (overlap > 0)[..., None]).sum(axis=1)
        length = np.linalg.norm(away, axis=1, keepdims=True)
        push = PUSH * overlap.sum(axis=1)[:, None] * np.divide(away, length, out=np.zeros_like(away), where=length > 0)
        push = np.where(push == 0, 0, np.sign(push) * np.maximum(np.abs(push), LEAST_PUSH)).astype(int)
        boxes += np.tile(push, 2)
    return boxes - margins


def _ious(boxes: np.ndarray) -> np.ndarray:
    """Return the IoU (N, N) of boxes with each other; 0 of each with itself."""
    low, high = (choose(boxes[:, None, at], boxes[:, at]) for choose, at in ((np.maximum, LOW), (np.minimum, HIGH)))
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    ious = common / (areas[:, None] + areas - common)
    np.fill_diagonal(ious, 0)
    return ious
