"""Annotations of a tool as corrections: masks of labels, after and before → `Correction`s → a pixellm server."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pixellm.data.corrections import Correction
from pixellm.imaging import masks
from pixellm.integrations.remote import RemoteSegmenter


@dataclass(frozen=True)
class AcceptedImage:
    """An image whose masks a person has accepted in a tool.

    Args:
        name: for messages.
        file: the encoded image.
        corrections: one for each label.
    """

    name: str
    file: bytes
    corrections: list[Correction]


def corrections_of_labels(
    after: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray],
    *,
    tool: str,
    user: str = "",
    model: str = "",
) -> list[Correction]:
    """Return a correction for each label.

    A label that was there before and is not any more is a correction, too: the image does not show it.

    Args:
        after: the accepted mask of each label, bool (H, W).
        before: the mask that the model gave, bool (H, W); {}: not known.
        tool: program in which they were corrected.
        user: who corrected them.
        model: name of the model; "": the one that the server serves.

    Raises:
        ValueError: a label without words, or masks of two sizes.
    """
    corrections = []
    for label in dict.fromkeys([*after, *before]):
        earlier = before.get(label)
        mask = after[label] if label in after else np.zeros_like(before[label])
        encoded = None if earlier is None else masks.encode(earlier)
        corrections.append(Correction(label, masks.encode(mask), encoded, tool=tool, user=user, model=model))
    return corrections


def united(parts: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the union of the bool (H, W) masks of each label, as one question asks for all of them."""
    found: dict[str, np.ndarray] = {}
    for label, mask in parts:
        found[label] = found[label] | mask if label in found else mask
    return found


def send(segmenter: RemoteSegmenter, images: Iterable[AcceptedImage]) -> int:
    """Send the corrections of images, one after another; return how many.

    What is sent again replaces itself, so that a call that failed can be repeated.

    Raises:
        ValueError: the server's error, with the name of the image.
    """
    count = 0
    for image in images:
        for correction in image.corrections:
            try:
                segmenter.send_correction(correction, image.file)
            except ValueError as error:
                raise ValueError(f"{image.name}, {correction.phrase}: {error}") from None
            count += 1
    return count
