"""Answers to a file of questions, each on disk as soon as it is complete.

Killed or interrupted, the same command resumes: `OUT.part` holds what is answered. At the end `OUT` is written in the
order of the questions, and `OUT.bad.jsonl` lists those that could not be answered; the next run tries these again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from pixellm import __version__
from pixellm.batch.questions import BadQuestion, FileQuestion, batches, by_image, read_questions
from pixellm.eval.resumable import CHUNK, append, ask_all, read, resume, write
from pixellm.imaging.images import load_image
from pixellm.types import Answer, Segmenter
from pixellm.utils.files import write_text

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class BatchResult:
    """Outcome of a run: number of answers, questions that failed, and whether all were tried."""

    answered: int
    bad: tuple[BadQuestion, ...]
    complete: bool


class BatchFiles:
    """A file of questions and the file of their answers; hold `exclusive_lock(out)` while working on them.

    Args:
        questions: JSON lines, see `pixellm.batch.questions`.
        out: JSON lines, see `pixellm.eval.predictions`.
        model: digest of the weights, and everything else that the answers depend on.

    Raises:
        ValueError: there are no questions.
    """

    def __init__(self, questions: Path, out: Path, model: dict[str, Any]) -> None:
        self.questions, self._bad = read_questions(questions)
        digest = hashlib.sha256(questions.read_bytes()).hexdigest()[:16]
        self._fingerprint = {"pixellm": __version__, "questions": digest} | model
        self.out, self._part = out, out.with_name(f"{out.name}.part")
        self._bad_file = out.with_name(f"{out.name}.bad.jsonl")
        out.parent.mkdir(parents=True, exist_ok=True)

    def pending(self) -> list[list[FileQuestion]]:
        """Return the questions that are not answered yet, by image.

        Raises:
            ValueError: the files hold answers to other questions, or of another model.
        """
        done = {row["id"] for row in self._read(self.out)}
        if any(question.id not in done for question in self.questions):
            done |= {row["id"] for row in resume(self._part, self._fingerprint, dict)}
        return by_image([question for question in self.questions if question.id not in done])

    def _read(self, path: Path) -> Rows:
        return read(path, self._fingerprint) if path.is_file() else []

    def keep(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append answers, or questions with the `reason` why there is no answer."""
        append(self._part, rows)

    def finish(self) -> BatchResult:
        """Write `out`, unless questions are left to be tried or nothing is new."""
        before = self._read(self.out)
        rows = {row["id"]: row for row in (*before, *self._read(self._part))}
        tried = [rows[question.id] for question in self.questions if question.id in rows]
        failed = [BadQuestion(row["line"], row["id"], row["reason"]) for row in tried if "reason" in row]
        bad = (*self._bad, *failed)
        answers = [row for row in tried if "reason" not in row]
        if len(tried) < len(self.questions):
            return BatchResult(len(answers), bad, complete=False)
        if bad:
            write_text(self._bad_file, "".join(json.dumps(asdict(question)) + "\n" for question in bad))
        else:
            self._bad_file.unlink(missing_ok=True)
        if len(answers) > len(before) or not self.out.is_file():
            write(self.out, self._fingerprint, answers)
        self._part.unlink(missing_ok=True)
        return BatchResult(len(answers), bad, complete=True)


def answer(segmenter: Segmenter, groups: Sequence[Sequence[FileQuestion]]) -> Rows:
    """Answer groups of questions, one group per image; a row has a `reason` instead of an answer where that failed."""
    rows: Rows = []
    images: list[Image.Image] = []
    readable: list[Sequence[FileQuestion]] = []
    for group in groups:
        try:
            images.append(load_image(str(group[0].image)))
            readable.append(group)
        except ValueError as error:
            rows += _failed(group, error)
    try:
        answers = _ask(segmenter, images, [[question.question for question in group] for group in readable])
    except ValueError as error:
        if len(readable) == 1 == len(readable[0]):
            return rows + _failed(readable[0], error)
        return rows + [row for half in _halves(readable) for row in answer(segmenter, half)]
    return rows + [
        replace(answer, id=question.id, image_path=str(question.image)).to_json()
        for group, answers_of_image in zip(readable, answers, strict=True)
        for question, answer in zip(group, answers_of_image, strict=True)
    ]


def _halves(groups: Sequence[Sequence[FileQuestion]]) -> tuple[Sequence[Sequence[FileQuestion]], ...]:
    """Split groups, or a single one, in two: so a question that is refused is soon alone."""
    if middle := len(groups) // 2:
        return groups[:middle], groups[middle:]
    middle = len(groups[0]) // 2
    return [groups[0][:middle]], [groups[0][middle:]]


def _failed(group: Sequence[FileQuestion], error: ValueError) -> Rows:
    return [{"id": question.id, "line": question.line, "reason": str(error)} for question in group]


def _ask(segmenter: Segmenter, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]) -> list[list[Answer]]:
    if len(images) != 1:
        return segmenter.ask_about(images, questions)
    segmenter.set_image(images[0])
    return [ask_all(segmenter, questions[0])]


def run(files: BatchFiles, segmenter: Segmenter, stopped: Callable[[], bool], advance: Callable[[int], None]) -> None:
    """Answer what is pending, some questions at a time.

    Args:
        files: locked.
        segmenter: the model.
        stopped: ends the run before the next step.
        advance: is called with the number of questions after each step.
    """
    for groups in batches(files.pending(), CHUNK):
        if stopped():
            return
        rows = answer(segmenter, groups)
        files.keep(rows)
        advance(len(rows))
