"""COCO and LVIS: one JSON file of images, annotations and categories.

COCO has run lengths, which lose nothing, unless polygons are asked for; LVIS has polygons. Categories are what the
answers call things. Their readers fill what a polygon encloses, so that one along the edges of pixels is exact.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixellm.export.answers import Pictured, Shown
from pixellm.export.files import file_names
from pixellm.export.outlines import iou, polygons
from pixellm.imaging import masks
from pixellm.imaging.images import EXAMPLE
from pixellm.utils.files import write_text

INFO = {"description": "answers, exported by pixellm"}
RARE, COMMON = 10, 100  # LVIS (arXiv 1908.03195): categories of at most so many images are "r", "c"; others "f"


def write_coco(images: Sequence[Pictured], out: Path, tolerance: float | None) -> list[float]:
    """Write a COCO instances file, see `coco_file`; the IoU of each mask with its polygons, empty for run lengths."""
    content, ious = coco_file(images, tolerance)
    _write(out, content)
    return ious


def coco_file(images: Sequence[Pictured], tolerance: float | None = None) -> tuple[dict[str, Any], list[float]]:
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
            for shown in answer.shown:
                row = {"id": len(found) + 1, "image_id": image_id, "category_id": numbers[shown.category]}
                row |= {"segmentation": segmentation(shown, tolerance, ious), **_measures(shown), "iscrowd": 0}
                row |= {"phrase": shown.phrase, "answer_id": answer.id}
                found.append(row if shown.score is None else row | {"score": shown.score})
    entries = [
        {"id": number, "file_name": name, "height": one.hw[0], "width": one.hw[1]}
        for number, (one, name) in enumerate(zip(images, file_names(images), strict=True), 1)
    ]
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()]
    return {"info": INFO, "images": entries, "annotations": found, "categories": categories, "licenses": []}, ious


def write_lvis(images: Sequence[Pictured], out: Path, tolerance: float | None) -> list[float]:
    """Write an LVIS file: as COCO's, always polygons.

    Whether an answer shows all there is of a category nobody knows: every category is listed as not exhaustive.
    """
    numbers = category_ids(images)
    ious: list[float] = []
    found, entries = [], []
    of_images, of_instances = Counter(), Counter()
    for image_id, (one, name) in enumerate(zip(images, file_names(images), strict=True), 1):
        for shown in one.shown:
            row = {"id": len(found) + 1, "image_id": image_id, "category_id": numbers[shown.category]}
            found.append(row | {"segmentation": segmentation(shown, tolerance or 0.0, ious), **_measures(shown)})
        names = Counter(shown.category for shown in one.shown)
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


def category_ids(images: Sequence[Pictured]) -> dict[str, int]:
    """Names of what is shown, numbered from 1 in the order in which they come."""
    names = dict.fromkeys(shown.category for one in images for shown in one.shown)
    return {name: number for number, name in enumerate(names, 1)}


def segmentation(shown: Shown, tolerance: float | None, ious: list[float]) -> masks.Segmentation:
    """A mask as run lengths, or as polygons, of which the IoU is added to `ious`."""
    if tolerance is None:
        return shown.rle
    mask = shown.decode()
    found: list[list[float]] = [one.ravel().tolist() for one in polygons(mask, tolerance=tolerance)]
    ious.append(iou(mask, masks.decode(found, *mask.shape)))
    return found


def _measures(shown: Shown) -> dict[str, Any]:
    return {"area": shown.area, "bbox": list(shown.box)}


def _frequency(images: int) -> str:
    return "r" if images <= RARE else "c" if images <= COMMON else "f"


def _write(out: Path, content: Mapping[str, Any]) -> None:
    write_text(out, json.dumps(content, ensure_ascii=False) + "\n")
