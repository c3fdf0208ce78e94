"""Prompts that ask a vision-language model for questions, versioned: a change of words is a new file.

Scene → messages → reply → proposals (questions with marked answers) → records and rejects

An answer marks the words for an object as [the white mug](3). The variants:

- `boxes`: photograph and boxes, as MUSE was made.
- `captions`: sentences and boxes without the photograph, the comparison that the paper makes.
- `describe`: in one reply the objects described, then the questions about them.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from pixellm.muse.photograph import image_part
from pixellm.muse.scene import Scene

VERSIONS = {"boxes": 1, "captions": 1, "describe": 1}  # the one in use of each variant
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
    """A variant of `VERSIONS`, in the version that is in use.

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
    def sees(self) -> bool:
        """Whether the photograph is sent."""
        return self.variant != "captions"

    @cached_property
    def parts(self) -> tuple[str, str, str]:
        """Instructions, what is said of a photograph, and an example of the reply."""
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

    def messages(self, scene: Scene, images: Path, questions: int) -> list[dict[str, Any]]:
        """What is sent for a scene, whose objects are numbered from 1.

        Raises:
            ValueError: the photograph can't be read, or has no caption where the prompt needs one.
        """
        system, user, example = (Template(part) for part in self.parts)
        content: list[dict[str, Any]] = []
        scale = 1.0
        if self.sees:
            part, scale = image_part(scene.image, images)
            content.append(part)
        elif not scene.captions:
            raise ValueError(f"expected captions of {scene.image.file_name}, got none. Give --captions.")
        words = {
            **{"width": round(scene.image.width * scale), "height": round(scene.image.height * scale)},
            **{"objects": "\n".join(_object_lines(scene, scale)), "captions": "\n".join(scene.captions)},
            "questions": questions,
        }
        content.append({"type": "text", "text": user.substitute(words)})
        asked = f"{system.substitute(words)}\n\nReply as JSON of this kind, and nothing else: {example.template}"
        return [{"role": "system", "content": asked}, {"role": "user", "content": content}]


def _object_lines(scene: Scene, scale: float) -> list[str]:
    lines = []
    for number, thing in enumerate(scene.things, 1):
        x, y, width, height = (side * scale for side in thing.box)
        lines.append(f"{number}. {thing.category} at [{x:.0f}, {y:.0f}, {x + width:.0f}, {y + height:.0f}]")
    return lines
