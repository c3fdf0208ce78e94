"""Validation during training: fixed questions on held-out images, answered by generating.

Masks are matched with the targets (`matching.match`), as in benchmarks; a no-target question counts by whether its
answer has a mask.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np

from pixellm.eval.matching import match
from pixellm.eval.overlap import IouSum
from pixellm.imaging.contact_sheet import Card
from pixellm.imaging.masks import encode
from pixellm.types import Answer, Sample, Segmenter


@dataclass
class ValidationSums:
    """Sums over the questions answered so far.

    Args:
        single, several: over the targets of questions for one and for more; a missing mask and an extra one count 0.
        no_target, no_target_correct: no-target questions, and those of them answered without a mask.
    """

    single: IouSum = field(default_factory=IouSum)
    several: IouSum = field(default_factory=IouSum)
    no_target: int = 0
    no_target_correct: int = 0

    def count(self, answer: Answer, targets: np.ndarray, ignored: np.ndarray | None = None) -> float:
        """Add one answer.

        Args:
            answer: the answer.
            targets: bool (M, H, W).
            ignored: bool (H, W), pixels that are left out.

        Returns:
            Its mean IoU; without a target 1 if it has no mask, else 0.
        """
        if not len(targets):
            self.no_target += 1
            self.no_target_correct += not answer.targets
            return float(not answer.targets)
        kept = True if ignored is None else ~ignored
        references = [encode(mask & kept) for mask in targets]
        predicted = [target.rle for target in answer.targets]
        pairs = match(predicted, references, None if ignored is None else encode(ignored))
        for pair in pairs:
            (self.single if len(targets) == 1 else self.several).add(pair.counts, pair.iou)
        return sum(pair.iou for pair in pairs) / len(pairs)

    @property
    def sums(self) -> list[float]:
        """Everything as numbers, to be added up over processes and given to `of`."""
        return [*astuple(self.single), *astuple(self.several), self.no_target, self.no_target_correct]

    @classmethod
    def of(cls, sums: Sequence[float]) -> "ValidationSums":
        return cls(IouSum(*sums[:4]), IouSum(*sums[4:8]), *map(int, sums[8:]))

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics in 0..1, each where it exists.

        `giou` and `ciou` over targets, `single_giou` and `several_giou` by how many a question asks for, and
        `no_target_accuracy` over no-target questions.
        """
        both = IouSum(*(a + b for a, b in zip(astuple(self.single), astuple(self.several), strict=True)))
        metrics = {"giou": both.giou, "ciou": both.ciou}
        metrics |= {"single_giou": self.single.giou, "several_giou": self.several.giou}
        metrics["no_target_accuracy"] = self.no_target_correct / self.no_target if self.no_target else math.nan
        return {name: round(value, 5) for name, value in metrics.items() if not math.isnan(value)}


def validate(segmenter: Segmenter, samples: Iterable[Sample], cards: int = 0) -> tuple[ValidationSums, list[Card]]:
    """Ask all questions of samples with masks at their images' size.

    Args:
        segmenter: the model.
        samples: the images with their conversations; those that go on from another one are left out.
        cards: number of images whose answers are kept, to be drawn.

    Returns:
        The sums, and a card for each answer about the first `cards` images.
    """
    sums, drawn = ValidationSums(), []
    for number, sample in enumerate(samples):
        conversations = [conversation for conversation in sample.conversations if not conversation.continues]
        segmenter.set_image(sample.image)
        answers = segmenter.ask_many([conversation.question for conversation in conversations])
        for conversation, answer in zip(conversations, answers, strict=True):
            iou = sums.count(answer, conversation.masks, conversation.ignored)
            if number < cards:
                drawn.append(answer.card(f"IoU {iou:.2f}"))
    return sums, drawn
