"""Prompts that ask a vision-language model for questions, versioned: a change of words is a new file.

    ImageAnnotations → messages → reply (questions with marked answers) → records and rejects

An answer marks the phrase for an object as [the white mug](3). The variants:

- `boxes`: image and boxes, as MUSE was made.
- `captions`: captions and boxes without the image, the comparison that the paper makes.
- `describe`: in one reply descriptions of the objects, then the questions about them.
"""

import base64
import io
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from pixellm.imaging.images import load_image
from pixellm.muse.records import ImageAnnotations, MuseImage

VERSIONS = {"boxes": 1, "captions": 1, "describe": 1}  # in use
MAX_SIDE = 768  # pixels: enough to see what is named, and cheap
ACCEPTED = ("JPEG", "PNG", "WEBP")  # formats that all servers take
ORIENTATION = 0x0112  # EXIF: how the camera was held; 1 is upright
SAME_RATIO = 0.02  # relative difference of aspect ratios, from rounding when images were made smaller
SEPARATOR = "\n===\n"

_PAIR = {
    "type": "object",
    "properties": {
        "objects": {"type": "array", "items": {"type": "integer"}},
        "question": {"type": "string"},
        "answer": {"type": "string"},
    },
    "required": ["objects", "question", "answer"],
    "additionalProperties": False,
}
_DESCRIPTION = {
    "type": "object",
    "properties": {"object": {"type": "integer"}, "description": {"type": "string"}},
    "required": ["object", "description"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Prompt:
    """Prompt of a variant of `VERSIONS`, in the version that is in use.

    Raises:
        ValueError: there is no such variant.
    """

    variant: str

    def __post_init__(self) -> None:
        if self.variant not in VERSIONS:
            raise ValueError(f"expected a prompt of {', '.join(VERSIONS)}, got {self.variant!r}.")

    @property
    def name(self) -> str:
        """NAME@VERSION, as records and the journal have it."""
        return f"{self.variant}@{VERSIONS[self.variant]}"

    @property
    def with_image(self) -> bool:
        """True if the image is sent."""
        return self.variant != "captions"

    @cached_property
    def parts(self) -> tuple[str, str, str]:
        """Instructions, template of the user's message, and an example of the reply."""
        text = (files(__name__) / f"{self.name}.txt").read_text(encoding="utf-8")
        system, user, example = text.strip().split(SEPARATOR)
        return system, user, example

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the reply."""
        properties: dict[str, Any] = {"pairs": {"type": "array", "items": _PAIR}}
        if self.variant == "describe":
            properties = {"descriptions": {"type": "array", "items": _DESCRIPTION}} | properties
        return {
            **{"type": "object", "properties": properties},
            **{"required": list(properties), "additionalProperties": False},
        }

    def messages(self, image: ImageAnnotations, images: Path, questions: int) -> list[dict[str, Any]]:
        """Return the messages about an image, whose objects are numbered from 1.

        Raises:
            ValueError: the image can't be read, or has no caption where the prompt needs one.
        """
        system, user, example = (Template(text) for text in self.parts)
        content: list[dict[str, Any]] = []
        scale = 1.0
        if self.with_image:
            message, scale = image_message(image.image, images)
            content.append(message)
        elif not image.captions:
            raise ValueError(f"expected captions of {image.image.file_name}, got none. Give --captions.")
        values = {
            **{"width": round(image.image.width * scale), "height": round(image.image.height * scale)},
            **{"objects": "\n".join(_object_lines(image, scale)), "captions": "\n".join(image.captions)},
            "questions": questions,
        }
        content.append({"type": "text", "text": user.substitute(values)})
        instructions = system.substitute(values)
        instructions += f"\n\nReply as JSON of this kind, and nothing else: {example.template}"
        return [{"role": "system", "content": instructions}, {"role": "user", "content": content}]


def _object_lines(image: ImageAnnotations, scale: float) -> list[str]:
    lines = []
    for number, target in enumerate(image.instances, 1):
        x, y, width, height = (side * scale for side in target.box)
        lines.append(f"{number}. {target.category} at [{x:.0f}, {y:.0f}, {x + width:.0f}, {y + height:.0f}]")
    return lines


def image_message(image: MuseImage, folder: Path) -> tuple[dict[str, Any], float]:
    """Return an image as a part of a message, and its scale: sent pixels to one pixel of the annotations.

    The file is sent unchanged, unless it is larger than need be or not upright.

    Raises:
        ValueError: it can't be read, or has another shape than the annotations say.
    """
    path = folder / image.file_name
    kind, data, (width, height) = _unchanged(path) or _smaller(path)
    if abs(width * image.height / (height * image.width) - 1) > SAME_RATIO:
        raise ValueError(
            f"{path}: expected {image.width} x {image.height} pixels, or that shape, as the annotations say, got "
            f"{width} x {height}. They are of another file."
        )
    url = f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url}}, width / image.width


def _unchanged(path: Path) -> tuple[str, bytes, tuple[int, int]] | None:
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=ACCEPTED) as image:
            upright = image.getexif().get(ORIENTATION, 1) == 1
            if upright and image.mode in ("RGB", "L") and max(image.size) <= MAX_SIDE:
                return str(image.format), data, image.size
    except (OSError, SyntaxError, ValueError):
        pass  # `load_image` reports what is wrong with it
    return None


def _smaller(path: Path) -> tuple[str, bytes, tuple[int, int]]:
    image = load_image(path)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return "JPEG", buffer.getvalue(), image.size
