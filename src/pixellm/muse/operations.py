"""What can be done with files in MUSE's layout: merge, take a part, split anew. Entries in, entries out."""

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixellm.muse import layout
from pixellm.muse.layout import Pair, joined, pairs_of, photograph
from pixellm.muse.splits import SPLITS, Shares, split_of

Entry = dict[str, Any]


def merge(entries: Iterable[Entry]) -> list[Entry]:
    """One entry for each photograph, every question once.

    Where sources number their categories differently, all are numbered anew, in the order of their names.
    """
    found = list(joined(entries))
    names = defaultdict(set)
    ids = defaultdict(set)
    for target in (t for one in found for t in _instances(one)):
        names[target.get("category_name")].add(target.get("category_id"))
        ids[target.get("category_id")].add(target.get("category_name"))
    if any(len(group) > 1 for group in (*names.values(), *ids.values())):
        numbers = {name: number for number, name in enumerate(sorted(str(name) for name in names), 1)}
        found = [_renumbered(one, numbers) for one in found]
    return found


def _instances(one: Entry) -> list[dict[str, Any]]:
    return [*(one.get("ann_list") or ()), *(target for pair in pairs_of(one) for target in pair.answer)]


def _renumbered(one: Entry, numbers: dict[str, int]) -> Entry:
    def anew(targets: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**target, "category_id": numbers[str(target.get("category_name"))]} for target in targets]

    pairs = [Pair(p.question, anew(p.answer), p.text, p.provenance) for p in pairs_of(one)]
    return layout.entry(one, anew(one.get("ann_list") or ()), pairs)


@dataclass(frozen=True)
class Part:
    """Which questions to take.

    Args:
        pairs: so many at most, of photographs in a random order, each with all its questions; None: all.
        categories: those whose targets are all of these.
        targets: those with at least and at most so many targets.
        synthetic: True: those made by rules alone; False: the others; None: both.
        seed: of the order.
    """

    pairs: int | None = None
    categories: Collection[str] = ()
    targets: tuple[int, int] = (0, 1_000_000)
    synthetic: bool | None = None
    seed: int = 0

    def holds(self, pair: Pair) -> bool:
        """Whether a question is one of them."""
        names = {target.get("category_name") for target in pair.answer}
        made = bool((pair.provenance or {}).get("synthetic"))
        return (
            self.targets[0] <= len(pair.answer) <= self.targets[1]
            and (not self.categories or names <= set(self.categories))
            and self.synthetic in (None, made)
        )


def subset(entries: Sequence[Entry], part: Part) -> list[Entry]:
    """The entries with the questions of a part, in their order; images without any are left out."""
    chosen = [[pair for pair in pairs_of(one) if part.holds(pair)] for one in entries]
    if part.pairs is not None:
        left = part.pairs
        order = list(range(len(entries)))
        random.Random(part.seed).shuffle(order)
        for index in order:
            chosen[index] = chosen[index][:left]
            left -= len(chosen[index])
    rows = zip(entries, chosen, strict=True)
    return [layout.entry(one, one.get("ann_list") or [], pairs) for one, pairs in rows if pairs]


def split(entries: Iterable[Entry], shares: Shares) -> tuple[dict[str, list[Entry]], int]:
    """Entries by split, and how many questions of test images fit neither; see `splits`."""
    found: dict[str, list[Entry]] = {name: [] for name in SPLITS}
    left_out = 0
    for one in joined(entries):
        pairs = pairs_of(one)
        name, kept = split_of(photograph(one), pairs, shares)
        left_out += len(pairs) - len(kept)
        if kept:
            found[name].append(layout.entry(one, one.get("ann_list") or [], kept))
    return found, left_out


def write_splits(found: dict[str, list[Entry]], directory: Path) -> list[Path]:
    """`muse_SPLIT.json` for each."""
    paths = [directory / f"muse_{name}.json" for name in found]
    for path, entries in zip(paths, found.values(), strict=True):
        layout.write(path, entries)
    return paths
