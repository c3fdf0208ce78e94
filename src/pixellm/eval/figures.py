"""Pairs → figures: ratios of sums over questions, with bootstrap intervals, and splits of them.

    gIoU          Σ IoU / Σ pairs
    cIoU          Σ I / Σ U
    precision@t   pairs with IoU ≥ t / pairs with a target or too many masks
    N-acc         no-target questions answered without a pixel / no-target questions
    T-acc         questions with targets answered with a pixel / questions with targets

gIoU is a mean IoU, not Generalized IoU. Every figure is a ratio of two sums over independent units (questions, or
images where the protocol counts by image), so that a resample of units is a product of a matrix with their sums.

Shapes:  U units · C columns, the sums · R resamples
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pixellm.eval.benchmarks import BenchmarkTarget
from pixellm.eval.protocols import PairScore, Protocol, Scored
from pixellm.imaging import masks

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
FEW = 3  # targets of MUSE's "few" at most (the paper, recalled)
SMALL, MEDIUM = 32**2, 96**2  # pixels: COCO's bounds of small and medium
RESAMPLES, CHUNK = 1000, 50  # drawn at a time, which bounds memory
RELEASED_EPSILON = 1e-5  # the released code adds it to the number of masks (utils.py, AverageMeter.all_reduce)
RATIOS = {
    "giou": ("iou", "pairs"),
    "ciou": ("intersection", "union"),
    **{f"precision@{t}": (f"hits@{t}", "judged") for t in THRESHOLDS},
    "n_acc": ("silent", "without"),
    "t_acc": ("spoken", "with"),
}
COLUMNS = tuple(dict.fromkeys(column for ratio in RATIOS.values() for column in ratio))


@dataclass(frozen=True)
class Figures:
    """Figures of some questions: 0..1 by name, those that exist; `intervals` hold 95 % of the resamples."""

    questions: int
    pairs: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> dict:
        intervals = {name: list(ends) for name, ends in self.intervals.items()}
        return {"questions": self.questions, "pairs": self.pairs, **self.values} | (
            {"intervals": intervals} if intervals else {}
        )


def figures(scored: Sequence[Scored], protocol: Protocol, seed: int | None = None) -> Figures:
    """The figures of all pairs of some questions, with intervals if there is a seed."""
    units = _units(scored, protocol)
    table = np.array([[unit[column] for column in COLUMNS] for unit in units])
    sums = table.sum(axis=0)
    epsilon = RELEASED_EPSILON if protocol.per_image else 0.0
    ratios = _ratios(sums[None], epsilon)
    values = {name: float(value[0]) for name, value in ratios.items() if not np.isnan(value[0])}
    intervals = {} if seed is None else _bootstrap(table, values, seed, epsilon)
    return Figures(len(scored), sum(len(one.pairs) for one in scored), values, intervals)


def _ratios(sums: np.ndarray, epsilon: float) -> dict[str, np.ndarray]:
    """(R, C) → each figure (R,), NaN where it does not exist; `epsilon` is added to the number of pairs."""
    at = {column: sums[:, index] for index, column in enumerate(COLUMNS)}
    at["pairs"] = at["pairs"] + epsilon
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: np.where(at[below] > 0, at[above] / at[below], np.nan) for name, (above, below) in RATIOS.items()}


def _bootstrap(table: np.ndarray, names: Iterable[str], seed: int, epsilon: float) -> dict[str, tuple[float, float]]:
    """Percentile intervals: units are drawn with replacement, as many as there are."""
    rng, count = np.random.default_rng(seed), len(table)
    shares = np.full(count, 1 / count)
    draws = [rng.multinomial(count, shares, size=CHUNK) @ table for _ in range(RESAMPLES // CHUNK)]
    ratios = _ratios(np.concatenate(draws), epsilon)
    ends = {name: np.nanpercentile(ratios[name], (2.5, 97.5)) for name in names}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _units(scored: Sequence[Scored], protocol: Protocol) -> list[dict[str, float]]:
    if not protocol.per_image:
        return [_sums(one.pairs, one, protocol) for one in scored]
    images: dict[str, list[Scored]] = defaultdict(list)
    for one in scored:
        images[one.question.image_id].append(one)
    units = []
    for group in images.values():
        sums = [_sums(one.pairs, one, protocol) for one in group]
        unit = {column: sum(one[column] for one in sums) for column in COLUMNS}
        masks_of_image = sum(len(one.answer.targets) for one in group)
        unit["pairs"] = max(masks_of_image, sum(len(one.question.targets) for one in group))
        units.append(unit)
    return units


def _sums(pairs: Sequence[PairScore], one: Scored, protocol: Protocol) -> dict[str, float]:
    """What a question adds to each column."""
    unit = dict.fromkeys(COLUMNS, 0.0)
    unit["pairs"] = len(pairs)
    unit["iou"] = sum(pair.iou for pair in pairs)
    unit["intersection"] = sum(pair.counts.intersection for pair in pairs)
    unit["union"] = sum(pair.counts.union for pair in pairs)
    wanted = bool(one.question.targets)
    if wanted:
        unit["judged"] = len(pairs)
        unit |= {f"hits@{t}": float(sum(pair.iou >= t for pair in pairs)) for t in THRESHOLDS}
    if protocol.name == "united":
        answered = any(pair.predicted is not None for pair in pairs)
        unit["with" if wanted else "without"] = 1.0
        unit["spoken"], unit["silent"] = float(wanted and answered), float(not wanted and not answered)
    return unit


def splits(scored: Sequence[Scored], protocol: Protocol) -> dict[str, dict[str, Figures]]:
    """Figures by number of targets, and of the pairs with a target by its area and its category.

    Masks too many belong to no area and no category: those figures leave them out. They don't exist where a protocol
    counts by image.
    """
    found = {"targets": _by(scored, protocol, _things if protocol.name == "united" else _few_or_many)}
    if not protocol.per_image:
        found["area"] = _by_pair(scored, protocol, _area, ("small", "medium", "large"))
        found["category"] = _by_pair(scored, protocol, lambda one, pair: _target(one, pair).category)
    return {name: rows for name, rows in found.items() if rows}


def _by(scored: Sequence[Scored], protocol: Protocol, of: Callable[[Scored], Iterable[str]]) -> dict[str, Figures]:
    groups: dict[str, list[Scored]] = defaultdict(list)
    for one in scored:
        for name in of(one):
            groups[name].append(one)
    numbers = sorted((name for name in groups if name.isdigit()), key=int)
    order = [name for name in ("few", "many") if name in groups] + numbers
    return {name: figures(groups[name], protocol) for name in order}


def _counts(one: Scored) -> list[str]:
    return [f"{len(one.question.targets)}"]


def _things(one: Scored) -> list[str]:
    """Of a united target how many things it unites."""
    return [f"{sum(target.things for target in one.question.targets)}"]


def _few_or_many(one: Scored) -> list[str]:
    return ["few" if len(one.question.targets) <= FEW else "many", *_counts(one)]


def _by_pair(
    scored: Sequence[Scored], protocol: Protocol, of: Callable[[Scored, PairScore], str], order: Sequence[str] = ()
) -> dict[str, Figures]:
    groups: dict[str, list[Scored]] = defaultdict(list)
    for one in scored:
        mine: dict[str, list[PairScore]] = defaultdict(list)
        for pair in one.pairs:
            if pair.target is not None:
                mine[of(one, pair)].append(pair)
        for name, pairs in mine.items():
            groups[name].append(replace(one, pairs=tuple(pairs)))
    names = [name for name in order or sorted(groups) if name and name in groups]
    return {name: figures(groups[name], protocol) for name in names}


def _target(one: Scored, pair: PairScore) -> BenchmarkTarget:
    assert pair.target is not None
    return one.question.targets[pair.target]


def _area(one: Scored, pair: PairScore) -> str:
    area = masks.area(_target(one, pair).rle)
    return "small" if area < SMALL else "medium" if area < MEDIUM else "large"
