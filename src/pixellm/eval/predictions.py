"""Answers of any system in a file: one JSON object a line, the format that is scored.

    {"id": "val/7/0", "text": "The cup and the jug.", "masks": [{"size": [480, 640], "counts": "…"}, …],
     "spans": [[0, 7], [12, 19]], "scores": [0.9, 0.8]}

`masks` are COCO RLEs at the image's size, compressed or not; `spans` tells which characters of the text each stands for
and `scores` how sure the system is; `image` (its file) and `question` are what was answered. These four are optional. A
first line `{"fingerprint": {…}}` says how the answers were made.
"""

import json
import logging
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixellm.data.records import expect
from pixellm.imaging.masks import Rle, as_text, to_rles
from pixellm.types import SEG_SLOT, Answer

logger = logging.getLogger(__name__)

FIELDS = {"id", "text", "masks", "spans", "scores", "image", "question"}  # others are left alone: notes of systems
NAMED = 5  # ids that an error message lists


@dataclass(frozen=True)
class Prediction:
    """One answer.

    Args:
        id: of the question.
        text: the answer's text; where it has a `{seg}` for each mask, the words before each are its phrase.
        masks: compressed RLEs at the image's size.
        spans: (start, end) in the text of each mask's phrase; None: see `phrases`.
        scores: 0..1 for each mask; only kept, no protocol reads them.
        image, question: what was answered, for exports; no protocol reads them.
    """

    id: str
    text: str
    masks: tuple[Rle, ...] = ()
    spans: tuple[tuple[int, int], ...] | None = None
    scores: tuple[float, ...] | None = None
    image: str | None = None
    question: str | None = None

    @property
    def phrases(self) -> list[str]:
        """The words for each mask: by its span, else before its `{seg}`, else the whole text."""
        if self.spans is not None:
            return [self.text[start:end] for start, end in self.spans]
        from pixellm.inference.answer_builder import phrase_span

        pieces = self.text.split(SEG_SLOT)
        if len(pieces) != len(self.masks) + 1:
            return [self.text.replace(SEG_SLOT, "").strip()] * len(self.masks)
        return [piece[slice(*phrase_span(piece, 0))].strip() for piece in pieces[:-1]]

    @classmethod
    def of(cls, question_id: str, answer: Answer) -> "Prediction":
        """The answer of one of our own segmenters."""
        targets = answer.targets
        spans, scores = tuple(t.span for t in targets), tuple(round(float(t.score), 4) for t in targets)
        return cls(question_id, answer.text, tuple(target.rle for target in targets), spans, scores)

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.id, "text": self.text, "masks": list(self.masks)}
        row |= {} if self.spans is None else {"spans": [list(span) for span in self.spans]}
        row |= {} if self.scores is None else {"scores": list(self.scores)}
        return row | {name: value for name in ("image", "question") if (value := getattr(self, name)) is not None}

    @classmethod
    def from_json(cls, row: Any) -> "Prediction":
        """A line's content.

        Raises:
            ValueError: a field is missing or malformed, or a mask is no RLE.
        """
        expect(row, dict, "a JSON object")
        if missing := sorted({"id", "text", "masks"} - row.keys()):
            raise ValueError(f"expected the fields id, text and masks, got none called {', '.join(missing)}")
        text, stored = expect(row["text"], str, "a text"), expect(row["masks"], list, "a list of masks")
        found = tuple(_mask(index, mask) for index, mask in enumerate(stored))
        spans = _each(row, "spans", len(found), lambda span: _span(span, len(text)))
        scores = _each(row, "scores", len(found), _score)
        asked = (row[name] if isinstance(row.get(name), str) else None for name in ("image", "question"))
        return cls(expect(row["id"], str, "an id"), text, found, spans, scores, *asked)


def _mask(index: int, mask: Any) -> Rle:
    try:
        height, width = (int(side) for side in expect(mask, dict, "an RLE with size and counts")["size"])
        (rle,) = to_rles(mask, height, width)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"mask {index}: {reason}") from None
    return as_text(rle)  # ASCII: it takes no more memory than bytes, and goes into JSON as it is


def _each(row: dict[str, Any], name: str, count: int, read: Any) -> tuple | None:
    if row.get(name) is None:
        return None
    values = expect(row[name], list, f"a list of {name}")
    if len(values) != count:
        raise ValueError(f"expected {name} for each of {count} masks, got {len(values)}")
    return tuple(read(value) for value in values)


def _span(span: Any, length: int) -> tuple[int, int]:
    whole = isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)
    if not whole or not 0 <= span[0] <= span[1] <= length:
        raise ValueError(f"expected a span [start, end] in the text of {length} characters, got {span!r}")
    return span[0], span[1]


def _score(score: Any) -> float:
    if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
        raise ValueError(f"expected a number as score, got {score!r}")
    return float(score)


@dataclass(frozen=True)
class Predictions:
    """The content of a file: answers by the id of their question, and how they were made, where it says so."""

    answers: dict[str, Prediction]
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def check_ids(self, known: Collection[str]) -> list[str]:
        """The ids that no answer was given to, in the order of `known`.

        Raises:
            ValueError: an answer has an id that no question has.
        """
        if unknown := [question_id for question_id in self.answers if question_id not in known]:
            raise ValueError(
                f"expected ids of the benchmark's questions, got {len(unknown)} others: {_listed(unknown)}. "
                "`pixellm questions` writes the questions with their ids; check benchmark, data set and split."
            )
        return [question_id for question_id in known if question_id not in self.answers]


def read_predictions(path: Path) -> Predictions:
    """Read a file of answers.

    Raises:
        ValueError: no such file, or a line that is malformed or repeats an id; it names the line.
    """
    answers: dict[str, Prediction] = {}
    fingerprint: dict[str, Any] = {}
    unknown: set[str] = set()
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    if number == 1 and isinstance(row, dict) and row.keys() == {"fingerprint"}:
                        fingerprint = expect(row["fingerprint"], dict, "a fingerprint")
                        continue
                    answer = Prediction.from_json(row)
                    unknown |= row.keys() - FIELDS
                    if answer.id in answers:
                        raise ValueError(f"expected one answer to each question, got a second one to {answer.id!r}")
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{path}, line {number}: {error}. Mend or remove the line.") from None
                answers[answer.id] = answer
    except OSError as error:
        raise ValueError(f"expected a file of predictions at {path} ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8 text in {path} ({error}).") from None
    if unknown:
        logger.warning("%s: fields that nothing reads: %s", path, ", ".join(sorted(unknown)))
    return Predictions(answers, fingerprint)


def _listed(ids: list[str]) -> str:
    return ", ".join(ids[:NAMED]) + (" …" if len(ids) > NAMED else "")
