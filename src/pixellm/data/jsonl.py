"""Your own data: one JSON object a line, one question each.

    {"image": "photos/1.jpg", "question": "What may I eat?", "answer": "The apple {seg} and the pear {seg}.",
     "masks": [[[x0, y0, x1, y1, …]], {"size": [h, w], "counts": "…"}], "id": "optional",
     "kind": "optional", "correction": {…}}

An entry of `masks` is a list of polygons in pixels, a COCO RLE, or the path of a PNG whose pixels other than 0 are the
mask; one for each `{seg}`, in the same order. An answer without `{seg}` has no masks. Paths are relative to the file.
Lines about one image are asked together, and its image is encoded once. Evaluations report each `kind` of question.
`correction` is the provenance of a line that `pixellm.data.corrections` wrote; nothing is read from it.
"""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pixellm.data.datasets import MAX_BAD_FRACTION, Faults, RecordList
from pixellm.data.records import Exchange, Instance, MaskFile, Record, Segments
from pixellm.types import SEG_SLOT
from pixellm.utils.checks import check_text, check_unicode, expect, read_object
from pixellm.utils.files import read_lines, write_text

FIELDS = {"image", "question", "answer", "masks", "id", "kind", "correction"}


def read_jsonl(file: Path, max_bad_fraction: float = MAX_BAD_FRACTION) -> RecordList:
    """Read questions and answers with masks: one record for each image, in the order of its first line.

    Raises:
        ValueError: no such file, or too many lines that can't be used; each is named with its number.
    """
    try:
        lines = read_lines(file)
    except OSError as error:
        raise ValueError(f"expected a JSON-lines file at {file}, which can't be read ({error}).") from None
    faults = Faults(file, max_bad_fraction)
    exchanges: dict[Path, list[Exchange]] = {}
    for number, line in lines:
        where = f"{file.name} line {number}"
        with faults.guard(where):
            image, exchange = _parse(line, file.parent)
            exchanges.setdefault(image, []).append(replace(exchange, where=where))
    if not lines:
        raise ValueError(f"expected a question a line in {file}, got an empty file.")
    records = (Record(_name(image, file.parent), image, exchanges=tuple(e)) for image, e in exchanges.items())
    return RecordList(records, faults.check(len(lines)))


def split_jsonl(file: Path, held_out: int, folder: Path) -> tuple[Path, Path]:
    """Write the lines about `held_out` images to `folder/held_out.jsonl`, all others to `folder/train.jsonl`.

    The same file always gives the same images. Paths in the lines become absolute.

    Raises:
        ValueError: a line that can't be used, or no image is left to train on.
    """
    images = [record.image for record in read_jsonl(file, max_bad_fraction=0.0)]
    if not 0 < held_out < len(images):
        raise ValueError(f"expected to hold out 1 to {len(images) - 1} of the {len(images)} images, got {held_out}.")
    selected = set(random.Random(0).sample(images, held_out))
    lines: dict[bool, list[str]] = {False: [], True: []}
    for _, line in read_lines(file):
        row = read_object(line)
        image = file.parent / row["image"]
        row["image"] = str(image.absolute())
        row["masks"] = [str((file.parent / m).absolute()) if isinstance(m, str) else m for m in row.get("masks", [])]
        lines[image in selected].append(json.dumps(row, ensure_ascii=False) + "\n")
    paths = folder / "train.jsonl", folder / "held_out.jsonl"
    for path, held in zip(paths, (False, True), strict=True):
        write_text(path, "".join(lines[held]))
    return paths


def _parse(line: bytes, folder: Path) -> tuple[Path, Exchange]:
    row = read_object(line)
    if unknown := sorted(row.keys() - FIELDS):
        raise ValueError(f"expected the fields {', '.join(sorted(FIELDS))}, got also {', '.join(unknown)}")
    with field("question"):
        question = check_text(expect(row["question"], str, "a question")).strip()
    with field("answer"):
        answer = check_text(expect(row["answer"], str, "an answer")).strip()
    with field("image"):
        image = folder / check_unicode(expect(row["image"], str, "an image file"))
    with field("masks"):
        stored = expect(row.get("masks", []), list, "a list of masks")
    with field("kind"):
        kind = check_unicode(expect(row.get("kind", ""), str, "a kind of question"))
    with field("correction"):
        expect(row.get("correction", {}), dict, "a JSON object")
    slots = answer.count(SEG_SLOT)
    if slots != len(stored):
        raise ValueError(f"the answer has {slots} {SEG_SLOT} but {len(stored)} masks")
    targets = tuple(Instance((), _mask(mask, number, folder)) for number, mask in enumerate(stored))
    return image, Exchange(question, answer, targets, kind=kind)


def _mask(stored: Any, number: int, folder: Path) -> Segments | MaskFile:
    with field(f"masks[{number}]"):
        if isinstance(stored, str):
            return MaskFile(folder / check_unicode(stored))
        return Segments((stored,)).checked()


@contextmanager
def field(name: str) -> Iterator[None]:
    """Name the field in a ValueError about it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _name(image: Path, folder: Path) -> str:
    return image.relative_to(folder).as_posix() if image.is_relative_to(folder) else str(image)
