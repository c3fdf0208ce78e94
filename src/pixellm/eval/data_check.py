"""Check of a data set: read all of it, count its content, report what is wrong, draw some samples."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pixellm.data.chat import Chat
from pixellm.data.datasets import BadRecord, RecordDataset
from pixellm.data.records import Instance, Record
from pixellm.imaging.contact_sheet import contact_sheet
from pixellm.imaging.images import load_image
from pixellm.imaging.masks import encode
from pixellm.inference.answer_builder import AnswerBuilder
from pixellm.types import SEG_SLOT, Answer, Conversation, Sample


@dataclass
class DatasetCounts:
    """Content of a data set.

    Args:
        images, masks, empty_masks: number of them.
        questions: those that come with the data.
        targets: number of questions by their number of targets.
        instances: names and sentences that may be asked for, of which `without_target` have no mask.
        bad: records that can't be used, with the reason.
    """

    images: int = 0
    questions: int = 0
    instances: int = 0
    without_target: int = 0
    masks: int = 0
    empty_masks: int = 0
    targets: Counter[int] = field(default_factory=Counter)
    bad: list[BadRecord] = field(default_factory=list)


def check(data: RecordDataset, progress: Iterable[int] | None = None) -> DatasetCounts:
    """Read every image and mask.

    Args:
        data: a data set, opened with a `max_bad_fraction` of 1 to get all faults.
        progress: its indices, wrapped in a progress bar.
    """
    counts = DatasetCounts(bad=list(data.bad))
    for index in range(len(data)) if progress is None else progress:
        try:
            record = data[index]
        except ValueError as error:
            counts.bad.append(BadRecord(f"number {index}", str(error)))
            continue
        counts.bad += _count(record, counts)
    return counts


def _count(record: Record, counts: DatasetCounts) -> Iterator[BadRecord]:
    """Add one record to the counts and yield its faults, each with its line where the data set has one."""
    try:
        image = load_image(record.image)
        height, width = image.height, image.width
        if record.original_hw not in (None, (height, width)):
            raise ValueError(f"annotated for {record.original_hw} pixels (height, width), got {(height, width)}")
    except ValueError as error:
        for where in [f"{e.where}, image" for e in record.exchanges if e.where] or [record.record_id]:
            yield BadRecord(where, str(error))
        return
    for where, instance in _masks(record):
        try:
            if instance.mask is None:
                continue
            counts.masks += 1
            if not instance.mask.decode(height, width).any():
                counts.empty_masks += 1
                raise ValueError("expected a mask with a pixel in the image, got an empty one")
        except ValueError as error:
            yield BadRecord(where, str(error))
    counts.images += 1
    counts.instances += len(record.instances)
    counts.without_target += sum(instance.mask is None for instance in record.instances)
    counts.questions += len(record.exchanges)
    counts.targets.update(len(exchange.targets) for exchange in record.exchanges)


def _masks(record: Record) -> Iterator[tuple[str, Instance]]:
    """Yield the record's instances, each with its place: file, line and field, or record and name."""
    for instance in record.instances:
        yield f"{record.record_id}: name {instance.names[0]!r}", instance
    for exchange in record.exchanges:
        for number, instance in enumerate(exchange.targets):
            where = exchange.where or f"{record.record_id}: {exchange.place}"
            yield f"{where}, masks[{number}]", instance


def sample_sheet(data: RecordDataset, path: Path, count: int = 12, seed: int = 0) -> int:
    """Write a contact sheet of up to `count` random conversations as training sees them; returns how many there are."""
    rng = random.Random(seed)
    items = []
    for index in rng.sample(range(len(data)), len(data)):
        try:
            sample = Chat().draft(data[index], rng).load()
        except ValueError:  # `check` has reported it
            continue
        if sample.conversations:
            items.append(_answer(rng.choice(sample.conversations), sample).card(sample.record_id))
        if len(items) == count:
            break
    if items:
        contact_sheet(items, path)
    return len(items)


def _answer(conversation: Conversation, sample: Sample) -> Answer:
    """A training conversation as the answer that it teaches."""
    builder = AnswerBuilder(conversation.question, sample.image)
    for number, piece in enumerate(conversation.answer.split(SEG_SLOT)):
        if number:
            builder.add_target(encode(conversation.masks[number - 1]), 1.0)
        builder.add_text(piece)
    return builder.finish()


def report_lines(counts: DatasetCounts) -> Iterator[str]:
    """The counts in words, a line each."""
    yield f"images             {counts.images:>9,}"
    if counts.instances:
        yield f"names or sentences {counts.instances:>9,}   {counts.without_target:,} of them fit nothing"
    if counts.questions:
        yield f"questions          {counts.questions:>9,}"
        mean = sum(number * times for number, times in counts.targets.items()) / counts.questions
        yield f"targets a question {mean:>9.2f}   " + " · ".join(
            f"{number}: {times:,}" for number, times in sorted(counts.targets.items())
        )
    yield f"masks              {counts.masks:>9,}   {counts.empty_masks:,} of them empty"
    yield f"bad records        {len(counts.bad):>9,}"
    yield from (f"  {bad.record_id}: {bad.reason}" for bad in counts.bad)
