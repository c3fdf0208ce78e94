"""Which answers of an evaluation are shown on a contact sheet: good and bad ones, of every kind of question."""

import random
from collections.abc import Collection, Sequence
from pathlib import Path

from PIL import Image

from pixellm.data.coco import CocoSource
from pixellm.eval.photographs import KINDS, Result
from pixellm.imaging.contact_sheet import contact_sheet
from pixellm.types import Answer, Target

GOOD_IOU = 0.5  # the usual threshold of a hit


def result_sheet(
    results: Sequence[Result], source: CocoSource, path: Path, count: int = 12, licences: Collection[int] | None = None
) -> None:
    """Write a sheet of up to `count` good and `count` bad answers, photographs taken from `source`.

    With `licences`, only photographs whose record has one of these licence ids are shown.
    """
    index = {
        record["id"]: at
        for at, record in enumerate(source.rows)
        if licences is None or record.get("license") in licences
    }
    results = [result for result in results if result.record_id in index]
    items = []
    for good in (True, False):
        for result in choose([r for r in results if is_good(r) == good], count):
            answer = answer_of(result, source[index[result.record_id]].load_image())
            items.append(answer.card(_note(result), good))
    if items:
        contact_sheet(items, path)


def is_good(result: Result) -> bool:
    """Whether the masks hit and every phrase fits, or rightly no mask was given."""
    return result.iou >= GOOD_IOU and not result.misnamed


def _note(result: Result) -> str:
    if not result.scores:
        return "rightly no mask" if is_good(result) else "should have no mask"
    iou = int(100 * result.iou) / 100  # cut, not rounded: 0.50 is never among the bad
    return f"IoU {iou:.2f}{', misnamed' if result.misnamed else ''}"


def choose(results: Sequence[Result], count: int) -> list[Result]:
    """Up to `count` results, of each kind the same number as far as there are, spread evenly from best to worst.

    No photograph is taken twice while there are others. The same results always give the same choice.
    """
    queues = []
    for kind in KINDS:
        ranked = sorted((r for r in results if r.kind == kind), key=lambda r: r.key)
        random.Random(0).shuffle(ranked)  # so that of equally good ones not always the first photographs are taken
        ranked.sort(key=lambda r: -r.iou)
        if ranked:
            queues.append(_spread(ranked))
    chosen: list[Result] = []
    while len(chosen) < count and any(queues):
        for queue in [queue for queue in queues if queue][: count - len(chosen)]:
            seen = {result.record_id for result in chosen}
            fresh = next((at for at, result in enumerate(queue) if result.record_id not in seen), 0)
            chosen.append(queue.pop(fresh))
    return sorted(chosen, key=lambda r: (KINDS.index(r.kind), -r.iou))


def _spread(ranked: Sequence[Result]) -> list[Result]:
    """Best, worst, median, quartiles, eighths … : every beginning of the list is spread over the whole."""
    last = len(ranked) - 1
    shares = [0.0, 1.0, *((odd / step) for step in (2, 4, 8, 16) for odd in range(1, step, 2))]
    order = dict.fromkeys([*(round(share * last) for share in shares), *range(len(ranked))])
    return [ranked[at] for at in order]


def answer_of(result: Result, image: Image.Image) -> Answer:
    """The answer that a result was made from, without its token ids."""
    targets = tuple(
        Target(row["phrase"], (row["span"][0], row["span"][1]), row["segmentation"], row["score"])
        for row in result.targets
    )
    return Answer(result.question, result.answer, targets, (image.height, image.width), image)
