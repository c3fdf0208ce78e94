"""Masks → closed polygons, without the loss of a pixel where the format allows it.

mask → edges between inside and outside → loops → each hole cut open to the left, so that a part is one closed walk

A walk goes along the edges of pixels (COCO, LVIS: their readers fill what is enclosed), or from centre to centre of the
outermost pixels (labelme, YOLO: their readers fill the line that is drawn, too).

Shapes:  H, W mask · E edges · P points of a polygon
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree
from skimage.measure import approximate_polygon

# Directions of an edge, y down, the mask on its right: a part is walked round clockwise, a hole the other way.
RIGHT, DOWN, LEFT, UP = range(4)
MIN_POINTS = 3


@dataclass(frozen=True)
class _Edges:
    """All edges between a pixel of the mask and one that is not: (E, 2) are x, y.

    Args:
        start: the corner where it begins.
        pixel: the one inside.
        direction: RIGHT … UP.
    """

    start: np.ndarray
    pixel: np.ndarray
    direction: np.ndarray


def polygons(
    mask: np.ndarray, centres: bool = False, tolerance: float = 0.0, together: bool = False
) -> list[np.ndarray]:
    """One polygon for each part, the largest first; a hole is joined to its part's edge by a cut without width.

    Args:
        mask: bool (H, W).
        centres: from centre to centre of pixels, in whole numbers; a part of one or two pixels has points twice.
            Otherwise along their edges, where pixel 0 reaches from 0 to 1.
        tolerance: in pixels; points are left out where the line stays that near.
        together: one polygon for all: each part is tied to the larger ones by a line there and back.

    Returns:
        (P, 2) each, P ≥ 3, x and y, the first point not repeated at the end; none for an empty mask.
    """
    walks = sorted(_walks(mask, centres), key=_area, reverse=True)
    return [_simple(walk, tolerance) for walk in ([_joined(walks)] if together and walks else walks)]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """One walk: each part is tied to those before it, between the two nearest points."""
    forest: list[tuple[cKDTree, np.ndarray]] = []  # trees of twice as many points each, and whose they are: part, place
    ties: list[tuple[int, int, int]] = []  # for each part but the first: the other part, the place there, its own place
    for number, walk in enumerate(parts):
        near = [(*tree.query(walk), whose) for tree, whose in forest]
        if near:
            distance, nearest, whose = min(near, key=lambda candidate: candidate[0].min())
            own = int(distance.argmin())
            ties.append((*whose[nearest[own]].tolist(), own))
        points, whose = walk, np.stack([np.full(len(walk), number), np.arange(len(walk))], axis=1)
        while forest and forest[-1][0].n <= len(points):
            tree, others = forest.pop()
            points, whose = np.concatenate([tree.data, points]), np.concatenate([others, whose])
        forest.append((cKDTree(points), whose))
    inserted: dict[int, dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for number in range(len(parts) - 1, 0, -1):  # what is tied to a part comes after it
        other, there, own = ties[number - 1]
        inserted[other][there].append(_expanded(parts[number], inserted[number], own))
    return _expanded(parts[0], inserted[0])


def _walks(mask: np.ndarray, centres: bool) -> list[np.ndarray]:
    edges = _edges(mask)
    loops = _loops(edges, mask.shape[1] + 1)
    points = edges.pixel if centres else edges.start
    left_edges = {tuple(edges.pixel[e].tolist()): e for e in np.flatnonzero(edges.direction == UP).tolist()}
    place = {edge: (number, at) for number, loop in enumerate(loops) for at, edge in enumerate(loop.tolist())}
    inserted: dict[int, dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    outer: list[int] = []
    # The cut of a hole ends at a loop that lies further left, so that hole is walked before what it is cut to.
    order = sorted(range(len(loops)), key=lambda number: -edges.start[loops[number], 0].min())
    for number in order:
        loop = loops[number]
        if _area(edges.start[loop]) > 0:
            outer.append(number)
            continue
        downs = np.flatnonzero(edges.direction[loop] == DOWN)
        at = int(downs[np.argmin(edges.start[loop[downs], 0])])
        x, y = edges.pixel[loop[at]].tolist()
        outside = np.flatnonzero(~mask[y, :x])
        first = int(outside[-1]) + 1 if len(outside) else 0
        target, there = place[left_edges[first, y]]
        # The row's lower corners lie at the end of an edge that goes down, and at the start of one that goes up.
        turn = at if centres else at + 1
        inserted[target][there].append(_expanded(points[loop], inserted[number], turn))
    return [_expanded(points[loops[number]], inserted[number]) for number in outer]


def _expanded(ring: np.ndarray, inserted: dict[int, list[np.ndarray]], start: int = 0) -> np.ndarray:
    """The points of a loop from `start` on, with closed walks put in behind some of them."""
    turned = np.roll(ring, -start, axis=0)
    pieces, done = [], 0
    for at in sorted((place - start) % len(ring) for place in inserted):
        pieces.append(turned[done : at + 1])
        for walk in inserted[(at + start) % len(ring)]:
            pieces += [walk, walk[:1], turned[at : at + 1]]
        done = at + 1
    return np.concatenate([*pieces, turned[done:]])


def _edges(mask: np.ndarray) -> _Edges:
    padded = np.pad(mask.astype(bool), 1)
    inside = padded[1:-1, 1:-1]
    # For each direction: what lies on its left, and where the edge begins, seen from the pixel's first corner.
    sides = {
        RIGHT: (padded[:-2, 1:-1], (0, 0)),
        DOWN: (padded[1:-1, 2:], (1, 0)),
        LEFT: (padded[2:, 1:-1], (1, 1)),
        UP: (padded[1:-1, :-2], (0, 1)),
    }
    pixels = {way: np.argwhere(inside & ~beyond)[:, ::-1] for way, (beyond, _) in sides.items()}
    starts = [pixels[way] + np.array(offset) for way, (_, offset) in sides.items()]
    directions = [np.full(len(inside_pixels), way) for way, inside_pixels in pixels.items()]
    return _Edges(np.concatenate(starts), np.concatenate(list(pixels.values())), np.concatenate(directions))


def _loops(edges: _Edges, stride: int) -> list[np.ndarray]:
    """Indices of the edges of each loop, in order; pixels that only share a corner belong to different parts."""
    steps = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
    ends = edges.start + steps[edges.direction]
    begins_at, ends_at = (points @ np.array([1, stride]) for points in (edges.start, ends))
    order = np.argsort(begins_at, kind="stable")
    first, behind = (np.searchsorted(begins_at[order], ends_at, side) for side in ("left", "right"))
    following = order[first]
    two = behind - first == 2  # two pixels share the corner: stay at this one, by turning to the right
    other = order[first[two] + 1]
    turns_right = edges.direction[other] == (edges.direction[two] + 1) % 4
    following[two] = np.where(turns_right, other, following[two])
    after, seen, loops = following.tolist(), bytearray(len(following)), []
    for begin in range(len(after)):
        if not seen[begin]:
            loop, edge = [], begin
            while not seen[edge]:
                seen[edge] = 1
                loop.append(edge)
                edge = after[edge]
            loops.append(np.array(loop))
    return loops


def _simple(walk: np.ndarray, tolerance: float) -> np.ndarray:
    """Drop points that change nothing, or little; at least three remain."""
    moved = (walk != np.roll(walk, 1, axis=0)).any(axis=1)
    moved[0] |= not moved.any()  # one pixel: all its edges have the same centre
    walk = walk[moved]
    before, after = walk - np.roll(walk, 1, axis=0), np.roll(walk, -1, axis=0) - walk
    straight = (_cross(before, after) == 0) & ((before * after).sum(axis=1) > 0)
    corners = walk[~straight]
    if tolerance and len(corners) > MIN_POINTS:
        fewer = approximate_polygon(np.concatenate([corners, corners[:1]]), tolerance)[:-1]
        corners = fewer if len(fewer) >= MIN_POINTS else corners
    return np.concatenate([corners, *[corners[-1:]] * (MIN_POINTS - len(corners))])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _area(ring: np.ndarray) -> float:
    """Twice the enclosed area in square pixels, negative for a loop that goes round anticlockwise."""
    return float(_cross(ring, np.roll(ring, -1, axis=0)).sum())


def filled(parts: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Fill polygons and their own line as labelme does, with Pillow: bool (H, W)."""
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for polygon in parts:
        draw.polygon([(int(x), int(y)) for x, y in polygon], fill=1, outline=1)
    return np.array(canvas)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the IoU of two masks, bool (H, W); 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0
