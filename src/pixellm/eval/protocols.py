"""How an answer's masks are paired with the targets, and what each pair counts: one function a protocol.

A protocol's numbers change only with its version. `docs/evaluation.md` has the arithmetic and hand cases of each.

Shapes:  P predicted masks · T targets
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pixellm.eval.benchmarks import BenchmarkQuestion
from pixellm.eval.matching import Pair, match
from pixellm.eval.metrics import Overlap, overlap
from pixellm.imaging import masks
from pixellm.types import Answer

ProtocolName = Literal["fixed", "paper", "released", "ordered", "united"]
TEXT_THRESHOLD = (
    0.5  # of a rating / 10: a mask whose words are rated lower loses its intersection (the paper, recalled)
)


@dataclass(frozen=True)
class PairScore:
    """A predicted mask and its target, by index (None: there is none), and what the protocol makes of them.

    `counts` go into cIoU, `iou` into gIoU; `rating`: 1–10, of the mask's words, where they are rated.
    """

    predicted: int | None
    target: int | None
    counts: Overlap
    iou: float
    rating: int | None = None


@dataclass(frozen=True)
class Scored:
    """A question, the answer to it, and its pairs."""

    question: BenchmarkQuestion
    answer: Answer
    pairs: tuple[PairScore, ...]


@dataclass(frozen=True)
class Protocol:
    """A protocol.

    Args:
        name: its name.
        version: raise it whenever a number changes.
        benchmarks: where it can be used; the first protocol of a benchmark is its default.
        pairs: question and answer → pairs.
        says: what it does, in a sentence, for reports.
        per_image: gIoU divides by the larger number of masks and targets of an image; else by the number of pairs.
        rated: the words of each pair are to be rated (`with_ratings`).
    """

    name: ProtocolName
    version: int
    benchmarks: tuple[str, ...]
    pairs: Callable[[BenchmarkQuestion, Answer], Sequence[PairScore]]
    says: str
    per_image: bool = False
    rated: bool = False


def fixed_pairs(question: BenchmarkQuestion, answer: Answer) -> list[PairScore]:
    """One to one with the largest sum of IoU at full resolution; what is missing or too many counts 0."""
    targets = [target.rle for target in question.targets]
    return [_scored(pair) for pair in match([target.rle for target in answer.targets], targets, question.ignored)]


def _scored(pair: Pair) -> PairScore:
    return PairScore(pair.predicted, pair.target, pair.counts, pair.iou)


def ordered_pairs(question: BenchmarkQuestion, answer: Answer) -> list[PairScore]:
    """The k-th mask with the k-th target: for teacher-forced answers, whose order is given."""
    count, total = len(answer.targets), len(question.targets)
    pairs = []
    for index in range(max(count, total)):
        mask = answer.targets[index].rle if index < count else masks.empty(*question.hw)
        target = question.targets[index].rle if index < total else masks.empty(*question.hw)
        counts = overlap(mask, target, question.ignored)
        pair = Pair(index if index < count else None, index if index < total else None, counts)
        pairs.append(_scored(pair))
    return pairs


def united_pairs(question: BenchmarkQuestion, answer: Answer) -> list[PairScore]:
    """The union of the answer's masks with the union of the targets: one pair.

    Where nothing fits, it counts 1 if no mask has a pixel, else 0, and adds its pixels to the union (gRefCOCO's rule).
    """
    predicted = masks.united([[target.rle for target in answer.targets]], *question.hw)
    target = masks.united([[target.rle for target in question.targets]], *question.hw)
    counts = overlap(predicted, target, question.ignored)
    answered = masks.area(predicted) > 0
    return [PairScore(0 if answered else None, 0 if question.targets else None, counts, counts.iou)]


def with_ratings(pairs: Sequence[PairScore], ratings: Sequence[int | None]) -> list[PairScore]:
    """Pairs with the ratings of their words, 1–10; what is rated below the threshold loses its intersection.

    The union stays. `ratings` are None where there is no pair to rate.
    """
    return [_rated(pair, rating) for pair, rating in zip(pairs, ratings, strict=True)]


def _rated(pair: PairScore, rating: int | None) -> PairScore:
    if rating is None:
        return pair
    if rating / 10 < TEXT_THRESHOLD:
        pair = replace(pair, counts=Overlap(0, pair.counts.union), iou=0.0)
    return replace(pair, rating=rating)


def _released_pairs(question: BenchmarkQuestion, answer: Answer) -> list[PairScore]:
    from pixellm.eval.released import released_pairs

    return released_pairs(question, answer)


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "fixed",
            1,
            ("muse", "multi-refer"),
            fixed_pairs,
            "masks and targets paired one to one with the largest sum of IoU at full resolution; missing and extra "
            "masks count 0",
        ),
        Protocol(
            "paper",
            1,
            ("muse",),
            fixed_pairs,
            "paired as `fixed`; a mask whose words are rated below 5 of 10 for its target loses its intersection",
            rated=True,
        ),
        Protocol(
            "released",
            1,
            ("muse",),
            _released_pairs,
            "the released code's arithmetic with its faults: pairs by BCE + DICE on 12,544 random points, extra masks "
            "read as logits, the denominator of gIoU per image",
            per_image=True,
        ),
        Protocol(
            "ordered",
            1,
            ("multi-refer",),
            ordered_pairs,
            "the k-th mask with the k-th target, as the released validation does with answers that are given",
        ),
        Protocol(
            "united",
            1,
            ("refer", "reasonseg", "grefcoco"),
            united_pairs,
            "all masks of an answer united, against all targets united; pixels to ignore count as nothing",
        ),
    )
}


def choose_protocol(benchmark: str, name: str | None) -> Protocol:
    """The protocol of that name, or the benchmark's default.

    Raises:
        ValueError: there is none for this benchmark.
    """
    known = [protocol for protocol in PROTOCOLS.values() if benchmark in protocol.benchmarks]
    chosen = [protocol for protocol in known if name in (None, protocol.name)]
    if not chosen:
        names = ", ".join(protocol.name for protocol in known)
        raise ValueError(f"--protocol: expected one of {benchmark}'s ({names}), got {name!r}.")
    return chosen[0]
