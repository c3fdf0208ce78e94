"""YOLO segmentation, as Ultralytics trains from: images/, labels/ with a line for each mask, data.yaml.

A line is one polygon: parts of a mask are tied by a line there and back, a pixel wide where it is filled, which is the
format's loss. Coordinates are shares of width and height.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pixellm.export.answers import AnsweredImage
from pixellm.export.coco import category_ids
from pixellm.export.files import place
from pixellm.export.outlines import filled, iou, polygons
from pixellm.types import Target
from pixellm.utils.files import atomic_directory

# From the first corner of a pixel: readers who round and readers who cut off get the same pixel.
INSIDE = 0.25


def write_yolo(images: Sequence[AnsweredImage], out: Path, tolerance: float | None) -> list[float]:
    """Write a directory; the IoU of each mask with its polygon when that is filled.

    Raises:
        ValueError: something is in `out` already, or an image can't be read.
    """
    numbers = {name: number - 1 for name, number in category_ids(images).items()}  # from 0
    ious: list[float] = []
    with atomic_directory(out) as folder:
        (folder / "images").mkdir()
        (folder / "labels").mkdir()
        for one in images:
            place(one, folder / "images")
            lines = [
                f"{numbers[target.category]} {_polygon(target, tolerance or 0.0, ious)}\n" for target in one.targets
            ]
            (folder / "labels" / f"{one.stem}.txt").write_text("".join(lines), encoding="utf-8")
        names = "".join(f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for name, number in numbers.items())
        (folder / "data.yaml").write_text(f"train: images\nval: images\nnames:\n{names}", encoding="utf-8")
    return ious


def _polygon(target: Target, tolerance: float, ious: list[float]) -> str:
    mask = target.mask
    height, width = mask.shape
    (found,) = polygons(mask, centres=True, tolerance=tolerance, together=True)
    ious.append(iou(mask, filled([found], height, width)))
    shares = (found + INSIDE) / (width, height)
    return " ".join(f"{share:.6f}" for share in shares.ravel())
