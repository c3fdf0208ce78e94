"""labelme: a directory of images, each with a JSON file of polygons, ready to be opened and corrected.

Parts of one mask share a `group_id`, which labelme unites; a hole is joined to the edge by a cut. labelme fills the
line that is drawn, too: polygons go from centre to centre of pixels, and nothing is lost.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixellm.export.answers import AnsweredImage
from pixellm.export.files import place
from pixellm.export.outlines import filled, iou, polygons
from pixellm.types import Target
from pixellm.utils.files import atomic_directory

VERSION = "5.5.0"  # of labelme, whose format this is; later ones read it


def write_labelme(images: Sequence[AnsweredImage], out: Path, tolerance: float | None) -> list[float]:
    """Write a directory; the IoU of each mask with its polygons as labelme fills them.

    Raises:
        ValueError: something is in `out` already, or an image can't be read.
    """
    ious: list[float] = []
    with atomic_directory(out) as folder:
        for one in images:
            shapes = []
            for group, target in enumerate(one.targets):
                shapes += _shapes(target, group, tolerance or 0.0, ious)
            content = {
                "version": VERSION,
                "flags": {},
                "shapes": shapes,
                "imagePath": place(one, folder),
                "imageData": None,
                "imageHeight": one.hw[0],
                "imageWidth": one.hw[1],
            }
            path = folder / f"{one.stem}.json"
            path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return ious


def _shapes(target: Target, group: int, tolerance: float, ious: list[float]) -> list[dict[str, Any]]:
    mask = target.mask
    found = polygons(mask, centres=True, tolerance=tolerance)
    ious.append(iou(mask, filled(found, *mask.shape)))
    return [
        {
            "label": target.category,
            "points": one.tolist(),
            "group_id": group,
            "description": target.phrase,
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for one in found
    ]
