"""Questions in a file: one JSON object a line, such as `pixellm questions` writes.

    {"image": "photos/1.jpg", "question": "Segment the cat.", "id": "1/0"}

`id` may be missing: then it is the number of the line. Images are relative to the file. Other fields are ignored.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pixellm.utils.checks import expect


@dataclass(frozen=True)
class FileQuestion:
    """A question of a file.

    Args:
        id: unique in the file.
        line: its number in the file, from 1.
        image: the image's file.
        question: as the model gets it.
    """

    id: str
    line: int
    image: Path
    question: str


@dataclass(frozen=True)
class BadQuestion:
    """A question that could not be read or answered, and the reason; `id` is "" where it is not known."""

    line: int
    id: str
    reason: str


def read_questions(path: Path) -> tuple[list[FileQuestion], list[BadQuestion]]:
    """Return the questions in the file's order, and the lines that are none.

    Raises:
        ValueError: the file can't be read, or has no line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"expected JSON lines in {path}, got an error: {error}. See docs/batch.md.") from None
    questions: dict[str, FileQuestion] = {}
    bad: list[BadQuestion] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            question = _read(line, number, path.parent)
            if question.id in questions:
                raise ValueError(f"the id {question.id!r} was on line {questions[question.id].line} already")
            questions[question.id] = question
        except ValueError as error:
            bad.append(BadQuestion(number, "", str(error)))
    if not questions and not bad:
        raise ValueError(f"expected questions in {path}, one JSON object a line, got none. See docs/batch.md.")
    return list(questions.values()), bad


def _read(line: str, number: int, folder: Path) -> FileQuestion:
    try:
        row = expect(json.loads(line), dict, "a JSON object")
    except (json.JSONDecodeError, RecursionError):
        raise ValueError(f"expected a JSON object, got {line[:60]!r}") from None
    if missing := sorted({"image", "question"} - row.keys()):
        raise ValueError(f"expected the fields image and question, got none called {', '.join(missing)}")
    question = expect(row["question"], str, "a question in words")
    if not question.strip():
        raise ValueError("expected a question in words, got an empty one")
    image = folder / expect(row["image"], str, "the path of an image")
    if not image.is_file():
        raise ValueError(f"expected an image at {image}, found none")
    return FileQuestion(str(number if row.get("id") is None else row["id"]), number, image, question)


def by_image(questions: Sequence[FileQuestion]) -> list[list[FileQuestion]]:
    """Group questions by image, the short ones first: those that are answered together are of similar length."""
    groups: dict[Path, list[FileQuestion]] = defaultdict(list)
    for question in questions:
        groups[question.image].append(question)
    return [sorted(group, key=lambda question: len(question.question)) for group in groups.values()]


def batches(groups: Sequence[list[FileQuestion]], size: int) -> list[list[list[FileQuestion]]]:
    """Put groups together that are answered at once: `size` questions of similar length, or one larger group."""
    result: list[list[list[FileQuestion]]] = []
    room = 0
    for group in sorted(groups, key=lambda group: len(group[-1].question)):
        if len(group) > room:
            result.append([])
            room = size
        result[-1].append(group)
        room -= len(group)
    return result
