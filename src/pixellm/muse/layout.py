"""The released layout of MUSE: a JSON list of image entries, each with its questions, answers and texts.

    record → Pair (one question, as the layout has it) → entry (an image with all its pairs) → file

An entry has `height`, `width`, `coco_url` or `file_name`, `ann_list` (all annotated instances), `questions`, `answers`
(for each question the instances that it asks for) and `text_answers` (for each a text with one `{seg}` an instance, or
null). An instance has `segmentation`, `bbox`, `category_id`, `category_name` and, in answers, `rephrased_name`. We add
`provenance`, one for each question, which readers of the layout pass over.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from pixellm.data.datasets import read_json
from pixellm.muse.records import MuseImage, MuseRecord, MuseTarget
from pixellm.utils.checks import expect

BY_QUESTION = ("questions", "answers", "text_answers", "provenance")  # lists as long as there are questions
COCO_NUMBER = re.compile(r"(?:^|_)(\d{12})\.")  # of a COCO photograph, whatever the year and the split


@dataclass(frozen=True)
class Pair:
    """A question of the layout: `answer` holds its instances, `text` is None where they have only names."""

    question: str
    answer: list[dict[str, Any]]
    text: str | None
    provenance: dict[str, Any] | None = None

    @classmethod
    def of(cls, record: MuseRecord, category_ids: Mapping[str, int]) -> "Pair":
        """A record's."""
        answer = [instance(one, category_ids) | {"rephrased_name": one.description} for one in record.targets]
        provenance = {"record_id": record.record_id, **asdict(record.provenance)}
        return cls(record.question, answer, record.text, provenance)


def instance(target: MuseTarget, category_ids: Mapping[str, int]) -> dict[str, Any]:
    """A target as an annotated instance."""
    return {
        **{"id": target.annotation_id, "segmentation": target.segmentation, "bbox": list(target.box)},
        **{"area": target.area, "category_id": category_ids[target.category], "category_name": target.category},
    }


def image_fields(image: MuseImage) -> dict[str, Any]:
    """What an entry says of its image."""
    fields = {"id": image.image_id, "height": image.height, "width": image.width, "file_name": image.file_name}
    more = {"coco_url": image.coco_url, "license": image.licence}
    return fields | {name: value for name, value in more.items() if value is not None}


def entry(image: Mapping[str, Any], annotations: list[dict[str, Any]], pairs: Iterable[Pair]) -> dict[str, Any]:
    """An image with its pairs; `image` may be another entry, of which the questions are left away."""
    pairs = list(pairs)
    found: dict[str, Any] = {name: value for name, value in image.items() if name not in BY_QUESTION}
    found["ann_list"] = annotations
    found["questions"] = [one.question for one in pairs]
    found["answers"] = [one.answer for one in pairs]
    found["text_answers"] = [one.text for one in pairs]
    if any(one.provenance for one in pairs):
        found["provenance"] = [one.provenance for one in pairs]
    return found


def pairs_of(one: Mapping[str, Any]) -> list[Pair]:
    """The questions of an entry.

    Raises:
        ValueError: there are not as many answers, or texts, as questions.
    """
    questions = expect(one.get("questions"), list, "a list of questions")
    columns = [questions, one.get("answers"), one.get("text_answers"), one.get("provenance")]
    for number, name in enumerate(BY_QUESTION):
        if columns[number] is None and number > 1:
            columns[number] = [None] * len(questions)
        if len(expect(columns[number], list, f"a list of {name}")) != len(questions):
            raise ValueError(
                f"expected as many {name} as questions, {len(questions)}, got {len(columns[number] or ())}"
            )
    return [Pair(*row) for row in zip(*columns, strict=True)]


def photograph(one: Mapping[str, Any]) -> str:
    """What tells an image from all others: COCO's number, which is the same in each year's release, or its name.

    Raises:
        ValueError: the entry names no image.
    """
    name = one.get("coco_url") or one.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError("expected a coco_url or a file_name, got neither")
    number = COCO_NUMBER.search(name.rsplit("/", 1)[-1])
    return number[1] if number else name


def read_any(path: Path) -> list[Any]:
    """What a file lists, entries or not; a ValueError if it is no list."""
    return expect(read_json(path), list, f"a list of images in {path}")


def read(path: Path) -> list[dict[str, Any]]:
    """The entries of a file; a ValueError if one of them is none, and names no image or not an answer a question."""
    found = []
    for number, one in enumerate(read_any(path)):
        try:
            photograph(expect(one, dict, "an image entry"))
            pairs_of(one)
        except ValueError as error:
            raise ValueError(f"{path}, entry {number}: {error}. `pixellm muse validate` lists all.") from None
        found.append(one)
    return found


class Writer:
    """Writes entries one by one, so that none have to be kept."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._count = file, 0
        file.write("[")

    def add(self, one: Mapping[str, Any]) -> None:
        self._file.write(("," if self._count else "") + "\n" + json.dumps(one, ensure_ascii=False))
        self._count += 1

    def close(self) -> None:
        self._file.write("\n]\n")


def write(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """A file of entries, whole or not at all."""
    from pixellm.utils.files import atomic_write

    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        writer = Writer(file)
        for one in entries:
            writer.add(one)
        writer.close()


def joined(entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One entry for each photograph: the questions of all that show it, each question once, and all instances."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in entries:
        found.setdefault(photograph(one), []).append(one)
    for group in found.values():
        pairs = {_said(pair): pair for one in group for pair in pairs_of(one)}
        annotations = {_shape(a): a for one in group for a in one.get("ann_list") or ()}
        yield entry(group[0], list(annotations.values()), pairs.values()) if len(group) > 1 else group[0]


def _said(pair: Pair) -> str:
    return json.dumps([pair.question, pair.text, [_shape(one) for one in pair.answer]])


def _shape(one: Mapping[str, Any]) -> str:
    return json.dumps([one.get("segmentation"), one.get("category_name")], sort_keys=True)
