"""JSON of a record for the review page: its answer in pieces, and an outline for each mask.

Shapes:  H, W image height and width
"""

from typing import Any

import numpy as np
from skimage.measure import approximate_polygon, find_contours

from pixellm.imaging import masks
from pixellm.imaging.overlay import colour_of, ink_on
from pixellm.muse.records import MuseRecord, MuseTarget
from pixellm.types import SEG_SLOT

TOLERANCE = 0.4  # pixels between an outline and the mask's edge: less than anybody sees


def view(record: MuseRecord) -> dict[str, Any]:
    """Return the content of a record; a target whose mask can't be read has an `error` in words."""
    size = record.image.height, record.image.width
    parts = pieces(record)
    named = {piece["target"] for piece in parts if piece["text"]}
    colours = ({"colour": colour_of(i), "ink": ink_on(i), "named": i in named} for i in range(len(record.targets)))
    targets = [_target_json(target, *size) | colour for target, colour in zip(record.targets, colours, strict=True)]
    return {
        "record_id": record.record_id,
        "image": {"file_name": record.image.file_name, "height": size[0], "width": size[1]},
        "question": record.question,
        "text": record.text,
        "pieces": parts,
        "targets": targets,
        "provenance": record.to_json()["provenance"],
    }


def pieces(record: MuseRecord) -> list[dict[str, Any]]:
    """Cut the answer at its slots: plain text (`target` None), and before each slot the phrase of its target.

    Where the text before a slot is not the target's description, the piece of that target has no text.
    """
    parts = []
    before, *rest = record.text.split(SEG_SLOT)
    for number, after in enumerate(rest):
        description = record.targets[number].description if number < len(record.targets) else ""
        plain, phrase = _cut(before.rstrip(), description)
        parts += [{"text": plain, "target": None}, {"text": phrase, "target": number}]
        before = after
    parts.append({"text": before, "target": None})
    return [piece for piece in parts if piece["text"] or piece["target"] is not None]


def _cut(text: str, ending: str) -> tuple[str, str]:
    """Return `text` before `ending`, and `ending` as it is written there; "" if the text ends otherwise."""
    start = len(text) - len(ending)
    if ending and start >= 0 and text[start:].casefold() == ending.casefold():
        return text[:start], text[start:]
    return text, ""


def _target_json(target: MuseTarget, height: int, width: int) -> dict[str, Any]:
    path, pixels, error = "", 0, None
    try:
        mask = masks.decode(target.segmentation, height, width)
        path, pixels = outline(mask), int(mask.sum())
    except ValueError as problem:
        error = str(problem)
    return {
        "category": target.category,
        "description": target.description,
        "path": path,
        "share": pixels / (height * width),
        "error": error,
    }


def outline(mask: np.ndarray) -> str:
    """Return the edge of a bool (H, W) mask as an SVG path in pixels, for the even-odd rule: holes stay holes."""
    box = masks.bounding_box(mask)
    if box is None:
        return ""
    x, y, width, height = box
    # The contour finder counts from pixel centres, SVG from corners; the margin of 1 closes contours at the box's edge.
    cut = np.pad(mask[y : y + height, x : x + width].astype(np.float32), 1)
    corner = np.array([y - 0.5, x - 0.5])
    rings = (corner + approximate_polygon(ring, TOLERANCE) for ring in find_contours(cut, 0.5))
    lines = ("L".join(f"{column:.7g} {row:.7g}" for row, column in ring[:-1]) for ring in rings)
    return "".join(f"M{line}Z" for line in lines)
