"""Answers to export: read from what `pixellm ask --json` and the server give, or from a file of predictions.

file → Exported answers → by image → a format's writer
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pixellm.batch.questions import Asked, read_questions
from pixellm.data.records import expect
from pixellm.eval.predictions import Prediction, read_predictions
from pixellm.imaging import masks
from pixellm.imaging.images import EXAMPLE, MAX_PIXELS, load_image
from pixellm.types import SEG_SLOT

UNNAMED = "object"  # the category of a mask that the text has no words for
ARTICLE = re.compile(r"(?:(?:the|an?)\s+)+(?=\S)")


@dataclass(frozen=True)
class Shown:
    """A mask of an answer.

    Args:
        span: (start, end) of its words in the answer's text.
        phrase: these words; "" if there are none.
        rle: the mask, never empty.
        score: 0..1, where the system gave one.
    """

    span: tuple[int, int]
    phrase: str
    rle: masks.Rle
    score: float | None = None

    @property
    def category(self) -> str:
        """The phrase as a name: lower case, without an article."""
        return ARTICLE.sub("", " ".join(self.phrase.lower().split()), count=1).strip(" .,;:!?\"'") or UNNAMED

    @property
    def area(self) -> int:
        """Pixels."""
        return masks.area(self.rle)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width, height in pixels."""
        return masks.box(self.rle)

    def decode(self) -> np.ndarray:
        """The mask as bool (H, W)."""
        return masks.decode(self.rle, *self.rle["size"])


@dataclass(frozen=True)
class Given:
    """An answer.

    Args:
        id: of the question.
        image: the image's file, or example:NAME.
        hw: (height, width) of image and masks.
        question: as it was asked; "" if nobody kept it.
        text: without slots for masks.
        shown: its masks, those that have a pixel.
        empty: how many have none, and are left out.
    """

    id: str
    image: str
    hw: tuple[int, int]
    question: str
    text: str
    shown: tuple[Shown, ...]
    empty: int = 0

    def with_slots(self) -> tuple[str, list[int]]:
        """The text with a `{seg}` behind the words for each mask, and which of `shown` each stands for."""
        order = sorted(range(len(self.shown)), key=lambda index: self.shown[index].span[1])
        pieces, end = [], 0
        for index in order:
            start, end = end, self.shown[index].span[1]
            pieces += [self.text[start:end], " " if end else "", SEG_SLOT]
        return "".join((*pieces, self.text[end:])), order


@dataclass(frozen=True)
class Pictured:
    """An image with all answers about it; `stem` is a file name for it that no other image has."""

    image: str
    hw: tuple[int, int]
    stem: str
    answers: tuple[Given, ...]

    @property
    def shown(self) -> list[Shown]:
        """All masks."""
        return [one for answer in self.answers for one in answer.shown]


def read_answers(path: Path, image: str | None = None, questions: Path | None = None) -> list[Given]:
    """Answers from a file.

    Args:
        path: JSON of an answer or of a list of answers (`pixellm ask --json`, /v1/segment), or predictions.
        image: which one they are about, where the file does not say.
        questions: JSON lines that say for predictions which image and question an id stands for.

    Raises:
        ValueError: the file can't be read; nothing says which image an answer is about.
    """
    content = _json(path)
    rows = content if isinstance(content, list) else [content]
    if all(isinstance(row, dict) and "targets" in row for row in rows):
        return [_of_answer(row, number, image, path) for number, row in enumerate(rows, 1)]
    asked = _asked(questions)
    return [_of_prediction(one, asked, image, path) for one in read_predictions(path).answers.values()]


def _json(path: Path) -> Any:
    """The content of a file that is one JSON value; None for another one."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    except OSError as error:
        raise ValueError(f"expected a file of answers at {path} ({error.strerror}). Check the path.") from None


def of_answer(row: Mapping[str, Any], answer_id: str, image: str) -> Given:
    """An answer as `Answer.to_json` and the server write it.

    Raises:
        ValueError: a field is missing or malformed.
    """
    try:
        hw = (int(row["height"]), int(row["width"]))
        text, question = expect(row["text"], str, "a text"), expect(row.get("question", ""), str, "a question")
        targets = expect(row["targets"], list, "a list of targets")
        given = {"masks": [t["segmentation"] for t in targets], "spans": [t["span"] for t in targets]}
        scores = [t["score"] for t in targets] if all("score" in t for t in targets) else None
        prediction = Prediction.from_json({"id": answer_id, "text": text, "scores": scores} | given)
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"expected an answer as `pixellm ask --json` writes it, got {reason}") from None
    return _given(replace(prediction, question=question), image, hw)


def _of_answer(row: Mapping[str, Any], number: int, image: str | None, path: Path) -> Given:
    named = image or row.get("image")
    if not isinstance(named, str) or not named:
        raise ValueError(f"{path}, answer {number}: expected an image, got none. Name it with --image.")
    try:
        return of_answer(row, str(number), named)
    except ValueError as error:
        raise ValueError(f"{path}, answer {number}: {error}. Mend or remove it.") from None


def _asked(questions: Path | None) -> dict[str, Asked]:
    return {} if questions is None else {one.id: one for one in read_questions(questions)[0]}


def _of_prediction(one: Prediction, asked: Mapping[str, Asked], image: str | None, path: Path) -> Given:
    known = asked.get(one.id)
    named = image or one.image or (str(known.image) if known else None)
    if named is None:
        raise ValueError(
            f"{path}, answer {one.id!r}: expected an image, got none. Give --questions with the file that was answered."
        )
    question = one.question or (known.question if known else "")
    height, width = one.masks[0]["size"] if one.masks else load_image(named).size[::-1]
    try:
        return _given(replace(one, question=question), named, (height, width))
    except ValueError as error:
        raise ValueError(f"{path}, answer {one.id!r}: {error}. Mend or remove the line.") from None


def _given(one: Prediction, image: str, hw: tuple[int, int]) -> Given:
    if hw[0] * hw[1] > MAX_PIXELS:
        raise ValueError(f"expected at most {MAX_PIXELS / 1e6:.0f} million pixels, got {hw[0]}×{hw[1]}")
    text, spans = _plain(one)
    scores = one.scores or (None,) * len(one.masks)
    shown = [Shown(s, text[slice(*s)], m, p) for s, m, p in zip(spans, one.masks, scores, strict=True)]
    if any(found.rle["size"] != list(hw) for found in shown):
        raise ValueError(f"expected masks of {hw[0]}×{hw[1]} pixels, got others")
    kept = tuple(found for found in shown if found.area)
    image = image if image.startswith(EXAMPLE) else str(Path(image))
    return Given(one.id, image, hw, one.question or "", text, kept, len(shown) - len(kept))


def _plain(one: Prediction) -> tuple[str, Sequence[tuple[int, int]]]:
    """The text without slots, and a span for each mask: its own, the words before its slot, or the whole text."""
    pieces = one.text.split(SEG_SLOT)
    # A slot beside spans is text, which must not be taken for one of ours; its length stays, the spans count it.
    if one.spans is not None or len(pieces) != len(one.masks) + 1:
        return one.text.replace(SEG_SLOT, "(seg)"), one.spans or [(0, len(one.text))] * len(one.masks)
    from pixellm.inference.answer_builder import phrase_span  # brings torch

    text, spans = "", []
    for piece in pieces[:-1]:
        start, end = phrase_span(piece, 0)
        spans.append((len(text) + start, len(text) + end))
        text += piece.rstrip()
        spans[-1] = (min(spans[-1][0], len(text)), min(spans[-1][1], len(text)))
    return text + pieces[-1], spans


def by_image(answers: Iterable[Given]) -> list[Pictured]:
    """Images with their answers, in the order of the first ones.

    Raises:
        ValueError: answers about one image are of different sizes.
    """
    groups: dict[str, list[Given]] = {}
    for answer in answers:
        groups.setdefault(answer.image, []).append(answer)
    stems = _stems(groups)
    found = []
    for image, group in groups.items():
        sizes = sorted({answer.hw for answer in group})
        if len(sizes) > 1:
            raise ValueError(f"{image}: expected answers of one size, got {sizes}. Export them apart.")
        found.append(Pictured(image, sizes[0], next(stems), tuple(group)))
    return found


def _stems(images: Iterable[str]) -> Iterator[str]:
    """The images' names without folder and suffix; with a number where another one has the same, whatever its case."""
    used: set[str] = set()
    for image in images:
        stem = Path(image.removeprefix(EXAMPLE)).stem
        name, number = stem, 1
        while name.lower() in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name.lower())
        yield name
