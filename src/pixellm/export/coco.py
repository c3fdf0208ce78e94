"""JSON files of images and annotations: COCO, LVIS, and MUSE's released layout (`pixellm.muse.layout`).

COCO and MUSE have run lengths, which lose nothing, unless polygons are asked for; LVIS has polygons. Readers of all
three fill what a polygon encloses, so that one along the edges of pixels is exact. Categories are the answers' phrases.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pixellm.export.answers import AnsweredImage, category_ids, file_names, with_slots
from pixellm.imaging import masks
from pixellm.imaging.images import EXAMPLE
from pixellm.muse import layout
from pixellm.muse.layout import COCO_NUMBER, MusePair
from pixellm.muse.records import MuseTarget
from pixellm.types import Answer, Target
from pixellm.utils.files import write_text

INFO = {"description": "answers, exported by pixellm"}
RARE, COMMON = 10, 100  # LVIS (arXiv 1908.03195): categories of at most so many images are "r", "c"; others "f"
YEARS = ("train2017", "val2017")  # folders of images that MUSE names by COCO's address
COCO_URL = "http://images.cocodataset.org"


def write_coco(images: Sequence[AnsweredImage], out: Path, tolerance: float | None) -> list[float]:
    """Write a COCO instances file, see `coco_file`; return the IoU of each mask with its polygons."""
    content, ious = coco_file(images, tolerance)
    _write(out, content)
    return ious


def coco_file(images: Sequence[AnsweredImage], tolerance: float | None = None) -> tuple[dict[str, Any], list[float]]:
    """Return the content of a COCO instances file; phrases, scores and the ids of answers are further fields.

    Args:
        images: with their answers.
        tolerance: None: run lengths; else polygons, see `pixellm.export.outlines.polygons`.

    Returns:
        It, and the IoU of each mask with its polygons; empty for run lengths.
    """
    numbers = category_ids(images)
    ious: list[float] = []
    rows: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, 1):
        for answer in image.answers:
            for target in answer.targets:
                row = {"id": len(rows) + 1, "image_id": image_id, "category_id": numbers[target.category]}
                row |= {**_shape(target, tolerance, ious), "iscrowd": 0}
                row |= {"phrase": target.phrase, "answer_id": answer.id}
                rows.append(row if target.confidence is None else row | {"score": target.confidence})
    entries = [
        {"id": number, "file_name": name, "height": image.hw[0], "width": image.hw[1]}
        for number, (image, name) in enumerate(zip(images, file_names(images), strict=True), 1)
    ]
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()]
    return {"info": INFO, "images": entries, "annotations": rows, "categories": categories, "licenses": []}, ious


def write_lvis(images: Sequence[AnsweredImage], out: Path, tolerance: float | None) -> list[float]:
    """Write an LVIS file: as COCO's, always polygons.

    An answer need not show every object of a category: every category is listed as not exhaustive.
    """
    numbers = category_ids(images)
    ious: list[float] = []
    rows, entries = [], []
    image_counts, instance_counts = Counter(), Counter()
    for image_id, (image, file_name) in enumerate(zip(images, file_names(images), strict=True), 1):
        for target in image.targets:
            row = {"id": len(rows) + 1, "image_id": image_id, "category_id": numbers[target.category]}
            rows.append(row | _shape(target, tolerance or 0.0, ious))
        names = Counter(target.category for target in image.targets)
        instance_counts += names
        image_counts.update(names.keys())
        # Readers take folder and name from the end of this address.
        url = image.image if image.image.startswith(EXAMPLE) else Path(image.image).absolute().as_uri()
        entry = {"id": image_id, "file_name": file_name, "coco_url": url, "height": image.hw[0], "width": image.hw[1]}
        present = sorted(numbers[name] for name in names)
        entries.append(entry | {"neg_category_ids": [], "not_exhaustive_category_ids": present})
    categories = [
        {
            **{"id": number, "name": name.replace(" ", "_"), "synset": "", "synonyms": [name], "def": ""},
            **{"frequency": _frequency(image_counts[name])},
            **{"image_count": image_counts[name], "instance_count": instance_counts[name]},
        }
        for name, number in numbers.items()
    ]
    _write(out, {"info": INFO, "images": entries, "annotations": rows, "categories": categories, "licenses": []})
    return ious


def usable_for_muse(answer: Answer) -> bool:
    """Return whether MUSE's layout has a place for an answer: it has a question and a mask."""
    return bool(answer.question and any(target.area for target in answer.targets))


def write_muse(images: Sequence[AnsweredImage], out: Path, tolerance: float | None) -> list[float]:
    """Write a file in MUSE's layout; return the IoU of each mask with its polygons, none for run lengths."""
    ious: list[float] = []
    layout.write(out, _muse_entries(images, tolerance, ious))
    return ious


def _muse_entries(
    images: Sequence[AnsweredImage], tolerance: float | None, ious: list[float]
) -> Iterator[dict[str, Any]]:
    numbers = category_ids(images)
    annotation_id = 0
    for image_id, (image, name) in enumerate(zip(images, file_names(images), strict=True), 1):
        pairs, annotations = [], []
        for answer in filter(usable_for_muse, image.answers):
            text, order = with_slots(answer)
            targets = []
            for target in (answer.targets[index] for index in order):
                annotation_id += 1
                shape = _shape(target, tolerance, ious)
                measures = shape["segmentation"], shape["bbox"], shape["area"]
                instance = MuseTarget(annotation_id, target.category, target.phrase, *measures)
                annotations.append(layout.instance(instance, numbers))
                targets.append(annotations[-1] | {"rephrased_name": target.phrase or target.category})
            pairs.append(MusePair(answer.question, targets, text))
        if pairs:
            fields = {"id": image_id, "height": image.hw[0], "width": image.hw[1], **_muse_name(image, name)}
            yield layout.entry(fields, annotations, pairs)


def _muse_name(image: AnsweredImage, name: str) -> dict[str, str]:
    path = Path(image.image)
    if path.parent.name in YEARS and COCO_NUMBER.search(path.name):
        return {"file_name": name, "coco_url": f"{COCO_URL}/{path.parent.name}/{path.name}"}
    return {"file_name": name}


def _shape(target: Target, tolerance: float | None, ious: list[float]) -> dict[str, Any]:
    """Return `segmentation`, `area` and `bbox`: a mask's run lengths, or its polygons as pycocotools fills them.

    The IoU of the mask with the latter is added to `ious`.
    """
    if tolerance is None:
        return {"segmentation": target.rle, "area": target.area, "bbox": list(target.box or ())}
    from pixellm.export.outlines import iou, polygons  # SciPy and scikit-image, which run lengths do not need

    mask = target.mask
    parts: list[list[float]] = [polygon.ravel().tolist() for polygon in polygons(mask, tolerance=tolerance)]
    written = masks.decode(parts, *mask.shape)
    ious.append(iou(mask, written))
    box = masks.bounding_box(written) or target.box
    return {"segmentation": parts, "area": int(written.sum()), "bbox": list(box or ())}


def _frequency(images: int) -> str:
    return "r" if images <= RARE else "c" if images <= COMMON else "f"


def _write(out: Path, content: Mapping[str, Any]) -> None:
    write_text(out, json.dumps(content, ensure_ascii=False) + "\n")
