"""COCO-format sources: images with instance masks (or boxes) by category.

A source says what it annotates (`known`), and whether it does so everywhere (`complete`): only then is a name that
is not annotated known to be absent.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm.data.records import Instance, read_json
from pixellm.imaging import masks
from pixellm.imaging.images import load_image

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotatedImage:
    """Image with decoded annotations.

    `instances` carry bool (H, W) masks; `boxes` (x, y, width, height in pixels) are objects known by box alone.
    """

    image: Image.Image
    instances: tuple[Instance[np.ndarray], ...]
    boxes: tuple[tuple[str, tuple[float, float, float, float]], ...]
    known: frozenset[str]
    complete: bool
    captions: tuple[str, ...] = ()


@dataclass
class CocoSource(Sequence[AnnotatedImage]):
    """A COCO annotation file and the folder of its images.

    Args:
        annotations: the JSON file.
        images: the folder that the records' `file_name` are relative to.
        captions: an optional COCO captions file for the same images.
        complete: every object of every category is annotated.
        merged: a mask holds all objects of its category, not one.
        max_bad_fraction: loading fails when more than this share of the annotations can't be read.
    """

    annotations: Path
    images: Path
    captions: Path | None = None
    complete: bool = True
    merged: bool = False
    max_bad_fraction: float = 0.01
    records: list[dict] = field(init=False, repr=False)
    known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        data = read_json(self.annotations)
        self._names = {c["id"]: c["name"] for c in data["categories"]}
        self._objects: dict[int, list[dict]] = defaultdict(list)
        for annotation in data["annotations"]:
            self._objects[annotation["image_id"]].append(annotation)
        self._captions: dict[int, list[str]] = defaultdict(list)
        if self.captions:
            for caption in read_json(self.captions)["annotations"]:
                self._captions[caption["image_id"]].append(caption["caption"])
        self.records = [r for r in data["images"] if self._objects[r["id"]]]
        self.known = frozenset(self._names.values())
        self._check()

    def _check(self) -> None:
        bad = [a["id"] for objects in self._objects.values() for a in objects if a["category_id"] not in self._names]
        total = sum(len(objects) for objects in self._objects.values())
        for annotation_id in bad:
            logger.warning("%s: annotation %s has an unknown category", self.annotations.name, annotation_id)
        if len(bad) > self.max_bad_fraction * total:
            raise ValueError(
                f"{self.annotations}: {len(bad)} of {total} annotations have an unknown category, "
                f"expected at most {self.max_bad_fraction:.0%}. Mend the file or raise max_bad_fraction."
            )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> AnnotatedImage:
        record = self.records[index]
        image = load_image(self.images / record["file_name"])
        instances, boxes = [], []
        for annotation in self._objects[record["id"]]:
            name = self._names.get(annotation["category_id"])
            if name is None:
                continue
            if "segmentation" not in annotation:
                boxes.append((name, tuple(annotation["bbox"])))
                continue
            try:
                mask = masks.decode(annotation["segmentation"], image.height, image.width)
            except ValueError as error:
                raise ValueError(f"{self.annotations.name}: annotation {annotation['id']}: {error}") from error
            if mask.any():
                merged = self.merged or bool(annotation.get("iscrowd"))
                instances.append(Instance((name,), mask, name, merged))
        captions = tuple(self._captions.get(record["id"], ()))
        return AnnotatedImage(image, tuple(instances), tuple(boxes), self.known, self.complete, captions)


def category_masks(instances: Sequence[Instance[np.ndarray]]) -> dict[str, np.ndarray]:
    """Union mask, bool (H, W), of each category present, in order of first appearance."""
    found: dict[str, np.ndarray] = {}
    for instance in instances:
        found[instance.category] = (
            found[instance.category] | instance.mask if instance.category in found else instance.mask
        )
    return found
