"""Export formats by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixellm.export.answers import by_image, merge
from pixellm.export.coco import usable_for_muse, write_coco, write_lvis, write_muse
from pixellm.export.directories import write_cutouts, write_labelme, write_masks, write_yolo
from pixellm.types import Answer

FormatName = Literal["coco", "lvis", "labelme", "yolo-seg", "png", "cutout", "muse"]
POLYGONS = {
    "coco": write_coco,
    "lvis": write_lvis,
    "labelme": write_labelme,
    "yolo-seg": write_yolo,
    "muse": write_muse,
}
IMAGES = {"png": write_masks, "cutout": write_cutouts}
FILES = ("coco", "lvis", "muse")  # the others are directories
TEXTS = ("png", "muse")  # they hold the answers' texts, whose phrases have a mask each


@dataclass(frozen=True)
class ExportSummary:
    """Content of an export.

    Args:
        images, masks: number of them.
        empty: masks without a pixel, left out.
        merged: masks that are nearly those of another target, left out.
        unusable: answers without a mask or a question, which MUSE's layout has no place for.
        ious: of each mask with its polygons when those are filled as the format's readers do; () without polygons.
    """

    images: int
    masks: int
    empty: int
    merged: int
    unusable: int
    ious: tuple[float, ...]


def export(
    answers: Sequence[Answer],
    to: FormatName,
    out: Path,
    tolerance: float | None = None,
    merge_iou: float | None = None,
) -> ExportSummary:
    """Write answers in a format, whole or not at all.

    Args:
        answers: see `pixellm.export.answers.read_answers`.
        to: the format.
        out: a new JSON file for coco, lvis and muse; else a directory that isn't there, or is empty.
        tolerance: pixels that polygons may be off; None: 0, and for coco and muse run lengths in place of polygons.
        merge_iou: least IoU of two masks on an image that are merged, see `merge`; None: none are.

    Raises:
        ValueError: nothing to write; `tolerance` for a format without polygons, `merge_iou` for one with texts; see the
            writers.
    """
    if to in IMAGES and tolerance is not None:
        raise ValueError(f"--tolerance: expected a format of polygons, got {to}, which is exact. Leave it out.")
    if to in TEXTS and merge_iou is not None:
        raise ValueError(f"--merge-iou: expected a format of masks alone, got {to}, which holds texts. Leave it out.")
    written = [answer for answer in answers if to != "muse" or usable_for_muse(answer)]
    if not written:
        raise ValueError(f"expected answers that {to} has a place for, got none of {len(answers)}.")
    if to in FILES and out.is_dir():
        raise ValueError(f"--out: expected a file, got the directory {out}. Add a name that ends in .json.")
    if to in FILES and out.exists():
        raise ValueError(f"--out: expected a new file, got {out}, which is there already. Move it away.")
    images, ious = by_image(answers), []
    filled, merged = sum(bool(target.area) for answer in written for target in answer.targets), 0
    if merge_iou is not None:
        images = [merge(image, merge_iou) for image in images]
        merged = filled - sum(len(image.targets) for image in images)
    if to in IMAGES:
        IMAGES[to](images, out)
    else:
        ious = POLYGONS[to](images, out, tolerance)
    empty = sum(not target.area for answer in answers for target in answer.targets)
    count = len({answer.image_path for answer in written})
    return ExportSummary(count, filled - merged, empty, merged, len(answers) - len(written), tuple(ious))
