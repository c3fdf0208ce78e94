"""Released layout of MUSE: a JSON list of image entries, each with its questions, answers and texts.

    record → MusePair (one question, as the layout has it) → entry (an image with all its pairs) → file

An entry has `height`, `width`, `coco_url` or `file_name`, `ann_list` (all annotated instances), `questions`, `answers`
(for each question the instances that it asks for) and `text_answers` (for each a text with a `{seg}` per instance, or
null). An instance has `segmentation`, `bbox`, `category_id`, `category_name` and, in answers, `rephrased_name`. We add
`provenance`, one for each question, which other readers of the layout ignore.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from pixellm.data.datasets import read_json
from pixellm.muse.records import MuseImage, MuseRecord, MuseTarget
from pixellm.utils.checks import clause, expect
from pixellm.utils.files import atomic_write

BY_QUESTION = ("questions", "answers", "text_answers", "provenance")  # lists as long as there are questions
COCO_NUMBER = re.compile(r"(?:^|_)(\d{12})\.")  # in the name of a COCO image, whatever the year and the split
Entry = dict[str, Any]


@dataclass(frozen=True)
class MusePair:
    """Question of the layout: `answer` holds its instances, `text` is None where they have only names."""

    question: str
    answer: list[dict[str, Any]]
    text: str | None
    provenance: dict[str, Any] | None = None

    @classmethod
    def from_record(cls, record: MuseRecord, category_ids: Mapping[str, int]) -> "MusePair":
        targets = record.targets
        answer = [instance(target, category_ids) | {"rephrased_name": target.description} for target in targets]
        provenance = {"record_id": record.record_id, **asdict(record.provenance)}
        return cls(record.question, answer, record.text, provenance)


def instance(target: MuseTarget, category_ids: Mapping[str, int]) -> dict[str, Any]:
    """Return a target as an instance of the layout."""
    return {
        **{"id": target.annotation_id, "segmentation": target.segmentation, "bbox": list(target.box)},
        **{"area": target.area, "category_id": category_ids[target.category], "category_name": target.category},
    }


def image_fields(image: MuseImage) -> dict[str, Any]:
    """Return the fields of an entry about its image."""
    fields = {"id": image.image_id, "height": image.height, "width": image.width, "file_name": image.file_name}
    more = {"coco_url": image.coco_url, "license": image.licence}
    return fields | {name: value for name, value in more.items() if value is not None}


def entry(image: Mapping[str, Any], annotations: list[dict[str, Any]], pairs: Iterable[MusePair]) -> Entry:
    """Return the entry of an image with these pairs; `image` may be another entry, whose questions are left out."""
    pairs = list(pairs)
    content: Entry = {name: value for name, value in image.items() if name not in BY_QUESTION}
    content["ann_list"] = annotations
    content["questions"] = [pair.question for pair in pairs]
    content["answers"] = [pair.answer for pair in pairs]
    content["text_answers"] = [pair.text for pair in pairs]
    if any(pair.provenance for pair in pairs):
        content["provenance"] = [pair.provenance for pair in pairs]
    return content


def pairs_of(entry: Mapping[str, Any]) -> list[MusePair]:
    """Return the questions of an entry.

    Raises:
        ValueError: there are not as many answers, or texts, as questions.
    """
    questions = expect(entry.get("questions"), list, "a list of questions")
    columns = [questions, *(entry.get(name) for name in BY_QUESTION[1:])]
    for number, name in enumerate(BY_QUESTION):
        if columns[number] is None and number > 1:
            columns[number] = [None] * len(questions)
        if len(expect(columns[number], list, f"a list of {name}")) != len(questions):
            raise ValueError(
                f"expected as many {name} as questions, {len(questions)}, got {len(columns[number] or ())}"
            )
    return [MusePair(*row) for row in zip(*columns, strict=True)]


def image_key(entry: Mapping[str, Any]) -> str:
    """Return a key of the image: COCO's number, which is the same in each year's release, or its name.

    Raises:
        ValueError: the entry names no image.
    """
    name = entry.get("coco_url") or entry.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError("expected a coco_url or a file_name, got neither")
    number = COCO_NUMBER.search(name.rsplit("/", 1)[-1])
    return number[1] if number else name


def read_any(path: Path) -> list[Any]:
    """Read the items of a file, entries or not; ValueError if it is no list."""
    return expect(read_json(path), list, f"a list of images in {path}")


def read(path: Path) -> list[Entry]:
    """Read the entries of a file; ValueError if one names no image, or has other numbers of questions and answers."""
    entries = []
    for number, row in enumerate(read_any(path)):
        try:
            image_key(expect(row, dict, "an image entry"))
            _check_types(row)
        except ValueError as error:
            raise ValueError(f"{path}, entry {number}: {clause(error)}. `pixellm muse validate` lists all.") from None
        entries.append(row)
    return entries


def _check_types(row: Entry) -> None:
    """Raise a ValueError where something in an entry is of a type that can't be merged, counted or shown."""
    annotations = row.get("ann_list")
    lists = [[] if annotations is None else expect(annotations, list, "a list of instances as ann_list")]
    for pair in pairs_of(row):
        expect(pair.question, str, "a question in words")
        expect("" if pair.text is None else pair.text, str, "an answer in words or null")
        expect({} if pair.provenance is None else pair.provenance, dict, "an object as provenance")
        lists.append(expect(pair.answer, list, "a list of targets"))
    for target in chain(*lists):
        expect(target, dict, "an instance")
        for name in ("category_name", "rephrased_name"):
            expect("" if target.get(name) is None else target[name], str, f"a text as {name}")
        expect(0 if target.get("category_id") is None else target["category_id"], int, "a number as category_id")


class EntryWriter:
    """Writer of entries one by one, so that memory doesn't grow."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._count = file, 0
        file.write("[")

    def add(self, entry: Mapping[str, Any]) -> None:
        self._file.write(("," if self._count else "") + "\n" + json.dumps(entry, ensure_ascii=False))
        self._count += 1

    def close(self) -> None:
        self._file.write("\n]\n")


def write(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of entries atomically."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        writer = EntryWriter(file)
        for row in entries:
            writer.add(row)
        writer.close()


def joined(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield one entry for each image, with each question and each instance of all its entries once."""
    groups: dict[str, list[Entry]] = {}
    for row in entries:
        groups.setdefault(image_key(row), []).append(row)
    for group in groups.values():
        pairs = {_text_key(pair): pair for row in group for pair in pairs_of(row)}
        annotations = {_shape_key(a): a for row in group for a in row.get("ann_list") or ()}
        yield entry(group[0], list(annotations.values()), pairs.values()) if len(group) > 1 else group[0]


def _text_key(pair: MusePair) -> str:
    return json.dumps([pair.question, pair.text, [_shape_key(target) for target in pair.answer]])


def _shape_key(instance: Mapping[str, Any]) -> str:
    return json.dumps([instance.get("segmentation"), instance.get("category_name")], sort_keys=True)
