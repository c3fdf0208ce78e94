"""The benchmarks by name: every question with a stable id, its image and its targets.

An id is `SPLIT/IMAGE/NUMBER`; for referring data sets `DATASET/SPLIT/IMAGE/NUMBER`. The number counts the questions of
an image that can be used, from 0, in the order of the annotation file. Masks stay RLEs.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from pixellm.data.catalogue import DATASETS, open_data
from pixellm.data.datasets import RecordDataset, RecordList
from pixellm.data.records import Exchange, Instance, MaskSource, Record, Segments
from pixellm.data.refer import multi_referring
from pixellm.data.templates import join
from pixellm.imaging import masks
from pixellm.types import SEG_SLOT
from pixellm.utils.files import write_text

Name = Literal["muse", "refer", "multi-refer", "reasonseg", "grefcoco"]
Grouping = Literal["released", "paper"]

# The released validation's wording (train_ds.py, validate); MUSE's draws "respond with" or "output", here it is fixed.
PHRASE, SENTENCE = "What is {} in this image? Please output segmentation mask.", "{} Please output segmentation mask."
MUSE_TEST = ("test_less", "test_many")  # --split test: both
MIN_TARGETS, MAX_TARGETS = 3, 6  # of a multi-referring question (the paper)


@dataclass(frozen=True)
class BenchmarkTarget:
    """What is wanted: its description ("" where there is none), the name of its category, and its mask.

    `parts`: its polygons one by one where they overlap each other, else empty; the released code adds them up.
    `things`: how many annotations its mask unites.
    """

    description: str
    category: str
    rle: masks.Rle
    parts: tuple[masks.Rle, ...] = ()
    things: int = 1


@dataclass(frozen=True)
class BenchmarkQuestion:
    """One question.

    Args:
        id: see the module.
        image: its file.
        image_id: what questions on one image share.
        hw: (height, width) of the image and of all masks.
        text: as it is asked.
        expression: as it stands in the data set.
        targets: none where nothing fits.
        ignored: pixels that count as nothing.
    """

    id: str
    image: Path
    image_id: str
    hw: tuple[int, int]
    text: str
    expression: str
    targets: tuple[BenchmarkTarget, ...]
    ignored: masks.Rle | None = None

    @property
    def given_answer(self) -> str:
        """What a teacher-forced model is given: "{seg}." or "{seg}, {seg} and {seg}."."""
        return f"{join([SEG_SLOT] * max(1, len(self.targets)))}."


@dataclass(frozen=True)
class Benchmark:
    """All questions of a split, and what they are of."""

    name: Name
    dataset: str
    split: str
    questions: tuple[BenchmarkQuestion, ...]
    left_out: int = 0

    @property
    def title(self) -> str:
        return f"{self.name} ({self.dataset}, {self.split})"

    def first(self, images: int | None) -> "Benchmark":
        """The questions on the first images; None: all."""
        chosen = set(list(dict.fromkeys(question.image for question in self.questions))[:images])
        return replace(self, questions=tuple(q for q in self.questions if q.image in chosen))


def load_benchmark(
    name: Name, root: Path, split: str = "val", dataset: str = "refcoco", grouping: Grouping = "paper"
) -> Benchmark:
    """Read a benchmark's annotations.

    Args:
        name: which one.
        root: the data root, laid out as `pixellm data layout` prints.
        split: one of the data set's; for MUSE also "test": test_less and test_many.
        dataset: of "refer" and "multi-refer": refcoco, refcoco+, refcocog or refclef.
        grouping: of "multi-refer": "paper" asks for 3–6 different things at a time, "released" for 6, 5, 4, 6 …
            sentences of an image, which may mean the same thing.

    Raises:
        ValueError: no such data set or split, or annotations that can't be read.
    """
    key = {"muse": "muse", "reasonseg": "reasonseg", "grefcoco": "grefcoco"}.get(name, dataset)
    if name in ("refer", "multi-refer") and (DATASETS.get(key) is None or DATASETS[key].kind != "refer"):
        known = ", ".join(k for k, published in DATASETS.items() if published.kind == "refer")
        raise ValueError(f"--dataset: expected one of {known}, got {dataset!r}.")
    splits = MUSE_TEST if (name, split) == ("muse", "test") else (split,)
    opened = {one: open_data(f"{key}:{one}", root, max_bad_fraction=1.0) for one in splits}
    questions: list[BenchmarkQuestion] = []
    for one, data in opened.items():
        prefix = f"{key}/{one}" if DATASETS[key].kind == "refer" else one
        if name == "multi-refer":
            prefix += f"/{grouping}"
            data = multi_referring(data) if grouping == "released" else multi_distinct(data)
        questions += _questions(data, prefix)
    if not questions:
        raise ValueError(f"expected questions in {key}, split {split}, found none. See `pixellm data check {key}`.")
    return Benchmark(name, key, split, tuple(questions), sum(len(data.bad) for data in opened.values()))


def _questions(data: RecordDataset, prefix: str) -> Iterator[BenchmarkQuestion]:
    seen: Counter[str] = Counter()
    for index in range(len(data)):
        record = data[index]
        seen[record.record_id] += 1
        again = seen[record.record_id]  # MUSE may list an image twice
        image_id = f"{prefix}/{record.record_id}" + (f"#{again}" if again > 1 else "")
        for number, exchange in enumerate(_exchanges(record)):
            try:
                yield _question(record, exchange, image_id, number)
            except (ValueError, OSError) as error:
                raise ValueError(
                    f"{image_id}/{number}: {error}. Mend the data; `pixellm data check` reads it."
                ) from None


def _exchanges(record: Record) -> list[Exchange]:
    """What is asked: of referring data sets each sentence alone, of ReasonSeg an image's first text (as LISA does)."""
    if not record.exchanges:
        targets = [(instance,) if instance.mask is not None else () for instance in record.instances]
        return [Exchange(r.names[0], None, t, "phrase") for r, t in zip(record.instances, targets, strict=True)]
    if any(exchange.ignored is not None for exchange in record.exchanges):
        return list(record.exchanges[:1])
    return list(record.exchanges)


def _question(record: Record, exchange: Exchange, image_id: str, number: int) -> BenchmarkQuestion:
    hw = record.original_hw or _size(record.image)
    text = (SENTENCE if exchange.asks == "sentence" else PHRASE).format(exchange.question)
    ignored = None if exchange.ignored is None else _rle(exchange.ignored, hw)
    targets = tuple(_target(instance, hw) for instance in exchange.targets)
    ids = (f"{image_id}/{number}", record.image, image_id)
    return BenchmarkQuestion(*ids, hw, text, exchange.question, targets, ignored)


def _target(instance: Instance, hw: tuple[int, int]) -> BenchmarkTarget:
    assert instance.mask is not None
    parts = tuple(instance.mask.rles(*hw)) if isinstance(instance.mask, Segments) else ()
    rle = masks.united([parts], *hw) if parts else _rle(instance.mask, hw)
    overlapping = sum(map(masks.area, parts)) > masks.area(rle)
    things = len(instance.mask.parts) if isinstance(instance.mask, Segments) else 1
    return BenchmarkTarget(next(iter(instance.names), ""), instance.category, rle, parts if overlapping else (), things)


def _rle(source: MaskSource, hw: tuple[int, int]) -> masks.Rle:
    return masks.encode(source.decode(*hw))


def _size(image: Path) -> tuple[int, int]:
    with Image.open(image) as opened:  # reads no more than the header
        return opened.height, opened.width


def multi_distinct(data: RecordDataset) -> RecordList:
    """Questions for 3–6 different things each, in file order: all first sentences of things, then all second ones …

    The sentences of a round are shared out evenly to as few questions as possible; a round of fewer than three things
    is left out.
    """
    records = []
    for index in range(len(data)):
        record = data[index]
        things: dict[str, list[Instance]] = {}
        for instance in record.instances:
            if instance.mask is not None:
                things.setdefault(_key(instance.mask), []).append(instance)
        rounds = [
            [sentences[turn] for sentences in things.values() if turn < len(sentences)]
            for turn in range(max(map(len, things.values()), default=0))
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
    """The same for sentences of one reference, or of two with the same annotation."""
    return json.dumps(mask.parts, default=str) if isinstance(mask, Segments) else repr(mask)


def _evenly(instances: Sequence[Instance]) -> Iterator[Sequence[Instance]]:
    if len(instances) < MIN_TARGETS:
        return
    groups = -(-len(instances) // MAX_TARGETS)
    ends = [len(instances) * (group + 1) // groups for group in range(groups)]
    yield from (instances[start:end] for start, end in zip([0, *ends], ends, strict=False))


def write_questions(benchmark: Benchmark, path: Path) -> None:
    """Ids, images and texts for other programs, without what the answers are to be: JSON lines."""
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
