"""Answers of any system in a file: JSON lines of `Answer.to_json`, or one JSON value of `pixellm ask --json`.

    {"id": "val/7/0", "image": "7.jpg", "question": "What is there?", "text": "The cup.", "height": 480, "width": 640,
     "targets": [{"phrase": "The cup", "span": [0, 7], "score": 0.9, "area": …, "box": …, "segmentation": RLE}]}

`segmentation` is a COCO RLE at the image's size, compressed or not. `image`, `question`, `score` and `presence`, beside
it, are optional; `phrase`, `area` and `box` follow from the rest and are not read. A first line `{"fingerprint": {…}}`
says how the answers were made. Systems that know less may write a simpler form:

    {"id": "val/7/0", "text": "The cup {seg} and the jug {seg}.", "masks": [RLE, RLE]}

A `{seg}` stands behind the words for each mask. Without slots, `spans` ([[0, 7], …]) may name the words, otherwise the
whole text is the phrase of each mask; `scores`, `image` and `question` are optional.
"""

import json
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pixellm.imaging import masks
from pixellm.inference.answer_builder import phrase_span
from pixellm.types import SEG_SLOT, Answer, Target
from pixellm.utils.checks import check_score, check_span, clause, expect

logger = logging.getLogger(__name__)

SIMPLE_FIELDS = {"id", "text", "masks", "spans", "scores", "image", "question"}
FIELDS = {"id", "image", "question", "text", "height", "width", "targets"}  # others are left alone: notes of systems
LISTED = 5  # ids that an error message lists


@dataclass(frozen=True)
class Predictions:
    """Content of a file: answers by the id of their question, and how they were made, where it says so."""

    answers: dict[str, Answer]
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def check_ids(self, known: Collection[str]) -> list[str]:
        """Return the ids that have no answer, in the order of `known`.

        Raises:
            ValueError: an answer has an id that no question has.
        """
        if unknown := [question_id for question_id in self.answers if question_id not in known]:
            listed = ", ".join(unknown[:LISTED]) + (" …" if len(unknown) > LISTED else "")
            raise ValueError(
                f"expected ids of the benchmark's questions, got {len(unknown)} others: {listed}. "
                "`pixellm questions` writes the questions with their ids; check benchmark, data set and split."
            )
        return [question_id for question_id in known if question_id not in self.answers]


def read_predictions(path: Path) -> Predictions:
    """Read a file of answers; those without an id get their number, from 1.

    Raises:
        ValueError: no such file, or an answer that is malformed or repeats an id; it names the line.
    """
    answers: dict[str, Answer] = {}
    fingerprint: dict[str, Any] = {}
    unknown: set[str] = set()
    for number, (place, content) in enumerate(_rows(path), start=1):
        try:
            row = json.loads(content) if isinstance(content, str) else content
            if number == 1 and isinstance(row, dict) and row.keys() == {"fingerprint"}:
                fingerprint = expect(row["fingerprint"], dict, "a fingerprint")
                continue
            answer = read_answer(row)
            answer = answer if answer.id else replace(answer, id=str(number))
            unknown |= row.keys() - FIELDS - SIMPLE_FIELDS
            if answer.id in answers:
                raise ValueError(f"expected one answer to each question, got a second one to {answer.id!r}")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, {place}: {clause(error)}. Mend or remove it.") from None
        answers[answer.id] = answer
    if not answers:
        raise ValueError(f"expected answers in {path}, got none.")
    if unknown:
        logger.warning("%s: fields that nothing reads: %s", path, ", ".join(sorted(unknown)))
    return Predictions(answers, fingerprint)


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the place and the content of each answer: of a line its text, of one JSON value its items."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"expected a file of predictions at {path} ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8 text in {path} ({error}).") from None
    try:
        value = json.loads(text)  # ends at the second of several lines
    except (ValueError, RecursionError):
        lines = ((f"line {number}", line) for number, line in enumerate(text.split("\n"), start=1))
        yield from ((place, line) for place, line in lines if line.strip())
        return
    rows = value if isinstance(value, list) else [value]
    yield from ((f"answer {number}", row) for number, row in enumerate(rows, start=1))


def read_answer(row: Any) -> Answer:
    """Read an answer in either form.

    Raises:
        ValueError: a field is missing or malformed, or a mask is no RLE.
    """
    simple = isinstance(row, dict) and "targets" not in row and not {"masks", "id"}.isdisjoint(row)
    return _read_simple(row) if simple else Answer.from_json(row)


def _read_simple(row: dict[str, Any]) -> Answer:
    if missing := sorted({"id", "text", "masks"} - row.keys()):
        raise ValueError(f"expected the fields id, text and masks, got none called {', '.join(missing)}")
    text, stored = expect(row["text"], str, "a text"), expect(row["masks"], list, "a list of masks")
    rles = [_rle(index, mask) for index, mask in enumerate(stored)]
    spans = [check_span(span, text) for span in _each(row, "spans", len(rles)) or ()]
    scores = [check_score(score) for score in _each(row, "scores", len(rles)) or [None] * len(rles)]
    if not spans:
        text, spans = _without_slots(text, len(rles))
    targets = tuple(Target(text[slice(*s)], s, rle, p) for s, rle, p in zip(spans, rles, scores, strict=True))
    height, width = rles[0]["size"] if rles else (0, 0)
    question, image = (row[name] if isinstance(row.get(name), str) else "" for name in ("question", "image"))
    return Answer(question, text, targets, (height, width), image_path=image, id=expect(row["id"], str, "an id"))


def _rle(index: int, mask: Any) -> masks.Rle:
    try:
        return masks.read_rle(mask)
    except ValueError as error:
        raise ValueError(f"mask {index}: {error}") from None


def _each(row: dict[str, Any], name: str, count: int) -> Sequence[Any] | None:
    """Return a list that has an item for each mask; None where there is none."""
    if row.get(name) is None:
        return None
    values = expect(row[name], list, f"a list of {name}")
    if len(values) != count:
        raise ValueError(f"expected {name} for each of {count} masks, got {len(values)}")
    return values


def _without_slots(text: str, count: int) -> tuple[str, list[tuple[int, int]]]:
    """Return the text without slots, and a span for each mask: the words before its slot, or the whole text."""
    pieces = text.split(SEG_SLOT)
    if len(pieces) != count + 1:
        text = text.replace(SEG_SLOT, "").strip()
        return text, [(0, len(text))] * count
    text, spans = "", []
    for piece in pieces[:-1]:
        start, end = phrase_span(piece, 0)
        at, text = len(text), text + piece.rstrip()
        spans.append((min(at + start, len(text)), min(at + end, len(text))))
    return text + pieces[-1], spans
