"""Contact sheet of an evaluation: good and bad answers of every kind of question, each beside its targets."""

import logging
import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from pixellm.eval.protocols import ScoredAnswer
from pixellm.imaging.contact_sheet import Card, contact_sheet
from pixellm.imaging.images import load_image
from pixellm.imaging.masks import as_text
from pixellm.types import Answer, Target

logger = logging.getLogger(__name__)

GOOD_IOU = 0.5  # the usual threshold of a hit
COUNT = 8  # good answers and bad ones on the page


def write_answer_page(
    scored: Sequence[ScoredAnswer], path: Path, count: int = COUNT, licences: Collection[int] | None = None
) -> bool:
    """Write a page of up to `count` good and `count` bad answers; return whether there was an image to draw on.

    With `licences`, only images with one of these licence ids (COCO's) are shown.
    """
    usable = [
        answer
        for answer in scored
        if answer.question.image.is_file() and (licences is None or answer.question.licence in licences)
    ]
    cards = []
    for good in (True, False):
        cards += [_cards(answer, good) for answer in choose([a for a in usable if is_good(a) == good], count)]
    if not cards:
        logger.warning("no page of answers: no image of the benchmark can be shown")
        return False
    contact_sheet([card for pair in cards for card in pair], path)
    return True


def is_good(scored: ScoredAnswer) -> bool:
    """Return whether the masks hit and every phrase fits, or rightly no mask was predicted."""
    return scored.iou >= GOOD_IOU and not scored.misnamed


def note(scored: ScoredAnswer) -> str:
    """Describe how good an answer is, for the corner of its card."""
    if not scored.pairs:
        return "rightly no mask" if is_good(scored) else "should have no mask"
    iou = int(100 * scored.iou) / 100  # cut, not rounded: 0.50 is never among the bad
    return f"IoU {iou:.2f}{', misnamed' if scored.misnamed else ''}"


def choose(scored: Sequence[ScoredAnswer], count: int) -> list[ScoredAnswer]:
    """Choose up to `count` answers, the same number of each kind where possible, spread evenly from best to worst.

    No image is taken twice while there are others. The same answers always give the same choice.
    """
    kinds = sorted({answer.question.kind for answer in scored})
    queues = []
    for kind in kinds:
        ranked = sorted((a for a in scored if a.question.kind == kind), key=lambda a: a.question.id)
        random.Random(0).shuffle(ranked)  # so that of equally good ones not always the first images are taken
        ranked.sort(key=lambda a: -a.iou)
        queues.append(_spread(ranked))
    picked: list[ScoredAnswer] = []
    while len(picked) < count and any(queues):
        for queue in [queue for queue in queues if queue][: count - len(picked)]:
            seen = {answer.question.image_id for answer in picked}
            fresh = next((at for at, answer in enumerate(queue) if answer.question.image_id not in seen), 0)
            picked.append(queue.pop(fresh))
    return sorted(picked, key=lambda a: (kinds.index(a.question.kind), -a.iou))


def _spread(ranked: Sequence[ScoredAnswer]) -> list[ScoredAnswer]:
    """Best, worst, median, quartiles, eighths … : every beginning of the list is spread over the whole."""
    last = len(ranked) - 1
    shares = [0.0, 1.0, *((odd / step) for step in (2, 4, 8, 16) for odd in range(1, step, 2))]
    order = dict.fromkeys([*(round(share * last) for share in shares), *range(len(ranked))])
    return [ranked[at] for at in order]


def _cards(scored: ScoredAnswer, good: bool) -> tuple[Card, Card]:
    """Return the answer and its targets, each as a card."""
    image, question = load_image(scored.question.image), scored.question
    if (image.height, image.width) != question.hw:
        raise ValueError(f"{question.id}: expected an image of {question.hw}, got {question.image} of another size.")
    text, targets = "", []
    for target in question.targets:
        name = target.description or target.category or "target"
        targets.append(Target(name, (len(text), len(text) + len(name)), as_text(target.rle)))
        text += f"{name}, "
    answer = replace(scored.answer, question=question.text, original_hw=question.hw, image=image)
    reference = Answer("targets:", text[:-2] or "none", tuple(targets), question.hw, image)
    return answer.card(note(scored), good), reference.card("targets", good)
