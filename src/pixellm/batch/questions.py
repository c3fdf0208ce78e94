"""Questions in a file: one JSON object a line, what `pixellm questions` writes or the like.

    {"image": "photos/1.jpg", "question": "Segment the cat.", "id": "1/0"}

`id` may be left away: then it is the line's number. Images are named relative to the file. Other fields are left alone.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pixellm.utils.checks import expect


@dataclass(frozen=True)
class Asked:
    """A question.

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
class Bad:
    """A question that could not be read or answered, and why; `id` as far as it is known."""

    line: int
    id: str
    reason: str


def read_questions(path: Path) -> tuple[list[Asked], list[Bad]]:
    """Those that can be asked, in the file's order, and those that can't.

    Raises:
        ValueError: the file can't be read, or has no line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"expected JSON lines in {path}, got an error: {error}. See docs/batch.md.") from None
    asked: dict[str, Asked] = {}
    bad: list[Bad] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            one = _read(line, number, path.parent)
            if one.id in asked:
                raise ValueError(f"the id {one.id!r} was on line {asked[one.id].line} already")
            asked[one.id] = one
        except ValueError as error:
            bad.append(Bad(number, "", str(error)))
    if not asked and not bad:
        raise ValueError(f"expected questions in {path}, one JSON object a line, got none. See docs/batch.md.")
    return list(asked.values()), bad


def _read(line: str, number: int, folder: Path) -> Asked:
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
    return Asked(str(number if row.get("id") is None else row["id"]), number, image, question)


def by_image(asked: Sequence[Asked]) -> list[list[Asked]]:
    """Groups of questions about one image, the short ones first: those that are answered together are alike."""
    groups: dict[Path, list[Asked]] = defaultdict(list)
    for one in asked:
        groups[one.image].append(one)
    return [sorted(group, key=lambda one: len(one.question)) for group in groups.values()]


def batches(groups: Sequence[list[Asked]], size: int) -> list[list[list[Asked]]]:
    """Groups that are answered at once: `size` questions at most, of much the same length; a larger group is alone."""
    found: list[list[list[Asked]]] = []
    room = 0
    for group in sorted(groups, key=lambda group: len(group[-1].question)):
        if len(group) > room:
            found.append([])
            room = size
        found[-1].append(group)
        room -= len(group)
    return found
