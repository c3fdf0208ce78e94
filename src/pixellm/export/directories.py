"""Formats that are directories: labelme, YOLO, masks and cut-outs as PNG. Each is written whole or not at all.

- labelme: images, each with a JSON file of polygons, ready to be corrected. Parts of one mask share a `group_id`, which
  labelme unites. It fills the line that is drawn, too: polygons go from centre to centre of pixels, nothing is lost.
- YOLO, as Ultralytics trains from: images/, labels/ with a line for each mask, data.yaml. A line is one polygon: parts
  of a mask are joined by a line there and back, a pixel wide where it is filled, which is the format's loss.
- masks: STEM-1_black-cat.png, 255 inside, 0 outside, and answers.jsonl (`pixellm.data.jsonl`), which names them.
- cut-outs: the same names, RGBA of the masks' boxes, transparent around the object.

All writers raise a ValueError if something is in `out` already, or if an image can't be read.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pixellm.export.answers import AnsweredImage, category_ids, with_slots
from pixellm.export.outlines import filled, iou, polygons
from pixellm.imaging.images import EXAMPLE
from pixellm.imaging.overlay import cut_out
from pixellm.types import UNNAMED, Answer, Target
from pixellm.utils.files import atomic_directory

LABELME_VERSION = "5.5.0"  # whose format this is; later ones read it
# From the first corner of a pixel: readers who round and readers who cut off get the same pixel.
INSIDE = 0.25
NAME_LENGTH = 40  # characters of a phrase in a file's name


def write_labelme(images: Sequence[AnsweredImage], out: Path, tolerance: float | None) -> list[float]:
    """Write for labelme; return the IoU of each mask with its polygons as labelme fills them."""
    ious: list[float] = []
    with atomic_directory(out) as folder:
        for image in images:
            shapes = []
            for group, target in enumerate(image.targets):
                shapes += _shapes(target, group, tolerance or 0.0, ious)
            content = {
                "version": LABELME_VERSION,
                "flags": {},
                "shapes": shapes,
                "imagePath": image.copy_to(folder),
                "imageData": None,
                "imageHeight": image.hw[0],
                "imageWidth": image.hw[1],
            }
            path = folder / f"{image.stem}.json"
            path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return ious


def _shapes(target: Target, group: int, tolerance: float, ious: list[float]) -> list[dict[str, Any]]:
    mask = target.mask
    points = polygons(mask, centres=True, tolerance=tolerance)
    ious.append(iou(mask, filled(points, *mask.shape)))
    fields = {"group_id": group, "description": target.phrase, "shape_type": "polygon", "flags": {}, "mask": None}
    return [{"label": target.category, "points": polygon.tolist(), **fields} for polygon in points]


def write_yolo(images: Sequence[AnsweredImage], out: Path, tolerance: float | None) -> list[float]:
    """Write for YOLO; return the IoU of each mask with its polygon as supervision and OpenCV fill it."""
    numbers = {name: number - 1 for name, number in category_ids(images).items()}  # from 0
    ious: list[float] = []
    with atomic_directory(out) as folder:
        (folder / "images").mkdir()
        (folder / "labels").mkdir()
        for image in images:
            image.copy_to(folder / "images")
            rows = [(numbers[target.category], _polygon(target, tolerance or 0.0, ious)) for target in image.targets]
            lines = "".join(f"{number} {points}\n" for number, points in rows)
            (folder / "labels" / f"{image.stem}.txt").write_text(lines, encoding="utf-8")
        names = "".join(f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for name, number in numbers.items())
        (folder / "data.yaml").write_text(f"train: images\nval: images\nnames:\n{names}", encoding="utf-8")
    return ious


def _polygon(target: Target, tolerance: float, ious: list[float]) -> str:
    """Return a mask's polygon as shares of width and height."""
    from pixellm.imaging.overlay import supervision  # it takes a second

    mask = target.mask
    height, width = mask.shape
    (polygon,) = polygons(mask, centres=True, tolerance=tolerance, together=True)
    ious.append(iou(mask, supervision().polygon_to_mask(polygon, (width, height)).astype(bool)))
    return " ".join(f"{share:.6f}" for share in ((polygon + INSIDE) / (width, height)).ravel())


def write_masks(images: Sequence[AnsweredImage], out: Path) -> None:
    """Write masks, and `answers.jsonl`."""
    with atomic_directory(out) as folder:
        rows = []
        for image in images:
            path = image.copy_to(folder) if image.image.startswith(EXAMPLE) else os.path.relpath(image.image, out)
            names = _names(image)
            for answer in image.answers:
                files = [next(names) for _ in answer.targets]
                for target, name in zip(answer.targets, files, strict=True):
                    Image.fromarray(target.mask).convert("L").save(folder / name)
                rows += [_row(answer, path, files)] if answer.question and answer.text else []
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "answers.jsonl").write_text(lines, encoding="utf-8")


def _row(answer: Answer, image: str, files: Sequence[str]) -> dict[str, Any]:
    text, order = with_slots(answer)
    row = {"id": answer.id, "image": Path(image).as_posix(), "question": answer.question, "answer": text}
    return row | {"masks": [files[index] for index in order]}


def write_cutouts(images: Sequence[AnsweredImage], out: Path) -> None:
    """Write objects cut out of their images."""
    with atomic_directory(out) as folder:
        for image in images:
            pixels = image.load()
            for target, name in zip(image.targets, _names(image), strict=True):
                cut_out(pixels, target.mask).save(folder / name)


def _names(image: AnsweredImage) -> Iterator[str]:
    for number, target in enumerate(image.targets, 1):
        words = re.sub(r"[\W_]+", "-", target.category)[:NAME_LENGTH].strip("-")  # the last _ of a name is ours
        yield f"{image.stem}-{number}_{words or UNNAMED}.png"
