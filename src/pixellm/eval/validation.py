"""Fixed questions on held-out images, answered by generating: how a training does, and what its answers look like.

Every answer's masks are matched with the masks that were wanted (`matching.match`); a question whose answer should have
no mask counts by whether it has one.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np

from pixellm.eval.matching import match
from pixellm.eval.metrics import IouSum
from pixellm.imaging.contact_sheet import Card
from pixellm.imaging.masks import encode
from pixellm.types import Answer, Sample, Segmenter


@dataclass
class Validated:
    """Sums over the questions answered so far.

    Args:
        single, several: over the targets of questions for one and for more; a missing mask and one too many count 0.
        unfitting, silent: questions that nothing fits, and of them those rightly answered without a mask.
    """

    single: IouSum = field(default_factory=IouSum)
    several: IouSum = field(default_factory=IouSum)
    unfitting: int = 0
    silent: int = 0

    def count(self, answer: Answer, wanted: np.ndarray, ignored: np.ndarray | None = None) -> float:
        """Add one answer to a question.

        Args:
            answer: the answer.
            wanted: bool (M, H, W), its targets.
            ignored: bool (H, W), pixels that count as nothing.

        Returns:
            Its mean IoU; where nothing is wanted, whether it has no mask.
        """
        if not len(wanted):
            self.unfitting += 1
            self.silent += not answer.targets
            return float(not answer.targets)
        counted = True if ignored is None else ~ignored
        targets = [encode(mask & counted) for mask in wanted]
        pairs = match([found.rle for found in answer.targets], targets, None if ignored is None else encode(ignored))
        for pair in pairs:
            (self.single if len(wanted) == 1 else self.several).add(pair.counts, pair.iou)
        return sum(pair.iou for pair in pairs) / len(pairs)

    @property
    def sums(self) -> list[float]:
        """All that it holds, to be added up over processes and given to `of`."""
        return [*astuple(self.single), *astuple(self.several), self.unfitting, self.silent]

    @classmethod
    def of(cls, sums: Sequence[float]) -> "Validated":
        return cls(IouSum(*sums[:4]), IouSum(*sums[4:8]), *map(int, sums[8:]))

    @property
    def figures(self) -> dict[str, float]:
        """`giou` and `ciou` over targets, `single_giou` and `several_giou` by how many a question asked for, and
        `silence` over questions that nothing fits: 0..1, each where there are any.
        """
        both = IouSum(*(one + other for one, other in zip(astuple(self.single), astuple(self.several), strict=True)))
        figures = {"giou": both.giou, "ciou": both.ciou}
        figures |= {"single_giou": self.single.giou, "several_giou": self.several.giou}
        figures["silence"] = self.silent / self.unfitting if self.unfitting else math.nan
        return {name: round(value, 5) for name, value in figures.items() if not math.isnan(value)}


def validate(segmenter: Segmenter, samples: Iterable[Sample], shown: int = 0) -> tuple[Validated, list[Card]]:
    """Ask all questions of samples with masks at their images' size.

    Args:
        segmenter: what is asked.
        samples: the images with their conversations; those that go on from another one are left out.
        shown: of how many images the answers are kept, to be drawn.

    Returns:
        The sums, and a card for each answer of the first `shown` samples.
    """
    result, items = Validated(), []
    for number, sample in enumerate(samples):
        asked = [conversation for conversation in sample.conversations if not conversation.continues]
        segmenter.set_image(sample.image)
        answers = segmenter.ask_many([one.question for one in asked])
        for conversation, answer in zip(asked, answers, strict=True):
            iou = result.count(answer, conversation.masks, conversation.ignored)
            if number < shown:
                items.append(answer.card(f"IoU {iou:.2f}"))
    return result, items
