"""X-AnyLabeling's label files as corrections: those that a user has marked as checked → polygons → masks of labels.

Its server protocol says nothing about what becomes of predictions. Its files do: `checked` is true once a user has
passed the image, and labelling the image again by a model resets it.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pixellm.export.outlines import MIN_POINTS, filled
from pixellm.imaging.images import check_pixels
from pixellm.integrations.corrected_labels import AcceptedImage, corrections_of_labels, united

TOOL = "x-anylabeling"


def label_files(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield X-AnyLabeling's files in a folder, in order, with their content; other JSON files are passed over.

    Raises:
        ValueError: a file that is no JSON.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            raise ValueError(f"expected JSON in {path}, got something else. Save it again.") from None
        if isinstance(content, dict) and {"shapes", "imagePath", "checked"} <= content.keys():
            yield path, content


def is_checked(content: dict[str, Any]) -> bool:
    """Return whether a user has passed the image; `checked` is "failed" where the user has rejected it."""
    return content["checked"] is True


def accepted_image(path: Path, content: dict[str, Any], images: Path | None, user: str) -> AcceptedImage:
    """Return the corrections of a label file: for each label the union of its polygons.

    Args:
        path: of the file.
        content: its JSON.
        images: folder of the images; None: `imagePath` is relative to the file, as X-AnyLabeling writes it.
        user: who corrected it.

    Raises:
        ValueError: polygons that can't be read, or no image.
    """
    try:
        height, width = content["imageHeight"], content["imageWidth"]
        check_pixels(height, width)
        parts = [
            (str(shape["label"]), _mask(shape["points"], height, width))
            for shape in content["shapes"]
            if shape["shape_type"] == "polygon"
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a label file of X-AnyLabeling, got {path}: {error!r}. Save it again.") from None
    corrections = corrections_of_labels(united(parts), {}, tool=TOOL, user=user)
    return AcceptedImage(path.name, _image(path, content, images) if corrections else b"", corrections)


def _mask(points: Any, height: int, width: int) -> np.ndarray:
    polygon = np.array(points, dtype=float)
    if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < MIN_POINTS or not np.isfinite(polygon).all():
        raise ValueError(f"expected a polygon of at least {MIN_POINTS} points x, y")
    return filled([polygon], height, width)


def _image(path: Path, content: dict[str, Any], images: Path | None) -> bytes:
    """Return the image of a label file: inside it, in `images`, or where `imagePath` says."""
    if content.get("imageData"):
        try:
            return base64.b64decode(content["imageData"], validate=True)
        except (binascii.Error, TypeError):
            raise ValueError(f"expected an image in the imageData of {path}, got something else.") from None
    place = str(content["imagePath"]).replace("\\", "/")
    file = path.parent / place if images is None else images / Path(place).name
    if not file.is_file():
        raise ValueError(f"expected the image of {path} at {file}, got none. Give its folder: --images")
    return file.read_bytes()
