"""COCO-format sources: images with one instance for each mask, or boxes, by category.

A source says what it annotates (`categories`), and whether it does so everywhere (`complete`): only then is a category
that is not annotated known to be absent.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pixellm.data.datasets import BadRecord, Faults, read_json, size_of
from pixellm.data.records import Instance, Record, Segments


@dataclass
class CocoSource(Sequence[Record]):
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
    rows: list[dict] = field(init=False, repr=False)  # annotated images as in the file
    categories: frozenset[str] = field(init=False)
    bad: Sequence[BadRecord] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        data = read_json(self.annotations)
        names = {category["id"]: category["name"] for category in data["categories"]}
        self._annotations: dict[int, list[tuple[str, dict]]] = defaultdict(list)
        faults = Faults(self.annotations, self.max_bad_fraction)
        annotated = set()
        for row in data["annotations"]:
            annotated.add(row["image_id"])
            if row["category_id"] in names:
                self._annotations[row["image_id"]].append((names[row["category_id"]], row))
            else:
                faults.add(f"annotation {row['id']}", f"no category {row['category_id']}")
        self.bad = faults.check(len(data["annotations"]))
        self._captions: dict[int, list[str]] = defaultdict(list)
        if self.captions:
            for caption in read_json(self.captions)["annotations"]:
                self._captions[caption["image_id"]].append(caption["caption"])
        self.rows = [row for row in data["images"] if row["id"] in annotated]
        self.categories = frozenset(names.values())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        row = self.rows[index]
        instances, boxes = [], []
        for name, annotation in self._annotations.get(row["id"], ()):
            if "segmentation" in annotation:
                merged = self.merged or bool(annotation.get("iscrowd"))
                instances.append(Instance((name,), Segments((annotation["segmentation"],)), name, merged))
            else:
                boxes.append((name, tuple(annotation["bbox"])))
        return Record(
            str(row["id"]),
            self.images / row["file_name"],
            size_of(row),
            tuple(instances),
            boxes=tuple(boxes),
            exhaustive=self.categories if self.complete else None,
            captions=tuple(self._captions.get(row["id"], ())),
        )
