"""A segmenter that finds colours: masks that tests of tools can compute by themselves."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm.data.corrections import Correction
from pixellm.imaging import masks
from pixellm.imaging.images import load_image
from pixellm.imaging.visual_prompts import Marks
from pixellm.types import Answer, Segmenter, Target

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SCORES = {"red": 0.9, "green": 0.6, "blue": 0.3}


def flag(width: int = 40, height: int = 30) -> Image.Image:
    """Red in the upper left corner, green below a third of the height, blue nowhere."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[: height // 3, : width // 2] = COLOURS["red"]
    pixels[height // 2 :, 5:-5] = COLOURS["green"]
    return Image.fromarray(pixels)


def mask_of(image: Image.Image, colour: str) -> np.ndarray:
    return (np.asarray(image) == COLOURS[colour]).all(axis=2)


class ColourSegmenter(Segmenter):
    """Answers with one mask for each colour that a question names and the image has; counts the encoded images."""

    def __init__(self, min_score: float = 0.0) -> None:
        self.min_score, self.encoded, self.questions = min_score, 0, []

    def set_image(self, image: Image.Image | np.ndarray | str | Path) -> None:
        self._image = load_image(image)
        self.encoded += 1

    @property
    def image_hw(self) -> tuple[int, int]:
        return self._image.height, self._image.width

    def ask(self, question: str) -> Answer:
        self.questions.append(question)
        text, targets = "", []
        for colour in COLOURS:
            mask = mask_of(self._image, colour)
            if colour in question.lower() and mask.any():
                text += " and " if text else ""
                span = (len(text), len(text) + len(f"the {colour}"))
                text += f"the {colour}"
                targets.append(Target.of_mask(f"the {colour}", span, mask, SCORES[colour]))
        size = (self._image.height, self._image.width)
        return Answer(question, text or "Nothing.", tuple(targets), size, self._image).above(self.min_score)

    @property
    def takes_prompts(self) -> bool:
        return True

    def refine(self, target: Target, *, points=(), box=None, strokes=()) -> Target:
        """Add what has the colour of a point to the mask, or take it away; nothing lies outside the box."""
        mask, pixels = target.mask, np.asarray(self._image)
        sides = [*points, *((*corner, side) for line, side in strokes for corner in line)]
        for x, y, positive in sides:
            same = (pixels == pixels[int(y), int(x)]).all(axis=2)
            mask = mask | same if positive else mask & ~same
        if box is not None:
            x, y, width, height = map(int, box)
            inside = np.zeros_like(mask)
            inside[y : y + height, x : x + width] = True
            mask = mask & inside
        return replace(target, rle=masks.encode(mask), score=0.8)


class ColourServer:
    """A `RemoteSegmenter` without a server."""

    def __init__(self) -> None:
        self.segmenter = ColourSegmenter()

    def ask_about_file(self, file: bytes, question: str) -> Answer:
        self.segmenter.set_image(Image.open(io.BytesIO(file)))
        return self.segmenter.ask(question)

    def refine_in_file(self, file: bytes, target: Target | None, marks: Marks) -> Target:
        self.segmenter.set_image(Image.open(io.BytesIO(file)))
        size = self.segmenter.image_hw
        before = Target.of_mask("", (0, 0), np.zeros(size, dtype=bool)) if target is None else target
        return self.segmenter.refine(before, points=marks.points, box=marks.box, strokes=marks.strokes)

    def model_name(self) -> str:
        return "colours"


class KeepingServer(ColourServer):
    """A `RemoteSegmenter` without a server, which keeps corrections and their images."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Correction, bytes]] = []

    def send_correction(self, correction: Correction, file: bytes) -> dict:
        self.kept.append((correction, file))
        return {"id": str(len(self.kept)), "image": "images/1.png", "replaced": False}


def flag_file() -> bytes:
    stream = io.BytesIO()
    flag().save(stream, "PNG")
    return stream.getvalue()
