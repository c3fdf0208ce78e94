"""The formats by name, and what writing one came to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixellm.export.answers import by_image
from pixellm.export.coco import write_coco, write_lvis
from pixellm.export.labelme import write_labelme
from pixellm.export.muse import usable, write_muse
from pixellm.export.pictures import write_cutouts, write_masks
from pixellm.export.yolo import write_yolo
from pixellm.types import Answer

Name = Literal["coco", "lvis", "labelme", "yolo-seg", "png", "cutout", "muse"]
POLYGONAL = {
    "coco": write_coco,
    "lvis": write_lvis,
    "labelme": write_labelme,
    "yolo-seg": write_yolo,
    "muse": write_muse,
}
PICTURES = {"png": write_masks, "cutout": write_cutouts}
FILES = ("coco", "lvis", "muse")  # the others are directories


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        images, masks: how many.
        empty: masks without a pixel, left out.
        unusable: answers without a mask or a question, which MUSE's layout has no place for.
        ious: of each mask with its polygons when those are filled as the format's readers do; () without polygons.
    """

    images: int
    masks: int
    empty: int
    unusable: int
    ious: tuple[float, ...]


def export(answers: Sequence[Answer], to: Name, out: Path, tolerance: float | None = None) -> Exported:
    """Write answers in a format, whole or not at all.

    Args:
        answers: see `pixellm.export.answers.read_answers`.
        to: which one.
        out: a JSON file for coco, lvis and muse; else a directory that isn't there, or is empty.
        tolerance: pixels that polygons may be off; None: 0, and for coco and muse run lengths in place of polygons.

    Raises:
        ValueError: nothing to write; `tolerance` for pictures; see the writers.
    """
    if to in PICTURES and tolerance is not None:
        raise ValueError(f"--tolerance: expected a format of polygons, got {to}, which is exact. Leave it out.")
    unusable = sum(not usable(answer) for answer in answers) if to == "muse" else 0
    if len(answers) == unusable:
        raise ValueError(f"expected answers that {to} has a place for, got none of {len(answers)}.")
    if to in FILES and out.is_dir():
        raise ValueError(f"--out: expected a file, got the directory {out}. Add a name that ends in .json.")
    images = by_image(answers)
    if to in PICTURES:
        PICTURES[to](images, out)
        ious: list[float] = []
    else:
        ious = POLYGONAL[to](images, out, tolerance)
    written = [answer for answer in answers if to != "muse" or usable(answer)]
    count = len({answer.image_path for answer in written})
    filled = sum(bool(target.area) for answer in written for target in answer.targets)
    empty = sum(not target.area for answer in answers for target in answer.targets)
    return Exported(count, filled, empty, unusable, tuple(ious))
