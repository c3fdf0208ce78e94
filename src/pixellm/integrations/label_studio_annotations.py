"""Label Studio's annotations as corrections: the event of a submitted annotation → phrase, mask, mask before.

All brush regions of a label are one mask, as one question asks for all of them.
"""

import reprlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pixellm.data.corrections import Correction
from pixellm.imaging.images import check_pixels
from pixellm.integrations.corrected_labels import corrections_of_labels

SUBMITTED = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED")
CHANNELS, OPAQUE = 4, 128  # masks are RGBA; the brush smooths its edges, pixels from half on are the region's


def decode_brush(rle: Sequence[int], height: int, width: int) -> np.ndarray:
    """Return the bool (H, W) mask of Label Studio's run lengths, bytes 0..255; see `label_studio.encode_brush`.

    Raises:
        ValueError: no such bytes, or a mask of another size.
    """
    check_pixels(height, width)
    try:
        bits = "".join(f"{byte:08b}" for byte in bytes(rle))
        pieces = list(_runs(bits, CHANNELS * height * width))
    except (ValueError, TypeError, IndexError):
        raise ValueError(
            f"expected the run lengths of a brush mask of {height}×{width} pixels, got {reprlib.repr(rle)}. "
            "Export the annotation again."
        ) from None
    values = np.repeat(np.array([value for value, _ in pieces], dtype=np.uint8), [length for _, length in pieces])
    return values.reshape(height, width, CHANNELS)[..., -1] >= OPAQUE


def _runs(bits: str, expected: int) -> Iterator[tuple[int, int]]:
    """Yield values with their numbers; a ValueError unless they are as many as expected."""
    number, word = int(bits[:32], 2), int(bits[32:37], 2) + 1
    sizes = [int(bits[start : start + 4], 2) + 1 for start in range(37, 53, 4)]
    if number != expected or word != 8:
        raise ValueError(f"expected {expected} values of 8 bits, got {number} of {word}")
    at, left = 53, number
    while left > 0:
        is_run, size = bits[at] == "1", sizes[int(bits[at + 1 : at + 3], 2)]
        length, at = int(bits[at + 3 : at + 3 + size], 2) + 1, at + 3 + size
        left -= length
        if left < 0:
            raise ValueError("expected runs that end with the mask, got a longer one")
        for _ in range(1 if is_run else length):
            yield int(bits[at : at + 8], 2), length if is_run else 1
            at += 8


def corrections_of(event: Mapping[str, Any], brush: str) -> list[Correction]:
    """Return the corrections of an event: one for each label that the annotation or its prediction has.

    Args:
        event: Label Studio's, with `annotation`.
        brush: name of the BrushLabels in the labeling configuration.

    Raises:
        ValueError: regions that can't be read.
    """
    annotation = event["annotation"]
    prediction = annotation.get("prediction")
    prediction = prediction if isinstance(prediction, dict) else {}  # some projects send its number alone
    user = annotation.get("updated_by") or annotation.get("completed_by")
    return corrections_of_labels(
        _masks(rows_of(annotation), brush),
        _masks(rows_of(prediction), brush),
        tool="label-studio",
        user=f"user {user}" if user else "",
        model=str(prediction.get("model_version") or ""),
    )


def _masks(regions: Sequence[Mapping[str, Any]], brush: str) -> dict[str, np.ndarray]:
    """Return the union of the brush regions of each label; a region without one goes by its note, or is left out."""
    parts = defaultdict[str, list[np.ndarray]](list)
    for region in regions:
        value = region.get("value")
        if region.get("from_name") != brush or not isinstance(value, dict) or value.get("format") != "rle":
            continue
        meta = region.get("meta")
        names = texts(value.get("brushlabels")) or texts(meta.get("text") if isinstance(meta, dict) else None)
        hw = region.get("original_height"), region.get("original_width")
        for name in names[:1]:
            parts[name].append(decode_brush(value.get("rle") or (), *hw))
    return {name: np.any(found, axis=0) for name, found in parts.items()}


def rows_of(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the regions in the `result` of an annotation, prediction or context; a ValueError for anything else."""
    rows = part.get("result") or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"expected a list of regions in result, got {reprlib.repr(rows)}.")
    return rows


def texts(value: Any) -> list[str]:
    """Return the texts of a field that holds one, several, or nothing."""
    if isinstance(value, str):
        return [value] if value else []
    return [str(text) for text in value] if isinstance(value, Sequence) else []
