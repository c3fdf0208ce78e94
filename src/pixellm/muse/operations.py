"""Operations on entries of MUSE's layout: merge, subset, split by image.

The split of an image depends on the seed and the image alone, so that no image is in two splits, and none changes from
training to test when a data set grows, or is merged with another one that was split with the same seed and shares.
"""

import hashlib
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixellm.muse import layout
from pixellm.muse.layout import Entry, MusePair, image_key, joined, pairs_of

SPLITS = ("train", "val", "test_less", "test_many")
FEW = 3  # targets of a question of test_less at most (the paper, recalled)


@dataclass(frozen=True)
class SplitShares:
    """Shares of the images for each split, 0 to 1; the rest is for training.

    Raises:
        ValueError: nothing is left for training.
    """

    val: float = 0.02
    test: float = 0.04
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.val, self.test) < 0 or self.val + self.test >= 1:
            raise ValueError(
                f"expected shares for val and test that sum up to less than 1, got {self.val}, {self.test}."
            )


@dataclass(frozen=True)
class SubsetSpec:
    """Selection of questions.

    Args:
        pairs: questions at most, of images in random order, each with all its questions; None: all.
        categories: questions whose targets are all of these; empty: all.
        targets: least and largest number of targets.
        synthetic: True: questions made by rules; False: the others; None: both.
        seed: sampling seed of the order.
    """

    pairs: int | None = None
    categories: Collection[str] = ()
    targets: tuple[int, int] = (0, 1_000_000)
    synthetic: bool | None = None
    seed: int = 0

    def matches(self, pair: MusePair) -> bool:
        names = {target.get("category_name") for target in pair.answer}
        synthetic = bool((pair.provenance or {}).get("synthetic"))
        return (
            self.targets[0] <= len(pair.answer) <= self.targets[1]
            and (not self.categories or names <= set(self.categories))
            and self.synthetic in (None, synthetic)
        )


def merge(entries: Iterable[Entry]) -> list[Entry]:
    """Merge entries: one for each image, every question once.

    Where sources number their categories differently, all are numbered anew, in the order of their names.
    """
    merged = list(joined(entries))
    names = defaultdict(set)
    ids = defaultdict(set)
    for target in (target for row in merged for target in _instances(row)):
        names[target.get("category_name")].add(target.get("category_id"))
        ids[target.get("category_id")].add(target.get("category_name"))
    if any(len(group) > 1 for group in (*names.values(), *ids.values())):
        numbers = {name: number for number, name in enumerate(sorted(str(name) for name in names), 1)}
        merged = [_renumbered(row, numbers) for row in merged]
    return merged


def _instances(entry: Entry) -> list[dict[str, Any]]:
    return [*(entry.get("ann_list") or ()), *(target for pair in pairs_of(entry) for target in pair.answer)]


def _renumbered(entry: Entry, numbers: dict[str, int]) -> Entry:
    def renumber(targets: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**target, "category_id": numbers[str(target.get("category_name"))]} for target in targets]

    pairs = [MusePair(p.question, renumber(p.answer), p.text, p.provenance) for p in pairs_of(entry)]
    return layout.entry(entry, renumber(entry.get("ann_list") or ()), pairs)


def subset(entries: Sequence[Entry], spec: SubsetSpec) -> list[Entry]:
    """Return the entries with the questions of a subset, in their order, without images that have none."""
    kept = [[pair for pair in pairs_of(row) if spec.matches(pair)] for row in entries]
    if spec.pairs is not None:
        left = spec.pairs
        order = list(range(len(entries)))
        random.Random(spec.seed).shuffle(order)
        for index in order:
            kept[index] = kept[index][:left]
            left -= len(kept[index])
    rows = zip(entries, kept, strict=True)
    return [layout.entry(row, row.get("ann_list") or [], pairs) for row, pairs in rows if pairs]


def split(entries: Iterable[Entry], shares: SplitShares) -> tuple[dict[str, list[Entry]], int]:
    """Return the entries by split, and the number of questions of test images that fit neither test split."""
    splits: dict[str, list[Entry]] = {name: [] for name in SPLITS}
    left_out = 0
    for row in joined(entries):
        pairs = pairs_of(row)
        name, kept = split_of(image_key(row), pairs, shares)
        left_out += len(pairs) - len(kept)
        if kept:
            splits[name].append(layout.entry(row, row.get("ann_list") or [], kept))
    return splits, left_out


def split_of(key: str, pairs: Sequence[MusePair], shares: SplitShares) -> tuple[str, list[MusePair]]:
    """Return the split of an image, and the questions about it that belong there.

    A test image is in the test split that all its questions fit, or, where they are mixed, in a random one; those that
    don't fit then are in no split.
    """
    place = _uniform(key, shares.seed, "split")
    if place < shares.val:
        return "val", list(pairs)
    if place >= shares.val + shares.test:
        return "train", list(pairs)
    few = [pair for pair in pairs if len(pair.answer) <= FEW]
    many = [pair for pair in pairs if len(pair.answer) > FEW]
    if few and (not many or _uniform(key, shares.seed, "test") < 0.5):
        return "test_less", few
    return "test_many", many


def _uniform(key: str, seed: int, purpose: str) -> float:
    """Return a number in [0, 1) that is the same on every machine."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def write_splits(splits: dict[str, list[Entry]], directory: Path) -> list[Path]:
    """Write `muse_SPLIT.json` for each split."""
    paths = [directory / f"muse_{name}.json" for name in splits]
    for path, entries in zip(paths, splits.values(), strict=True):
        layout.write(path, entries)
    return paths
