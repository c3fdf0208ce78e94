"""Visual prompts: points, boxes and strokes on a target, as users give them and as the points that models read."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NOTHING, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3  # labels of prompt points; NOTHING pads
STROKE_POINTS = 8  # that a stroke is sampled to
MAX_PROMPTS = 256  # points of a target, those of strokes and boxes included

Point = tuple[float, float]


@dataclass(frozen=True)
class Marks:
    """Marks that correct a target, as users give them, in pixels of the image: x to the right, y down.

    Args:
        points: (x, y, positive) of each: 1 for a pixel of the object, 0 for one that is not.
        box: (x, y, width, height) around the object, as `Target.box`.
        strokes: the points (x, y) of each line, and whether it lies on the object.
    """

    points: Sequence[Sequence[float]] = ()
    box: Sequence[float] | None = None
    strokes: Sequence[tuple[Sequence[Sequence[float]], bool]] = ()

    def followed_by(self, later: "Marks") -> "Marks":
        """Return these marks and later ones; a point that is repeated stays once, a new box replaces the earlier."""
        points = tuple(dict.fromkeys(tuple(point) for point in (*self.points, *later.points)))
        return Marks(points, self.box if later.box is None else later.box, (*self.strokes, *later.strokes))

    def in_turn(self) -> Iterator["Marks"]:
        """Yield the marks as if they were made one after another: the box, then with each further point and stroke."""
        if self.box is not None:
            yield Marks(box=self.box)
        for count in range(1, len(self.points) + 1):
            yield Marks(self.points[:count], self.box)
        for count in range(1, len(self.strokes) + 1):
            yield Marks(self.points, self.box, self.strokes[:count])

    def to_json(self) -> dict[str, Any]:
        """Return the fields of a request to /v1/refine."""
        strokes = [{"points": [list(point) for point in line], "positive": side} for line, side in self.strokes]
        box = None if self.box is None else list(self.box)
        return {"points": [list(point) for point in self.points], "box": box, "strokes": strokes}


@dataclass(frozen=True)
class Prompts:
    """Marks as points with labels, checked.

    A box is its two corners; a stroke is points along it.

    Args:
        points: (x, y) of each point.
        labels: of each: `FOREGROUND`, `BACKGROUND`, or a box's `TOP_LEFT` and the `BOTTOM_RIGHT` that follows it.
    """

    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()

    @classmethod
    def read(
        cls,
        points: Iterable[Sequence[float]] = (),
        box: Sequence[float] | None = None,
        strokes: Iterable[tuple[Sequence[Sequence[float]], bool]] = (),
        original_hw: tuple[int, int] = (1, 1),
    ) -> "Prompts":
        """Read prompts, see `Predictor.refine`, on an image of height and width `original_hw` in pixels.

        Raises:
            ValueError: a malformed prompt, one outside of the image, or more than `MAX_PROMPTS` points.
        """
        found: list[tuple[Point, int]] = []
        for point in points:
            x, y, positive = _numbers(point, 3, "a point (x, y, positive)")
            if positive not in (0, 1):
                raise ValueError(f"expected a point (x, y, positive) with positive 1 or 0, got {positive:g}.")
            found.append((_inside((x, y), original_hw), int(positive)))
        for line, positive in strokes:
            corners = [_inside(_numbers(point, 2, "a stroke's point (x, y)"), original_hw) for point in line]
            if not corners:
                raise ValueError("expected a stroke with points, got none. Leave it out.")
            found += [(point, FOREGROUND if positive else BACKGROUND) for point in sample_stroke(corners)]
        if box is not None:
            found += _corners(_numbers(box, 4, "a box (x, y, width, height)"), original_hw)
        if len(found) > MAX_PROMPTS:
            raise ValueError(f"expected at most {MAX_PROMPTS} prompt points of a target, got {len(found)}.")
        return cls(tuple(point for point, _ in found), tuple(label for _, label in found))

    def __len__(self) -> int:
        return len(self.points)

    def followed_by(self, later: "Prompts") -> "Prompts":
        """Return these prompts and later ones; what is repeated stays once, and a new box replaces the earlier."""
        old, new = (list(zip(prompts.points, prompts.labels, strict=True)) for prompts in (self, later))
        if TOP_LEFT in later.labels:
            old = [row for row in old if row[1] < TOP_LEFT]
        clicked = [row for row in dict.fromkeys([*old, *new]) if row[1] < TOP_LEFT]
        joined = clicked + [row for row in [*old, *new] if row[1] >= TOP_LEFT][-2:]
        return Prompts(tuple(point for point, _ in joined), tuple(label for _, label in joined))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return points, fp32 (P, 2) in pixels, and labels, int64 (P,)."""
        points = np.array(self.points, dtype=np.float32).reshape(-1, 2)
        return points, np.array(self.labels, dtype=np.int64)

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """Corners (left, top, right, bottom) of the box; None without one."""
        if TOP_LEFT not in self.labels:
            return None
        at = self.labels.index(TOP_LEFT)
        return (*self.points[at], *self.points[at + 1])


def _numbers(values: Any, count: int, what: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"expected {what} of {count} numbers, got {values!r}.") from None
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"expected {what} of {count} finite numbers, got {values!r}.")
    return numbers


def _inside(point: Sequence[float], original_hw: tuple[int, int]) -> Point:
    x, y = point
    if not (0 <= x <= original_hw[1] and 0 <= y <= original_hw[0]):
        raise ValueError(
            f"expected a point inside the image of {original_hw[1]}×{original_hw[0]} pixels (width × height), got "
            f"({x:g}, {y:g})."
        )
    return x, y


def _corners(box: Sequence[float], original_hw: tuple[int, int]) -> list[tuple[Point, int]]:
    x, y, width, height = box
    left, top = max(0.0, x), max(0.0, y)
    right, bottom = min(float(original_hw[1]), x + width), min(float(original_hw[0]), y + height)
    if right - left < 1 or bottom - top < 1:
        raise ValueError(f"expected a box (x, y, width, height) of a pixel or more inside the image, got {box}.")
    return [((left, top), TOP_LEFT), ((right, bottom), BOTTOM_RIGHT)]


def sample_stroke(line: Sequence[Point], count: int = STROKE_POINTS) -> list[Point]:
    """Return `count` points at equal distances along a line through the given ones, both ends included."""
    corners = np.asarray(line, dtype=np.float64)
    lengths = np.r_[0, np.hypot(*np.diff(corners, axis=0).T).cumsum()] if len(corners) > 1 else np.zeros(1)
    if not lengths[-1]:
        return [tuple(corners[0].tolist())]
    at = np.linspace(0, lengths[-1], count)
    x, y = (np.interp(at, lengths, corners[:, axis]) for axis in (0, 1))
    return list(zip(x.tolist(), y.tolist(), strict=True))


def untrained() -> ValueError:
    """Return the error where a model that was not trained with prompts shall correct a mask."""
    return ValueError(
        "expected a model that was trained with visual prompts (points, boxes, strokes), got one that was not, as "
        "released and converted checkpoints are. Use pixellm-mini, or ask a further question that says what is wrong."
    )
