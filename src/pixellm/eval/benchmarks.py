"""Published benchmarks by name, and your own data: every question with a stable id, its image and its targets.

An id is `SPLIT/IMAGE/NUMBER`; for referring data sets `DATASET/SPLIT/IMAGE/NUMBER`; for your own `IMAGE/NUMBER`. The
number counts the usable questions of an image from 0, in the order of the annotation file. Masks stay RLEs.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pixellm.data.catalogue import DATASETS, open_data
from pixellm.data.datasets import RecordDataset, RecordList
from pixellm.data.jsonl import read_jsonl
from pixellm.data.records import Exchange, Instance, MaskSource, Record, Segments
from pixellm.data.refer import multi_referring
from pixellm.data.templates import join
from pixellm.imaging import masks
from pixellm.imaging.images import read_size
from pixellm.types import SEG_SLOT
from pixellm.utils.checks import clause
from pixellm.utils.files import write_text

PublishedName = Literal["muse", "refer", "multi-refer", "reasonseg", "grefcoco"]
Grouping = Literal["released", "paper"]

# The released validation's wording (train_ds.py, validate); MUSE's draws "respond with" or "output", here it is fixed.
WORDINGS = {
    "phrase": "What is {} in this image? Please output segmentation mask.",
    "sentence": "{} Please output segmentation mask.",
    "verbatim": "{}",
}
JSONL = "jsonl"  # the benchmark of your own data
MUSE_TEST = ("test_less", "test_many")  # --split test: both
MIN_TARGETS, MAX_TARGETS = 3, 6  # of a multi-referring question (the paper)


@dataclass(frozen=True)
class BenchmarkTarget:
    """A reference mask.

    Args:
        description: what it is called in the data set; "" where there is nothing.
        category: the name of its category.
        rle: the mask at the image's size.
        parts: its polygons one by one where they overlap each other, else empty; the released code adds them up.
        objects: how many annotations the mask unites.
    """

    description: str
    category: str
    rle: masks.Rle
    parts: tuple[masks.Rle, ...] = ()
    objects: int = 1


@dataclass(frozen=True)
class BenchmarkQuestion:
    """A question about an image.

    Args:
        id: see the modules of the benchmarks.
        image: its file.
        image_id: what questions on one image share.
        hw: (height, width) of the image and of all masks.
        text: the question as it is asked.
        expression: as it stands in the data set.
        targets: reference masks; none for no-target questions.
        ignored: pixels that are left out.
        kind, detail: by which the report splits the questions, see `pixellm.eval.coco_benchmark`.
        licence: COCO's id of the image's licence.
    """

    id: str
    image: Path
    image_id: str
    hw: tuple[int, int]
    text: str
    expression: str
    targets: tuple[BenchmarkTarget, ...]
    ignored: masks.Rle | None = None
    kind: str = ""
    detail: str = ""
    licence: int | None = None

    @property
    def reference_answer(self) -> str:
        """Answer for teacher forcing: "{seg}." or "{seg}, {seg} and {seg}."."""
        return f"{join([SEG_SLOT] * max(1, len(self.targets)))}."


@dataclass(frozen=True)
class Benchmark:
    """All questions of a split.

    Args:
        name: see `pixellm eval --help`.
        dataset: whose annotations they come from.
        split: part of it; "" where there is one.
        questions: in order, those on one image together.
        left_out: number of records that can't be used.
        categories: all that are annotated, where phrases are compared with them.
    """

    name: str
    dataset: str
    split: str
    questions: tuple[BenchmarkQuestion, ...]
    left_out: int = 0
    categories: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        return f"{self.name} ({self.dataset}, {self.split})" if self.split else f"{self.name} ({self.dataset})"

    @property
    def digest(self) -> str:
        """Identify the questions and targets."""
        digest = hashlib.sha256()
        for question in self.questions:
            counts = [masks.as_text(target.rle)["counts"] for target in question.targets]
            digest.update(json.dumps([question.id, question.text, question.hw, counts]).encode())
        return digest.hexdigest()[:16]

    def first(self, images: int | None) -> "Benchmark":
        """Return the questions on the first images; None: all."""
        kept = set(list(dict.fromkeys(question.image for question in self.questions))[:images])
        return replace(self, questions=tuple(q for q in self.questions if q.image in kept))


def load_benchmark(
    name: PublishedName, root: Path, split: str = "val", dataset: str = "refcoco", grouping: Grouping = "paper"
) -> Benchmark:
    """Read a benchmark's annotations.

    Args:
        name: which one.
        root: the data root, laid out as `pixellm data layout` prints.
        split: one of the data set's; for MUSE also "test": test_less and test_many.
        dataset: of "refer" and "multi-refer": refcoco, refcoco+, refcocog or refclef.
        grouping: of "multi-refer": "paper" asks for 3–6 different objects at a time, "released" for 6, 5, 4, 6 …
            sentences of an image, which may refer to the same object.

    Raises:
        ValueError: no such data set or split, or annotations that can't be read.
    """
    key = {"muse": "muse", "reasonseg": "reasonseg", "grefcoco": "grefcoco"}.get(name, dataset)
    if name in ("refer", "multi-refer") and (DATASETS.get(key) is None or DATASETS[key].kind != "refer"):
        known = ", ".join(k for k, published in DATASETS.items() if published.kind == "refer")
        raise ValueError(f"--dataset: expected one of {known}, got {dataset!r}.")
    splits = MUSE_TEST if (name, split) == ("muse", "test") else (split,)
    opened = {split_name: open_data(f"{key}:{split_name}", root, max_bad_fraction=1.0) for split_name in splits}
    questions: list[BenchmarkQuestion] = []
    for split_name, data in opened.items():
        prefix = f"{key}/{split_name}" if DATASETS[key].kind == "refer" else split_name
        if name == "multi-refer":
            prefix += f"/{grouping}"
            data = multi_referring(data) if grouping == "released" else multi_distinct(data)
        questions += _questions(data, prefix)
    if not questions:
        raise ValueError(f"expected questions in {key}, split {split}, found none. See `pixellm data check {key}`.")
    return Benchmark(name, key, split, tuple(questions), sum(len(data.bad) for data in opened.values()))


def load_jsonl(file: Path) -> Benchmark:
    """Read the questions of your own data, see `pixellm.data.jsonl`; they are asked as they are written.

    Raises:
        ValueError: the file, an image or a mask can't be read.
    """
    data = read_jsonl(file)
    return Benchmark(JSONL, file.name, "", tuple(_questions(data)), len(data.bad))


def _questions(data: RecordDataset, prefix: str = "") -> Iterator[BenchmarkQuestion]:
    seen: Counter[str] = Counter()
    for index in range(len(data)):
        record = data[index]
        seen[record.record_id] += 1
        again = seen[record.record_id]  # MUSE may list an image twice
        image_id = f"{prefix}/" * bool(prefix) + record.record_id + (f"#{again}" if again > 1 else "")
        for number, exchange in enumerate(_exchanges(record)):
            try:
                yield _question(record, exchange, image_id, number)
            except (ValueError, OSError) as error:
                raise ValueError(
                    f"{image_id}/{number}: {clause(error)}. Mend the data; `pixellm data check` reads it."
                ) from None


def _exchanges(record: Record) -> list[Exchange]:
    """Return the questions of a record: of referring data sets each sentence, of ReasonSeg the first text (as LISA)."""
    if not record.exchanges:
        targets = [(instance,) if instance.mask is not None else () for instance in record.instances]
        return [Exchange(r.names[0], None, t, "phrase") for r, t in zip(record.instances, targets, strict=True)]
    if any(exchange.ignored is not None for exchange in record.exchanges):
        return list(record.exchanges[:1])
    return list(record.exchanges)


def _question(record: Record, exchange: Exchange, image_id: str, number: int) -> BenchmarkQuestion:
    hw = record.original_hw or read_size(record.image)
    text = WORDINGS[exchange.asks].format(exchange.question)
    ignored = None if exchange.ignored is None else _rle(exchange.ignored, hw)
    targets = tuple(_target(instance, hw) for instance in exchange.targets)
    ids = (f"{image_id}/{number}", record.image, image_id)
    return BenchmarkQuestion(*ids, hw, text, exchange.question, targets, ignored, exchange.kind)


def _target(instance: Instance, hw: tuple[int, int]) -> BenchmarkTarget:
    assert instance.mask is not None
    parts = tuple(instance.mask.rles(*hw)) if isinstance(instance.mask, Segments) else ()
    rle = masks.union([parts], *hw) if parts else _rle(instance.mask, hw)
    overlapping = sum(map(masks.area, parts)) > masks.area(rle)
    objects = len(instance.mask.parts) if isinstance(instance.mask, Segments) else 1
    description = next(iter(instance.names), "")
    return BenchmarkTarget(description, instance.category, rle, parts if overlapping else (), objects)


def _rle(source: MaskSource, hw: tuple[int, int]) -> masks.Rle:
    return masks.encode(source.decode(*hw))


def multi_distinct(data: RecordDataset) -> RecordList:
    """Make questions for 3–6 different objects, in file order: all first sentences, then all second ones …

    The sentences of a round are shared out evenly to as few questions as possible; a round of fewer than three objects
    is left out.
    """
    records = []
    for index in range(len(data)):
        record = data[index]
        objects: dict[str, list[Instance]] = {}
        for instance in record.instances:
            if instance.mask is not None:
                objects.setdefault(_key(instance.mask), []).append(instance)
        rounds = [
            [sentences[turn] for sentences in objects.values() if turn < len(sentences)]
            for turn in range(max(map(len, objects.values()), default=0))
        ]
        exchanges = [
            Exchange(join([instance.names[0] for instance in group]), None, tuple(group), "phrase")
            for instances in rounds
            for group in _evenly(instances)
        ]
        if exchanges:
            records.append(replace(record, instances=(), exchanges=tuple(exchanges)))
    return RecordList(records, data.bad)


def _key(mask: MaskSource) -> str:
    """Identify what a sentence refers to: two references may have the same annotation."""
    return json.dumps(mask.parts, default=str) if isinstance(mask, Segments) else repr(mask)


def _evenly(instances: Sequence[Instance]) -> Iterator[Sequence[Instance]]:
    if len(instances) < MIN_TARGETS:
        return
    groups = -(-len(instances) // MAX_TARGETS)
    ends = [len(instances) * (group + 1) // groups for group in range(groups)]
    yield from (instances[start:end] for start, end in zip([0, *ends], ends, strict=False))


def write_questions(benchmark: Benchmark, path: Path) -> None:
    """Write ids, images and texts for other programs as JSON lines, without the targets."""
    rows = (
        {
            "id": q.id,
            "image": str(q.image.resolve()),  # wherever the file is taken
            "height": q.hw[0],
            "width": q.hw[1],
            "question": q.text,
            "expression": q.expression,
        }
        for q in benchmark.questions
    )
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
