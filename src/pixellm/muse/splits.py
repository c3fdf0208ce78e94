"""Which split an image is in: train, val, test_less (its questions have few targets) or test_many.

It depends on the seed and on the photograph alone, so that no image is in two splits, and none changes from training to
test when a data set grows or is merged with another one that was split with the same seed and shares.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pixellm.muse.layout import Pair

SPLITS = ("train", "val", "test_less", "test_many")
FEW = 3  # targets at most of a question of test_less (the paper, recalled)


@dataclass(frozen=True)
class Shares:
    """Of the images, 0 to 1; the rest is for training.

    Raises:
        ValueError: nothing would be left for it.
    """

    val: float = 0.02
    test: float = 0.04
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.val, self.test) < 0 or self.val + self.test >= 1:
            raise ValueError(
                f"expected shares for val and test that sum up to less than 1, got {self.val}, {self.test}."
            )


def split_of(photograph: str, pairs: Sequence[Pair], shares: Shares) -> tuple[str, list[Pair]]:
    """The split of a photograph, and those of its questions that belong there.

    A test image is in one of the two tests: in the one that all of its questions fit, or, where they are mixed, in
    either by lot; those that don't fit then are in no split.
    """
    place = _lot(photograph, shares.seed, "split")
    if place < shares.val:
        return "val", list(pairs)
    if place >= shares.val + shares.test:
        return "train", list(pairs)
    few = [one for one in pairs if len(one.answer) <= FEW]
    many = [one for one in pairs if len(one.answer) > FEW]
    if few and (not many or _lot(photograph, shares.seed, "test") < 0.5):
        return "test_less", few
    return "test_many", many


def _lot(photograph: str, seed: int, what: str) -> float:
    """In [0, 1), the same on every machine."""
    digest = hashlib.sha256(f"{what}/{seed}/{photograph}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
