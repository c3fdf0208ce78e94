"""COCO and LVIS: one JSON file of images, annotations and categories.

COCO has run lengths, which lose nothing, unless polygons are asked for; LVIS has polygons. Categories are what the
answers call things. Their readers fill what a polygon encloses, so that one along the edges of pixels is exact.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixellm.export.answers import AnsweredImage
from pixellm.export.files import file_names
from pixellm.export.outlines import iou, polygons
from pixellm.imaging import masks
from pixellm.imaging.images import EXAMPLE
from pixellm.types import Target
from pixellm.utils.files import write_text

INFO = {"description": "answers, exported by pixellm"}
RARE, COMMON = 10, 100  # LVIS (arXiv 1908.03195): categories of at most so many images are "r", "c"; others "f"


def write_coco(images: Sequence[AnsweredImage], out: Path, tolerance: float | None) -> list[float]:
    """Write a COCO instances file, see `coco_file`; the IoU of each mask with its polygons, empty for run lengths."""
    content, ious = coco_file(images, tolerance)
    _write(out, content)
    return ious


def coco_file(images: Sequence[AnsweredImage], tolerance: float | None = None) -> tuple[dict[str, Any], list[float]]:
    """The content of a COCO instances file; phrases, scores and the ids of answers are further fields.

    Args:
        images: with their answers.
        tolerance: None: run lengths; else polygons, see `pixellm.export.outlines.polygons`.

    Returns:
        It, and the IoU of each mask with its polygons; empty for run lengths.
    """
    numbers = category_ids(images)
    ious: list[float] = []
    found: list[dict[str, Any]] = []
    for image_id, one in enumerate(images, 1):
        for answer in one.answers:
            for target in answer.targets:
                row = {"id": len(found) + 1, "image_id": image_id, "category_id": numbers[target.category]}
                row |= {"segmentation": segmentation(target, tolerance, ious), **_measures(target), "iscrowd": 0}
                row |= {"phrase": target.phrase, "answer_id": answer.id}
                found.append(row if target.score is None else row | {"score": target.score})
    entries = [
        {"id": number, "file_name": name, "height": one.hw[0], "width": one.hw[1]}
        for number, (one, name) in enumerate(zip(images, file_names(images), strict=True), 1)
    ]
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()]
    return {"info": INFO, "images": entries, "annotations": found, "categories": categories, "licenses": []}, ious


def write_lvis(images: Sequence[AnsweredImage], out: Path, tolerance: float | None) -> list[float]:
    """Write an LVIS file: as COCO's, always polygons.

    Whether an answer shows all there is of a category nobody knows: every category is listed as not exhaustive.
    """
    numbers = category_ids(images)
    ious: list[float] = []
    found, entries = [], []
    of_images, of_instances = Counter(), Counter()
    for image_id, (one, name) in enumerate(zip(images, file_names(images), strict=True), 1):
        for target in one.targets:
            row = {"id": len(found) + 1, "image_id": image_id, "category_id": numbers[target.category]}
            found.append(row | {"segmentation": segmentation(target, tolerance or 0.0, ious), **_measures(target)})
        names = Counter(target.category for target in one.targets)
        of_instances += names
        of_images.update(names.keys())
        # Readers take folder and name from the end of this address.
        url = one.image if one.image.startswith(EXAMPLE) else Path(one.image).absolute().as_uri()
        entry = {"id": image_id, "file_name": name, "coco_url": url, "height": one.hw[0], "width": one.hw[1]}
        present = sorted(numbers[name] for name in names)
        entries.append(entry | {"neg_category_ids": [], "not_exhaustive_category_ids": present})
    categories = [
        {
            **{"id": number, "name": name.replace(" ", "_"), "synset": "", "synonyms": [name], "def": ""},
            **{"frequency": _frequency(of_images[name])},
            **{"image_count": of_images[name], "instance_count": of_instances[name]},
        }
        for name, number in numbers.items()
    ]
    _write(out, {"info": INFO, "images": entries, "annotations": found, "categories": categories, "licenses": []})
    return ious


def category_ids(images: Sequence[AnsweredImage]) -> dict[str, int]:
    """Number the categories of all targets from 1, in the order in which they come."""
    names = dict.fromkeys(target.category for one in images for target in one.targets)
    return {name: number for number, name in enumerate(names, 1)}


def segmentation(target: Target, tolerance: float | None, ious: list[float]) -> masks.Segmentation:
    """A mask as run lengths, or as polygons, of which the IoU is added to `ious`."""
    if tolerance is None:
        return target.rle
    mask = target.mask
    found: list[list[float]] = [one.ravel().tolist() for one in polygons(mask, tolerance=tolerance)]
    ious.append(iou(mask, masks.decode(found, *mask.shape)))
    return found


def _measures(target: Target) -> dict[str, Any]:
    return {"area": target.area, "bbox": list(target.box or ())}


def _frequency(images: int) -> str:
    return "r" if images <= RARE else "c" if images <= COMMON else "f"


def _write(out: Path, content: Mapping[str, Any]) -> None:
    write_text(out, json.dumps(content, ensure_ascii=False) + "\n")
