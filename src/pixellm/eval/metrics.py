"""Metrics over scored answers: ratios of sums, with bootstrap intervals and splits.

    gIoU          Σ IoU / Σ pairs
    cIoU          Σ I / Σ U
    boundary gIoU Σ boundary IoU / Σ pairs
    precision@t   pairs with IoU ≥ t / pairs, over questions with a target
    named gIoU    Σ IoU of the pairs whose phrase names the target's category / Σ pairs
    naming        questions for one category whose first phrase names it / all of them
    N-acc         no-target questions answered without a mask / no-target questions
    T-acc         questions with targets answered with a mask / questions with targets

gIoU is a mean IoU, not Generalized IoU. The last two depend on the protocol, which says whether an empty mask is one.
AUROC, ECE and AURC, where targets have scores, come from `pixellm.eval.calibration`. Every other metric is a ratio of
two sums over independent units (questions, or images where the protocol counts by image), so that a resample of units
is a product of a matrix with their sums.

Shapes:  U units · C columns, the sums · R resamples
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pixellm.eval.benchmarks import BenchmarkTarget
from pixellm.eval.calibration import ScoreTable
from pixellm.eval.matching import MaskPair
from pixellm.eval.protocols import ScoredAnswer, ScoringProtocol
from pixellm.imaging import masks

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
MAX_FEW = 3  # targets of MUSE's "few" (the paper, recalled)
SMALL, MEDIUM = 32**2, 96**2  # pixels: COCO's bounds of small and medium
RESAMPLES, CHUNK = 1000, 50  # CHUNK at a time, which bounds memory
RELEASED_EPSILON = 1e-5  # the released code adds it to the number of masks (utils.py, AverageMeter.all_reduce)
RATIOS = {
    "giou": ("iou", "pairs"),
    "ciou": ("intersection", "union"),
    "boundary_giou": ("boundary_iou", "boundary_pairs"),
    "named_giou": ("named_iou", "named_pairs"),
    "naming": ("names_right", "names"),
    **{f"precision@{t}": (f"hits@{t}", "target_pairs") for t in THRESHOLDS},
    "n_acc": ("empty_right", "without_target"),
    "t_acc": ("segmented", "with_target"),
}
COLUMNS = tuple(dict.fromkeys(column for ratio in RATIOS.values() for column in ratio))


@dataclass(frozen=True)
class BenchmarkMetrics:
    """Metrics of some questions: 0..1 by name, those that exist; `intervals` hold 95 % of the resamples."""

    questions: int
    pairs: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> dict:
        intervals = {name: list(ends) for name, ends in self.intervals.items()}
        return {"questions": self.questions, "pairs": self.pairs, **self.values} | (
            {"intervals": intervals} if intervals else {}
        )


def compute_metrics(
    scored: Sequence[ScoredAnswer], protocol: ScoringProtocol, seed: int | None = None, scores: bool = True
) -> BenchmarkMetrics:
    """Return the metrics over all pairs of some questions.

    Args:
        scored: the questions.
        protocol: how they were scored.
        seed: of the intervals; None: there are none.
        scores: compute AUROC, ECE and AURC, too, which need all masks of an answer.
    """
    units = _units(scored, protocol)
    table = np.array([[unit[column] for column in COLUMNS] for unit in units])
    score_table = ScoreTable.of(scored, protocol) if scores else None

    def measure(weights: np.ndarray, sums: np.ndarray) -> dict[str, np.ndarray]:
        ratios = _ratios(sums, RELEASED_EPSILON if protocol.per_image else 0.0)
        return ratios | ({} if score_table is None else score_table.metrics(weights))

    whole = measure(np.ones((1, len(units)), dtype=np.int64), table.sum(axis=0)[None])
    values = {name: float(value[0]) for name, value in whole.items() if not np.isnan(value[0])}
    intervals = {} if seed is None else _bootstrap(measure, table, values, seed)
    return BenchmarkMetrics(len(scored), sum(len(answer.pairs) for answer in scored), values, intervals)


def _ratios(sums: np.ndarray, epsilon: float) -> dict[str, np.ndarray]:
    """(R, C) → each metric (R,), NaN where it does not exist; `epsilon` is added to the number of pairs."""
    at = {column: sums[:, index] for index, column in enumerate(COLUMNS)}
    at["pairs"] = at["pairs"] + epsilon
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: np.where(at[below] > 0, at[above] / at[below], np.nan) for name, (above, below) in RATIOS.items()}


def _bootstrap(
    measure: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
    table: np.ndarray,
    names: Iterable[str],
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals over resamples of the units with replacement.

    `measure` takes weights (R, U), how often each unit was drawn, and the sums (R, C).
    """
    rng, count = np.random.default_rng(seed), len(table)
    shares = np.full(count, 1 / count)
    draws = (rng.multinomial(count, shares, size=CHUNK) for _ in range(RESAMPLES // CHUNK))
    chunks = [measure(weights, weights @ table) for weights in draws]
    ends = {name: np.nanpercentile(np.concatenate([chunk[name] for chunk in chunks]), (2.5, 97.5)) for name in names}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _units(scored: Sequence[ScoredAnswer], protocol: ScoringProtocol) -> list[dict[str, float]]:
    if not protocol.per_image:
        return [_sums(answer, protocol) for answer in scored]
    images: dict[str, list[ScoredAnswer]] = defaultdict(list)
    for answer in scored:
        images[answer.question.image_id].append(answer)
    units = []
    for group in images.values():
        sums = [_sums(answer, protocol) for answer in group]
        unit = {column: sum(row[column] for row in sums) for column in COLUMNS}
        predicted = sum(len(answer.answer.targets) for answer in group)
        unit["pairs"] = max(predicted, sum(len(answer.question.targets) for answer in group))
        units.append(unit)
    return units


def _sums(scored: ScoredAnswer, protocol: ScoringProtocol) -> dict[str, float]:
    """Return what a question adds to each column."""
    pairs, has_target = scored.pairs, bool(scored.question.targets)
    unit = dict.fromkeys(COLUMNS, 0.0)
    unit["pairs"] = len(pairs)
    unit["iou"] = sum(pair.iou for pair in pairs)
    unit["intersection"] = sum(pair.counts.intersection for pair in pairs)
    unit["union"] = sum(pair.counts.union for pair in pairs)
    boundary_ious = [pair.boundary_iou for pair in pairs if pair.boundary_iou is not None]
    unit["boundary_pairs"], unit["boundary_iou"] = len(boundary_ious), sum(boundary_ious)
    if has_target:
        unit["target_pairs"] = len(pairs)
        unit |= {f"hits@{t}": float(sum(pair.iou >= t for pair in pairs)) for t in THRESHOLDS}
    if protocol.named:
        unit["named_pairs"] = len(pairs)
        unit["named_iou"] = sum(pair.iou for pair in pairs if pair.named)
        if scored.question.kind == "category":
            unit["names"], unit["names_right"] = 1.0, float(any(pair.named for pair in pairs))
    if protocol.segments is not None:
        segmented = protocol.segments(scored)
        unit["with_target" if has_target else "without_target"] = 1.0
        unit["segmented"] = float(has_target and segmented)
        unit["empty_right"] = float(not has_target and not segmented)
    return unit


Splits = dict[str, dict[str, BenchmarkMetrics]]


def compute_splits(scored: Sequence[ScoredAnswer], protocol: ScoringProtocol) -> Splits:
    """Return metrics by kind of question or number of targets, and of the pairs with a target by its area and category.

    Extra masks belong to no area and no category: those metrics leave them out. They don't exist where a protocol
    counts by image.
    """
    splits = {}
    if any(answer.question.kind for answer in scored):
        splits["kind"] = _by_question(scored, protocol, _kinds)
    else:
        counts = _objects if protocol.name == "united" else _target_counts
        splits["targets"] = _by_question(scored, protocol, counts)
    if not protocol.per_image:
        splits["area"] = _by_pair(scored, protocol, _area, ("small", "medium", "large"))
        splits["category"] = _by_pair(scored, protocol, lambda answer, pair: _target(answer, pair).category)
    return {name: rows for name, rows in splits.items() if rows}


def _by_question(
    scored: Sequence[ScoredAnswer], protocol: ScoringProtocol, groups_of: Callable[[ScoredAnswer], Iterable[str]]
) -> dict[str, BenchmarkMetrics]:
    """Group by names, or by numbers, which come last."""
    groups: dict[str, list[ScoredAnswer]] = defaultdict(list)
    for answer in scored:
        for name in groups_of(answer):
            groups[name].append(answer)
    order = sorted(groups, key=lambda name: (1, int(name), "") if name.isdigit() else (0, 0, name))
    return {name: compute_metrics(groups[name], protocol) for name in order}


def _target_counts(scored: ScoredAnswer) -> list[str]:
    count = len(scored.question.targets)
    return ["few" if count <= MAX_FEW else "many", f"{count}"]


def _objects(scored: ScoredAnswer) -> list[str]:
    """Number of objects that a united target unites."""
    return [f"{sum(target.objects for target in scored.question.targets)}"]


def _kinds(scored: ScoredAnswer) -> list[str]:
    kind, detail = scored.question.kind, scored.question.detail
    return [kind, f"{kind}, {detail}"] if detail and not scored.question.targets else [kind or "other"]


def _by_pair(
    scored: Sequence[ScoredAnswer],
    protocol: ScoringProtocol,
    group_of: Callable[[ScoredAnswer, MaskPair], str],
    order: Sequence[str] = (),
) -> dict[str, BenchmarkMetrics]:
    groups: dict[str, list[ScoredAnswer]] = defaultdict(list)
    for answer in scored:
        pairs_of: dict[str, list[MaskPair]] = defaultdict(list)
        for pair in answer.pairs:
            if pair.target is not None:
                pairs_of[group_of(answer, pair)].append(pair)
        for name, pairs in pairs_of.items():
            groups[name].append(replace(answer, pairs=tuple(pairs)))
    names = [name for name in order or sorted(groups) if name and name in groups]
    return {name: compute_metrics(groups[name], protocol, scores=False) for name in names}


def _target(scored: ScoredAnswer, pair: MaskPair) -> BenchmarkTarget:
    assert pair.target is not None
    return scored.question.targets[pair.target]


def _area(scored: ScoredAnswer, pair: MaskPair) -> str:
    area = masks.area(_target(scored, pair).rle)
    return "small" if area < SMALL else "medium" if area < MEDIUM else "large"
