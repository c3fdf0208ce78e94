"""Answers to a file of questions, each on disk as soon as it is there.

Killed or interrupted, the same command goes on: what is answered is in `OUT.part`. At the end `OUT` is written
in the order of the questions, with what could not be answered in `OUT.bad.jsonl`; the next run tries that again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from pixellm import __version__
from pixellm.batch.questions import Asked, Bad, batches, by_image, read_questions
from pixellm.eval.resumable import CHUNK, append, ask_all, read, resume, write
from pixellm.imaging.images import load_image
from pixellm.types import Answer, Segmenter
from pixellm.utils.files import write_text

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """How a run ended: how many answers there are, what could not be answered, whether all was tried."""

    answered: int
    bad: tuple[Bad, ...]
    complete: bool


class Batch:
    """A file of questions and the file of their answers; one process at a time may work on them (`files.alone`).

    Args:
        questions: JSON lines, see `pixellm.batch.questions`.
        out: JSON lines, see `pixellm.eval.predictions`; each row has its `image` and `question`, too.
        model: what tells the weights from others, with everything else that the answers depend on.

    Raises:
        ValueError: there are no questions.
    """

    def __init__(self, questions: Path, out: Path, model: dict[str, Any]) -> None:
        self.asked, self._bad = read_questions(questions)
        digest = hashlib.sha256(questions.read_bytes()).hexdigest()[:16]
        self._made = {"pixellm": __version__, "questions": digest} | model
        self.out, self._part = out, out.with_name(f"{out.name}.part")
        self._faults = out.with_name(f"{out.name}.bad.jsonl")
        out.parent.mkdir(parents=True, exist_ok=True)

    def pending(self) -> list[list[Asked]]:
        """What is not answered yet, by image.

        Raises:
            ValueError: the files hold answers to other questions, or of another model.
        """
        done = {row["id"] for row in self._read(self.out)}
        if any(one.id not in done for one in self.asked):
            done |= {row["id"] for row in resume(self._part, self._made, dict)}
        return by_image([one for one in self.asked if one.id not in done])

    def _read(self, path: Path) -> Rows:
        return read(path, self._made) if path.is_file() else []

    def keep(self, rows: Iterable[dict[str, Any]]) -> None:
        """Answers, or questions with a `reason` why there is none."""
        append(self._part, rows)

    def finish(self) -> Result:
        """Write `out`, unless something is still to be tried, or nothing is new."""
        before = self._read(self.out)
        rows = {row["id"]: row for row in (*before, *self._read(self._part))}
        tried = [rows[one.id] for one in self.asked if one.id in rows]
        bad = [*self._bad, *(Bad(row["line"], row["id"], row["reason"]) for row in tried if "reason" in row)]
        answers = [row for row in tried if "reason" not in row]
        if len(tried) < len(self.asked):
            return Result(len(answers), tuple(bad), complete=False)
        if bad:
            write_text(self._faults, "".join(json.dumps(asdict(one)) + "\n" for one in bad))
        else:
            self._faults.unlink(missing_ok=True)
        if len(answers) > len(before) or not self.out.is_file():
            write(self.out, self._made, answers)
        self._part.unlink(missing_ok=True)
        return Result(len(answers), tuple(bad), complete=True)


def answer(segmenter: Segmenter, groups: Sequence[Sequence[Asked]]) -> Rows:
    """Rows for groups of questions, one an image; with a `reason` in the place of an answer where there can be none."""
    rows: Rows = []
    photographs: list[Image.Image] = []
    readable: list[Sequence[Asked]] = []
    for group in groups:
        try:
            photographs.append(load_image(str(group[0].image)))
            readable.append(group)
        except ValueError as error:
            rows += _unanswered(group, error)
    try:
        answered = _ask(segmenter, photographs, [[one.question for one in group] for group in readable])
    except ValueError as error:
        if len(readable) == 1:
            return rows + _unanswered(readable[0], error)
        return rows + [row for group in readable for row in answer(segmenter, [group])]
    return rows + [
        replace(given, id=one.id, image_path=str(one.image)).to_json()
        for group, found in zip(readable, answered, strict=True)
        for one, given in zip(group, found, strict=True)
    ]


def _unanswered(group: Sequence[Asked], error: ValueError) -> Rows:
    return [{"id": one.id, "line": one.line, "reason": str(error)} for one in group]


def _ask(
    segmenter: Segmenter, photographs: Sequence[Image.Image], questions: Sequence[Sequence[str]]
) -> list[list[Answer]]:
    """Of several images all at once, if the segmenter can."""
    ask_about = getattr(segmenter, "ask_about", None)
    if ask_about is not None and len(photographs) > 1:
        return ask_about(photographs, questions)
    found = []
    for photograph, texts in zip(photographs, questions, strict=True):
        segmenter.set_image(photograph)
        found.append(ask_all(segmenter, texts))
    return found


def run(batch: Batch, segmenter: Segmenter, stopped: Callable[[], bool], seen: Callable[[int], None]) -> None:
    """Answer what is pending, some questions at a time.

    Args:
        batch: within `alone`.
        segmenter: who answers.
        stopped: is asked before each of these steps.
        seen: gets the number of questions that were done, after each.
    """
    for groups in batches(batch.pending(), CHUNK):
        if stopped():
            return
        rows = answer(segmenter, groups)
        batch.keep(rows)
        seen(len(rows))
