"""Questions in a file: one JSON object a line, such as `pixellm questions` writes.

    {"image": "photos/1.jpg", "question": "Segment the cat.", "id": "1/0"}

`id` may be missing: then it is the number of the line. Images are relative to the file. Other fields are ignored.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixellm.utils.checks import check_text, check_unicode, expect, read_object
from pixellm.utils.files import read_lines
from pixellm.utils.limits import MAX_QUESTION_CHARS


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
    """A question that could not be read or answered, and the reason; `id` is "" where the line is no JSON object."""

    line: int
    id: str
    reason: str


def read_questions(path: Path) -> tuple[list[FileQuestion], list[BadQuestion]]:
    """Return the questions in the file's order, and the lines that are none.

    Raises:
        ValueError: the file can't be read, or has no line.
    """
    try:
        lines = read_lines(path)
    except OSError as error:
        raise ValueError(f"expected JSON lines in {path}, got an error: {error}. See docs/batch.md.") from None
    questions: dict[str, FileQuestion] = {}
    bad: list[BadQuestion] = []
    for number, line in lines:
        question_id = ""
        try:
            row = read_object(line)
            question_id = _id(row, number)
            if question_id in questions:
                raise ValueError(f"the id {question_id!r} was on line {questions[question_id].line} already")
            questions[question_id] = _read(row, question_id, number, path.parent)
        except ValueError as error:
            bad.append(BadQuestion(number, question_id, str(error)))
    if not questions and not bad:
        raise ValueError(f"expected questions in {path}, one JSON object a line, got none. See docs/batch.md.")
    return list(questions.values()), bad


def _id(row: dict[str, Any], number: int) -> str:
    stored = row.get("id")
    if isinstance(stored, str):
        return check_unicode(stored)
    return str(number if stored is None else expect(stored, int, "an id in words or a whole number"))


def _read(row: dict[str, Any], question_id: str, number: int, folder: Path) -> FileQuestion:
    if missing := sorted({"image", "question"} - row.keys()):
        raise ValueError(f"expected the fields image and question, got none called {', '.join(missing)}")
    question = check_text(expect(row["question"], str, "a question in words"), MAX_QUESTION_CHARS)
    image = folder / check_unicode(expect(row["image"], str, "the path of an image"))
    try:
        exists = image.is_file()
    except OSError as error:  # too long a name, a loop of links
        raise ValueError(f"expected an image, got a path that can't be read ({error.strerror})") from None
    if not exists:
        raise ValueError(f"expected an image at {str(image)!r}, found none")
    return FileQuestion(question_id, number, image, question)


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
