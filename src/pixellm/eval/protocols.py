"""Scoring protocols: how an answer's masks are paired with the targets, and what each pair counts.

A protocol's numbers change only with its version. `docs/evaluation.md` has the arithmetic and hand cases of each.

Shapes:  P predicted masks · T targets
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pixellm.eval.benchmarks import BenchmarkQuestion
from pixellm.eval.boundary import boundary_overlap
from pixellm.eval.matching import MaskPair, match, names_category
from pixellm.eval.overlap import Overlap, overlap
from pixellm.eval.released import released_pairs
from pixellm.imaging import masks
from pixellm.types import Answer

ProtocolName = Literal["fixed", "paper", "released", "ordered", "united", "coco", "jsonl"]
# Threshold of rating / 10: a mask whose phrase is rated lower loses its intersection (the paper, recalled).
TEXT_THRESHOLD = 0.5


@dataclass(frozen=True)
class ScoredAnswer:
    """A question, the answer to it, and its pairs; none where no mask is expected and only its presence counts."""

    question: BenchmarkQuestion
    answer: Answer
    pairs: tuple[MaskPair, ...]

    @property
    def iou(self) -> float:
        """Mean IoU over the pairs; without pairs 1 for an answer without a mask, 0 for one with."""
        if not self.pairs:
            return float(not self.answer.targets)
        return sum(pair.iou for pair in self.pairs) / len(self.pairs)

    @property
    def misnamed(self) -> bool:
        """A mask that touches its target has a phrase that does not name the target's category."""
        return any(pair.iou > 0 and pair.named is False for pair in self.pairs)


@dataclass(frozen=True)
class ScoringProtocol:
    """A protocol.

    Args:
        name: its name.
        version: raise it whenever a number changes.
        benchmarks: where it can be used; the first protocol of a benchmark is its default.
        pairs: question and answer → pairs.
        description: one sentence for reports.
        per_image: gIoU divides by the larger number of masks and targets of an image; else by the number of pairs.
        rated: the phrase of each pair is to be rated (`with_ratings`).
        named: the phrase of each pair is to be compared with its target's category (`with_names`).
        segments: whether an answer counts as one with masks, for N-acc and T-acc; None: these are not reported.
        unites: whether all masks of an answer to a question are united before they are paired.
    """

    name: ProtocolName
    version: int
    benchmarks: tuple[str, ...]
    pairs: Callable[[BenchmarkQuestion, Answer], Sequence[MaskPair]]
    description: str
    per_image: bool = False
    rated: bool = False
    named: bool = False
    segments: Callable[[ScoredAnswer], bool] | None = None
    unites: Callable[[BenchmarkQuestion], bool] = lambda question: False


def fixed_pairs(question: BenchmarkQuestion, answer: Answer) -> list[MaskPair]:
    """Pair one to one with the largest sum of IoU at full resolution; missing and extra masks count 0."""
    targets = [target.rle for target in question.targets]
    return match([target.rle for target in answer.targets], targets, question.ignored)


def ordered_pairs(question: BenchmarkQuestion, answer: Answer) -> list[MaskPair]:
    """Pair the k-th mask with the k-th target: for teacher-forced answers, whose order is fixed."""
    count, total = len(answer.targets), len(question.targets)
    empty = masks.empty(*question.hw)
    pairs = []
    for index in range(max(count, total)):
        mask = answer.targets[index].rle if index < count else empty
        target = question.targets[index].rle if index < total else empty
        counts = overlap(mask, target, question.ignored)
        both = index < count and index < total
        indices = (index if index < count else None, index if index < total else None)
        pairs.append(MaskPair(*indices, counts, counts.iou if both else 0.0))
    return pairs


def united_pairs(question: BenchmarkQuestion, answer: Answer) -> list[MaskPair]:
    """Pair the union of the answer's masks with the union of the targets.

    Without a target it counts 1 if no mask has a pixel, else 0, and adds its pixels to the union (gRefCOCO's rule).
    """
    predicted = _union(answer, question.hw)
    target = masks.union([[target.rle for target in question.targets]], *question.hw)
    counts = overlap(predicted, target, question.ignored)
    return [MaskPair(0 if masks.area(predicted) else None, 0 if question.targets else None, counts, counts.iou)]


def target_pairs(question: BenchmarkQuestion, answer: Answer) -> list[MaskPair]:
    """Pair as `fixed`; none where no mask is expected: only whether the answer has one counts."""
    return fixed_pairs(question, answer) if question.targets else []


def coco_pairs(question: BenchmarkQuestion, answer: Answer) -> list[MaskPair]:
    """Pair as `fixed`; a question for one category takes as many masks as the model likes, united.

    Where no mask is expected there are no pairs: only whether the answer has one counts.
    """
    if _is_for_one_category(question):
        counts = overlap(_union(answer, question.hw), question.targets[0].rle)
        return [MaskPair(0, 0, counts, counts.iou) if answer.targets else MaskPair(None, 0, counts, 0.0)]
    return target_pairs(question, answer)


def _is_for_one_category(question: BenchmarkQuestion) -> bool:
    return question.kind == "category"


def _union(answer: Answer, hw: tuple[int, int]) -> masks.Rle:
    return masks.union([[target.rle for target in answer.targets]], *hw)


def with_names(scored: ScoredAnswer, categories: frozenset[str]) -> ScoredAnswer:
    """Say of each pair whether its phrase names the target's category; `categories` are those that are annotated."""
    phrases = [target.phrase for target in scored.answer.targets]
    pairs = [
        replace(
            pair,
            named=pair.predicted is not None
            and pair.target is not None
            and names_category(phrases[pair.predicted], scored.question.targets[pair.target].category, categories),
        )
        for pair in scored.pairs
    ]
    return replace(scored, pairs=tuple(pairs))


def with_boundaries(scored: ScoredAnswer, protocol: ScoringProtocol) -> ScoredAnswer:
    """Compute the boundary IoU of each pair; none where a protocol counts by image, whose masks are no pixels."""
    if protocol.per_image:
        return scored
    question, unites = scored.question, protocol.unites(scored.question)
    predicted = [target.rle for target in scored.answer.targets]
    targets = [target.rle for target in question.targets]
    if unites:
        predicted, targets = ([masks.union([rles], *question.hw)] for rles in (predicted, targets))

    def boundary_iou(pair: MaskPair) -> float:
        if pair.predicted is None or pair.target is None or not pair.iou:
            return pair.iou
        return boundary_overlap(predicted[pair.predicted], targets[pair.target], question.ignored).iou

    return replace(scored, pairs=tuple(replace(pair, boundary_iou=boundary_iou(pair)) for pair in scored.pairs))


def with_ratings(pairs: Sequence[MaskPair], ratings: Sequence[int | None]) -> list[MaskPair]:
    """Return pairs with the ratings of their phrases, 1–10; below the threshold the intersection is lost.

    The union stays. `ratings` are None where there is no pair to rate.
    """
    return [_rated(pair, rating) for pair, rating in zip(pairs, ratings, strict=True)]


def _rated(pair: MaskPair, rating: int | None) -> MaskPair:
    if rating is None:
        return pair
    if rating / 10 < TEXT_THRESHOLD:
        pair = replace(pair, counts=Overlap(0, pair.counts.union), iou=0.0, boundary_iou=0.0)
    return replace(pair, rating=rating)


PROTOCOLS: dict[str, ScoringProtocol] = {
    protocol.name: protocol
    for protocol in (
        ScoringProtocol(
            "fixed",
            1,
            ("muse", "multi-refer"),
            fixed_pairs,
            "masks and targets paired one to one with the largest sum of IoU at full resolution; missing and extra "
            "masks count 0",
        ),
        ScoringProtocol(
            "paper",
            1,
            ("muse",),
            fixed_pairs,
            "paired as `fixed`; a mask whose phrase is rated below 5 of 10 for its target loses its intersection",
            rated=True,
        ),
        ScoringProtocol(
            "released",
            1,
            ("muse",),
            released_pairs,
            "the released code's arithmetic with its faults: pairs by BCE + DICE on 12,544 random points, extra masks "
            "read as logits, the denominator of gIoU per image",
            per_image=True,
        ),
        ScoringProtocol(
            "ordered",
            1,
            ("multi-refer",),
            ordered_pairs,
            "the k-th mask with the k-th target, as in the released validation with teacher forcing",
        ),
        ScoringProtocol(
            "united",
            1,
            ("refer", "reasonseg", "grefcoco"),
            united_pairs,
            "all masks of an answer united, against all targets united; ignored pixels are left out",
            segments=lambda scored: any(pair.predicted is not None for pair in scored.pairs),
            unites=lambda question: True,
        ),
        ScoringProtocol(
            "coco",
            1,
            ("coco",),
            coco_pairs,
            "paired as `fixed`, for one category the union of all masks; phrases compared with categories; "
            "where no mask is expected, whether the answer has one",
            named=True,
            segments=lambda scored: bool(scored.answer.targets),
            unites=_is_for_one_category,
        ),
        ScoringProtocol(
            "jsonl",
            1,
            ("jsonl",),
            target_pairs,
            "paired as `fixed`; where no mask is expected, whether the answer has one",
            segments=lambda scored: bool(scored.answer.targets),
        ),
    )
}


def choose_protocol(benchmark: str, name: str | None) -> ScoringProtocol:
    """Return the protocol of that name, or the benchmark's default.

    Raises:
        ValueError: there is none for this benchmark.
    """
    known = [protocol for protocol in PROTOCOLS.values() if benchmark in protocol.benchmarks]
    matching = [protocol for protocol in known if name in (None, protocol.name)]
    if not matching:
        names = ", ".join(protocol.name for protocol in known)
        raise ValueError(f"--protocol: expected one of {benchmark}'s ({names}), got {name!r}.")
    return matching[0]
