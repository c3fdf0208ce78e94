"""Validator of files in MUSE's layout, anyone's: inconsistencies that users of the released data ran into, and more.

A file is one split; with several, no image may be in two.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pixellm.data.records import Segments
from pixellm.imaging import masks
from pixellm.imaging.images import read_size
from pixellm.muse.layout import MusePair, image_key, pairs_of
from pixellm.muse.quality.checks import SAME_BOX_IOU, box_iou
from pixellm.types import SEG_SLOT
from pixellm.utils.checks import shown

OVERHANG = 1.0  # pixels that a coordinate may lie outside: annotators' borders are rounded
YEARS = ("", "train2017", "val2017", "train2014")
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@dataclass(frozen=True)
class LayoutProblem:
    """Inconsistency of a file.

    Args:
        file: path of the file.
        record: id of the entry, or its number in the file, and the number of the question.
        kind: key for counting.
        reason: in words.
    """

    file: str
    record: str
    kind: str
    reason: str


@dataclass
class LayoutValidator:
    """Validator of entries, one by one, that remembers what must not come twice.

    Args:
        images: folder of images, or of their years' folders: every entry's image must be there, in its size.
    """

    images: Path | None = None
    _ids: set[tuple[str, str]] = field(default_factory=set)
    _places: dict[str, str] = field(default_factory=dict)  # image → file
    _categories: dict[Any, Any] = field(default_factory=dict)  # id → name

    def problems(self, file: str, number: int, entry: Any) -> Iterator[LayoutProblem]:
        """Yield the problems of an entry, which is the `number`th of a file."""
        if not isinstance(entry, Mapping):
            yield LayoutProblem(file, f"#{number}", "entry", f"expected an image entry, got {str(entry)[:60]!r}")
            return
        name = shown(entry.get("id", f"#{number}"))
        for kind, reason in self._entry(file, entry):
            yield LayoutProblem(file, name, kind, shown(reason))
        for question, kind, reason in self._pairs(entry):
            yield LayoutProblem(file, name if question is None else f"{name}, question {question}", kind, shown(reason))

    def _entry(self, file: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if "id" in entry:
            key = (file, str(entry["id"]))
            if key in self._ids:
                yield "duplicate_id", f"another entry has the id {entry['id']}"
            self._ids.add(key)
        if _size(entry) is None:
            yield "size", f"expected height and width in pixels, got {entry.get('height')!r} and {entry.get('width')!r}"
        annotations = entry.get("ann_list")
        if not isinstance(annotations, list | None):
            yield "lists", f"expected a list of instances as ann_list, got {str(annotations)[:60]!r}"
            annotations = None
        ids = [t["id"] for t in annotations or () if isinstance(t, Mapping) and "id" in t]
        if len(set(map(str, ids))) < len(ids):
            yield "duplicate_id", "two instances of ann_list have the same id"
        if not annotations:
            yield "no_instances", "ann_list is empty or not there: the released loader skips the image"
        try:
            image = image_key(entry)
        except ValueError as error:
            yield "image", str(error)
            return
        before = self._places.setdefault(image, file)
        if before != file:
            yield "leak", f"the image {image} is in {before}, too"
        yield from self._image(entry)

    def _image(self, entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Compare the image file with the entry, if there is a folder of images."""
        if self.images is None:
            return
        names = [str(entry[key]) for key in ("coco_url", "file_name") if entry.get(key)]
        names += [Path(name).name for name in names]
        paths = [self.images / year / name for name in names if "://" not in name for year in YEARS]
        path = next((path for path in paths if os.path.isfile(path)), None)  # False for any name
        if path is None:
            yield "image", f"{names[-1]} is not in {self.images}"
            return
        try:
            size = read_size(path)
        except ValueError as error:
            yield "image", str(error)
            return
        if _size(entry) and size != _size(entry):
            yield "size", f"the image is {size[0]}×{size[1]}, the entry says {entry['height']}×{entry['width']}"

    def _pairs(self, entry: Mapping[str, Any]) -> Iterator[tuple[int | None, str, str]]:
        try:
            pairs = pairs_of(entry)
        except ValueError as error:
            yield None, "lists", str(error)
            return
        seen = set()
        for number, pair in enumerate(pairs):
            reasons = [*_texts(pair)]
            if not isinstance(pair.answer, list) or not pair.answer:
                reasons.append(("no_targets", "there is no target"))
            else:
                for target in pair.answer:
                    reasons += self._target(target, pair, _size(entry))
                shapes = [
                    str(t["segmentation"]) for t in pair.answer if isinstance(t, Mapping) and t.get("segmentation")
                ]
                if len(set(shapes)) < len(shapes):
                    reasons.append(("repeated_target", "two targets have the same segmentation"))
            content = str((pair.question, pair.text, pair.answer))
            if content in seen:
                reasons.append(("repeated_question", "an earlier question has the same words and targets"))
            seen.add(content)
            yield from ((number, kind, reason) for kind, reason in reasons)

    def _target(self, target: Any, pair: MusePair, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
        if not isinstance(target, Mapping):
            yield "mask", f"expected an instance, got {str(target)[:60]!r}"
            return
        name, number = target.get("category_name"), target.get("category_id")
        if pair.text is None and not (target.get("rephrased_name") or name):
            yield "no_name", "there is neither a text nor a name for a target"
        if name is not None and number is not None and self._categories.setdefault(str(number), name) != name:
            yield "category", f"category {number} is {self._categories[str(number)]!r} elsewhere, {name!r} here"
        if not target.get("segmentation"):
            yield "mask", f"a target ({name}) has no segmentation"
        elif size:
            yield from _mask(target, size)


def _texts(pair: MusePair) -> Iterator[tuple[str, str]]:
    if not isinstance(pair.question, str) or not pair.question.strip():
        yield "empty_text", "the question is empty"
    if pair.text is None:
        return
    if not isinstance(pair.text, str) or not pair.text.strip():
        yield "empty_text", "the answer's text is empty: null stands for none"
        return
    count, targets = pair.text.count(SEG_SLOT), len(pair.answer if isinstance(pair.answer, list) else ())
    if count != targets:
        yield "slots", f"its text has {count} {SEG_SLOT} but there are {targets} targets"
    rest = pair.text.replace(SEG_SLOT, "")
    if "{" in rest or "}" in rest:
        yield "braces", "its text has braces other than {seg}'s: the released loader formats it and fails"


def _mask(target: Mapping[str, Any], size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    height, width = size
    name = target.get("category_name")
    segmentation = target["segmentation"]
    try:
        rle = masks.union([Segments((segmentation,)).checked().rles(height, width)], height, width)
    except MALFORMED as error:
        yield "mask", f"the segmentation of a target ({name}) can't be read: {error}"
        return
    if not masks.area(rle):
        yield "mask", f"the mask of a target ({name}) is empty"
    shapes = segmentation if isinstance(segmentation, list) else []
    polygons = [np.reshape(shape, (-1, 2)) for shape in shapes if not isinstance(shape, dict) and len(shape) >= 6]
    if _outside(polygons, size):
        yield "outside", f"a polygon of a target ({name}) leaves the image of {height}×{width} pixels"
    box = target.get("bbox")
    if box is None:
        return
    try:
        x, y, across, down = (float(side) for side in box)
    except MALFORMED:
        yield "box", f"expected a bbox x, y, width, height, got {str(box)[:60]}"
        return
    if _outside([np.array([[x, y], [x + across, y + down]])], size):
        yield "outside", f"the box of a target ({name}) leaves the image of {height}×{width} pixels"
    elif masks.area(rle) and box_iou(masks.box(rle), (x, y, across, down)) < SAME_BOX_IOU:
        yield "box", f"the mask of a target ({name}) is at {masks.box(rle)}, its box says {box}"


def _outside(outlines: Sequence[np.ndarray], size: tuple[int, int]) -> bool:
    low, far = -OVERHANG, np.array([size[1], size[0]]) + OVERHANG
    return any((points < low).any() or (points > far).any() for points in outlines)


def _size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    sides = (entry.get("height"), entry.get("width"))
    good = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    return (int(sides[0] or 0), int(sides[1] or 0)) if good else None


def counts(problems: Sequence[LayoutProblem]) -> Counter[str]:
    """Count the problems by kind."""
    return Counter(problem.kind for problem in problems)
