"""Answers to a file of questions, each on disk as soon as it is there.

Killed or interrupted, the same command goes on: what is answered is in `OUT.part`. At the end `OUT` is written
in the order of the questions, with what could not be answered in `OUT.bad.jsonl`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pixellm import __version__
from pixellm.batch.questions import Asked, Bad, by_image, read_questions
from pixellm.eval.predictions import Prediction
from pixellm.eval.resumable import append, ask_all, read, resume, write
from pixellm.files import write_text
from pixellm.types import Segmenter

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """How a run ended: answers in all, those that it made, and what could not be answered."""

    answered: int
    new: int
    bad: tuple[Bad, ...]
    complete: bool


class Batch:
    """A file of questions and the file of their answers; use it as a context.

    Args:
        questions: JSON lines, see `pixellm.batch.questions`.
        out: JSON lines, see `pixellm.eval.predictions`; each row has its `image` and `question`, too.
        model: what tells the weights from others, with everything else that the answers depend on.

    Raises:
        ValueError: there are no questions; another process works on `out`; it holds answers of something else.
    """

    def __init__(self, questions: Path, out: Path, model: dict[str, Any]) -> None:
        self.asked, self._bad = read_questions(questions)
        digest = hashlib.sha256(questions.read_bytes()).hexdigest()[:16]
        self._made = {"pixellm": __version__, "questions": digest} | model
        self.out, self._part = out, out.with_name(f"{out.name}.part")
        self._faults = out.with_name(f"{out.name}.bad.jsonl")
        out.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(out.with_name(f".{out.name}.lock"))

    @contextmanager
    def alone(self) -> Iterator["Batch"]:
        """While this process has the output for itself."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"expected to work on {self.out} alone, but another process does. Wait for it.") from None
        try:
            yield self
        finally:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def pending(self) -> list[list[Asked]]:
        """What is not answered yet, by image; nothing where `out` is complete."""
        if self.out.is_file():
            read(self.out, self._made)  # of these questions and this model, or an error
            return []
        rows = resume(self._part, self._made, dict)
        done = {row["id"] for row in rows}
        return by_image([one for one in self.asked if one.id not in done])

    def keep(self, rows: Iterable[dict[str, Any]]) -> None:
        """Answers, or questions with a `reason` why there is none."""
        append(self._part, rows)

    def finish(self) -> Result:
        """Write `out`, unless something is still to be answered."""
        if self.out.is_file():
            rows = read(self.out, self._made)
            faults = self._faults.read_text(encoding="utf-8").splitlines() if self._faults.is_file() else []
            return Result(len(rows), 0, tuple(Bad(**json.loads(line)) for line in faults), complete=True)
        rows = {row["id"]: row for row in read(self._part, self._made)}
        found = [rows[one.id] for one in self.asked if one.id in rows]
        bad = [*self._bad, *(Bad(row["line"], row["id"], row["reason"]) for row in found if "reason" in row)]
        answers = [row for row in found if "reason" not in row]
        if len(found) < len(self.asked):
            return Result(len(answers), len(answers), tuple(bad), complete=False)
        if bad:
            write_text(self._faults, "".join(json.dumps(asdict(one)) + "\n" for one in bad))
        write(self.out, self._made, answers)
        self._part.unlink()
        return Result(len(answers), len(answers), tuple(bad), complete=True)


def answer(segmenter: Segmenter, group: Sequence[Asked]) -> Rows:
    """Rows for questions on one image; with a `reason` in the place of an answer where the image can't be read."""
    try:
        segmenter.set_image(str(group[0].image))
        answers = ask_all(segmenter, [one.question for one in group])
    except ValueError as error:
        return [{"id": one.id, "line": one.line, "reason": str(error)} for one in group]
    return [
        Prediction.of(one.id, given).to_json() | {"image": str(one.image), "question": one.question}
        for one, given in zip(group, answers, strict=True)
    ]


def run(batch: Batch, segmenter: Segmenter, stopped: Callable[[], bool], seen: Callable[[int], None]) -> None:
    """Answer what is pending, image by image.

    Args:
        batch: within `alone`.
        segmenter: who answers.
        stopped: is asked before each image.
        seen: gets the number of questions that were done, after each image.
    """
    for group in batch.pending():
        if stopped():
            return
        batch.keep(answer(segmenter, group))
        seen(len(group))
