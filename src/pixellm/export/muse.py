"""MUSE's released layout, see `pixellm.muse.layout`: questions that have an answer with a mask."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pixellm.export.answers import AnsweredImage, with_slots
from pixellm.export.coco import category_ids, segmentation
from pixellm.export.files import file_names
from pixellm.muse import layout
from pixellm.muse.layout import COCO_NUMBER, MusePair
from pixellm.muse.records import MuseTarget
from pixellm.types import Answer, Target

YEARS = ("train2017", "val2017")  # folders of photographs that the layout names by COCO's address
COCO_URL = "http://images.cocodataset.org"


def usable(answer: Answer) -> bool:
    """Whether it can be a pair of the layout."""
    return bool(answer.question and any(target.area for target in answer.targets))


def write_muse(images: Sequence[AnsweredImage], out: Path, tolerance: float | None) -> list[float]:
    """Write a JSON file; the IoU of each mask with its polygons, empty for run lengths (`tolerance` None)."""
    ious: list[float] = []
    layout.write(out, _entries(images, tolerance, ious))
    return ious


def _entries(images: Sequence[AnsweredImage], tolerance: float | None, ious: list[float]) -> Iterator[dict[str, Any]]:
    numbers = category_ids(images)
    annotation_id = 0
    for image_id, (one, name) in enumerate(zip(images, file_names(images), strict=True), 1):
        pairs, annotations = [], []
        for answer in filter(usable, one.answers):
            text, order = with_slots(answer)
            targets = []
            for target in (answer.targets[index] for index in order):
                annotation_id += 1
                instance = layout.instance(_target(target, annotation_id, tolerance, ious), numbers)
                annotations.append(instance)
                targets.append(instance | {"rephrased_name": target.phrase or target.category})
            pairs.append(MusePair(answer.question, targets, text))
        if pairs:
            image = {"id": image_id, "height": one.hw[0], "width": one.hw[1], **_named(one, name)}
            yield layout.entry(image, annotations, pairs)


def _target(target: Target, number: int, tolerance: float | None, ious: list[float]) -> MuseTarget:
    found = segmentation(target, tolerance, ious)
    return MuseTarget(number, target.category, target.phrase, found, target.box or (0, 0, 0, 0), target.area)


def _named(one: AnsweredImage, name: str) -> dict[str, str]:
    path = Path(one.image)
    if path.parent.name in YEARS and COCO_NUMBER.search(path.name):
        return {"file_name": name, "coco_url": f"{COCO_URL}/{path.parent.name}/{path.name}"}
    return {"file_name": name}
