"""Scoring of a benchmark's answers, and the report: table, JSON, Markdown, Parquet, page of answers."""

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixellm import __version__
from pixellm.eval.answer_page import write_answer_page
from pixellm.eval.benchmarks import Benchmark, BenchmarkQuestion
from pixellm.eval.calibration import ScoreTable
from pixellm.eval.metrics import BenchmarkMetrics, Splits, compute_metrics, compute_splits
from pixellm.eval.predictions import Predictions
from pixellm.eval.protocols import ScoredAnswer, ScoringProtocol, with_boundaries, with_names
from pixellm.eval.score_curves import FILE as CURVES
from pixellm.eval.score_curves import draw_curves
from pixellm.eval.text_rater import OfflineRater, Rater, rate
from pixellm.types import Answer
from pixellm.utils.checks import check_min_score
from pixellm.utils.files import atomic_write, write_text

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger(__name__)

TITLES = {
    "giou": "gIoU",
    "ciou": "cIoU",
    "boundary_giou": "boundary gIoU",
    "named_giou": "named gIoU",
    "naming": "naming",
}
TITLES |= {f"precision@{threshold}": f"P@{threshold}" for threshold in (0.5, 0.7, 0.9)}
TITLES |= {"n_acc": "N-acc", "t_acc": "T-acc"}
SCORE_TITLES = {"auroc": "AUROC", "ece": "ECE", "aurc": "AURC"}  # in a line of their own, which tables have no room for
CATEGORIES = 15  # the most frequent ones, in tables; JSON has all


def score(
    benchmark: Benchmark,
    predictions: Predictions,
    protocol: ScoringProtocol,
    rater: Rater | None = None,
    seed: int = 0,
    progress: Iterable[BenchmarkQuestion] | None = None,
    min_score: float = 0.0,
) -> "BenchmarkReport":
    """Score the answers to a benchmark's questions.

    Args:
        benchmark: the questions.
        predictions: the answers; a question without one counts as answered without a mask, and is counted.
        protocol: see `choose_protocol`.
        rater: of the phrases, where the protocol has them rated; by default `OfflineRater`.
        seed: of the bootstrap.
        progress: the questions, wrapped in a progress bar.
        min_score: 0..1, masks with a lower score are left out first, see `Answer.above`.

    Raises:
        ValueError: an answer to no question of the benchmark, a mask of another size than its image, a wrong
            `min_score`, or a mask without a score to compare it with.
    """
    check_min_score(min_score)
    missing = predictions.check_ids({question.id: None for question in benchmark.questions})
    if missing:
        logger.warning("%d of %d questions have no answer: no mask", len(missing), len(benchmark.questions))
    answers = {question_id: answer.above(min_score) for question_id, answer in predictions.answers.items()}
    scored = [
        score_answer(question, answers.get(question.id, Answer("", "", (), question.hw)), protocol)
        for question in progress or benchmark.questions
    ]
    if protocol.named:
        scored = [with_names(answer, benchmark.categories) for answer in scored]
    rated_by = None
    if protocol.rated:
        rater = rater or OfflineRater()
        scored, rated_by = rate(scored, rater), rater.fingerprint
    made = (tuple(missing), predictions.fingerprint, rated_by, seed, min_score)
    return BenchmarkReport(benchmark, protocol, tuple(scored), *made)


def score_answer(question: BenchmarkQuestion, answer: Answer, protocol: ScoringProtocol) -> ScoredAnswer:
    """Score one answer by its masks; a ValueError if one is of another size than the image."""
    for index, target in enumerate(answer.targets):
        if tuple(target.rle["size"]) != question.hw:
            raise ValueError(
                f"{question.id}, mask {index}: expected the image's size {list(question.hw)} (height, width), got "
                f"{target.rle['size']}. Give masks at the original image's size."
            )
    scored = ScoredAnswer(question, answer, tuple(protocol.pairs(question, answer)))
    return with_boundaries(scored, protocol)


@dataclass(frozen=True)
class BenchmarkReport:
    """The result of an evaluation.

    Args:
        benchmark: the questions.
        protocol: how they were scored.
        scored: every question in order.
        missing: ids of the questions without an answer.
        fingerprint: how the answers were made, where the predictions say so.
        rated_by: the rater of the phrases, if there was one.
        seed: of the bootstrap.
        min_score: masks with a lower score were left out.
    """

    benchmark: Benchmark
    protocol: ScoringProtocol
    scored: tuple[ScoredAnswer, ...]
    missing: tuple[str, ...]
    fingerprint: dict[str, Any]
    rated_by: dict[str, Any] | None
    seed: int
    min_score: float = 0.0

    @cached_property
    def overall(self) -> BenchmarkMetrics:
        return compute_metrics(self.scored, self.protocol, self.seed)

    @cached_property
    def splits(self) -> Splits:
        return compute_splits(self.scored, self.protocol)

    @cached_property
    def scores(self) -> ScoreTable | None:
        """Scores of the targets; None where the answers have none."""
        return ScoreTable.of(self.scored, self.protocol)

    @property
    def about(self) -> list[str]:
        """Sentences that say what was measured."""
        made = self.fingerprint.get("answers", "made by another system (the file does not say how)")
        lines = [
            f"{self.benchmark.title}: {len(self.scored)} questions, protocol {self.protocol.name} "
            f"v{self.protocol.version}: {self.protocol.description}.",
            f"Answers: {made}. Questions without an answer, counted as without a mask: {len(self.missing)}.",
        ]
        if self.benchmark.left_out:
            lines.append(f"Records of the benchmark that can't be used and are left out: {self.benchmark.left_out}.")
        if self.rated_by:
            lines.append(f"Phrases rated by: {', '.join(f'{key} {value}' for key, value in self.rated_by.items())}.")
        if self.min_score:
            lines.append(f"Masks with a score below {self.min_score:g} are left out.")
        if titles := self.score_titles():
            cells = (f"{title} {_cell(self.overall, name)}" for name, title in titles.items())
            lines.append(f"Scores, percent: {', '.join(cells)}; curves: {CURVES}.")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return everything but the questions; all metrics are in 0..1."""
        benchmark, protocol = self.benchmark, self.protocol
        return {
            "pixellm": __version__,
            "benchmark": {"name": benchmark.name, "dataset": benchmark.dataset, "split": benchmark.split},
            "questions_digest": benchmark.digest,
            "protocol": {"name": protocol.name, "version": protocol.version, "description": protocol.description},
            "answers": self.fingerprint,
            "rated_by": self.rated_by,
            "questions": len(self.scored),
            "missing": len(self.missing),
            "missing_ids": list(self.missing),
            "left_out": benchmark.left_out,
            "bootstrap": {"seed": self.seed, "level": 0.95, "units": "images" if protocol.per_image else "questions"},
            **({"min_score": self.min_score} if self.min_score else {}),
            "overall": self.overall.to_json(),
            "by": {split: {n: f.to_json() for n, f in rows.items()} for split, rows in self.splits.items()},
            **({} if self.scores is None else {"curves": self.scores.curves()}),
        }

    def rows(self) -> Iterator[tuple[str, BenchmarkMetrics]]:
        """Yield the rows of a table: all, then each split."""
        yield "all", self.overall
        for split, parts in self.splits.items():
            rows = list(parts.items())
            if split == "category":
                rows = sorted(rows, key=lambda row: (-row[1].pairs, row[0]))[:CATEGORIES]
            elif split == "targets" and len(rows) == 1:
                continue
            yield from ((f"{split}: {name}", metrics) for name, metrics in rows)

    def columns(self) -> list[str]:
        return [name for name in TITLES if name in self.overall.values]

    def score_titles(self) -> dict[str, str]:
        """Return the titles of the metrics of scores that there are."""
        return {name: title for name, title in SCORE_TITLES.items() if name in self.overall.values}

    def cells(self, metrics: BenchmarkMetrics) -> list[str]:
        """Return metrics in percent, with their 95 % intervals where there are any."""
        return [f"{metrics.questions}", f"{metrics.pairs}", *(_cell(metrics, name) for name in self.columns())]

    @property
    def heading(self) -> list[str]:
        return ["questions", "pairs", *(TITLES[name] for name in self.columns())]

    def table(self) -> "Table":
        """Return the metrics for a terminal."""
        from rich.table import Table

        table = Table(caption="percent, with 95 % bootstrap intervals")
        table.add_column("", no_wrap=True)
        for title in self.heading:
            table.add_column(title, justify="right")
        for name, metrics in self.rows():
            table.add_row(name, *self.cells(metrics))
        return table

    def markdown(self) -> str:
        lines = [*(f"{line}\n" for line in self.about), "Percent, with 95 % bootstrap intervals.\n"]
        lines += [f"| | {' | '.join(self.heading)} |", f"|---|{'---:|' * len(self.heading)}"]
        lines += [f"| {name} | {' | '.join(self.cells(metrics))} |" for name, metrics in self.rows()]
        return "\n".join(lines) + "\n"

    def write(self, out: Path, licences: Collection[int] | None = None) -> list[Path]:
        """Write `score.json`, `score.md` and `questions.parquet`.

        And `scores.png`, if targets have scores, and `answers.jpg`, if the images are there; `licences`: see
        `write_answer_page`.
        """
        paths = [out / name for name in ("score.json", "score.md", "questions.parquet")]
        write_text(paths[0], json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")
        write_text(paths[1], self.markdown())
        write_parquet(self.scored, paths[2], self.protocol.named)
        if self.scores is not None:
            paths.append(out / CURVES)
            draw_curves(self.scores.curves(), out / CURVES)
        page = out / "answers.jpg"
        return [*paths, page] if write_answer_page(self.scored, page, licences=licences) else paths


def _cell(metrics: BenchmarkMetrics, name: str) -> str:
    """Return a metric in percent, with its interval if there is one."""
    value, ends = metrics.values.get(name), metrics.intervals.get(name)
    cell = "" if value is None else f"{100 * value:.1f}"
    return cell + (f" ({100 * ends[0]:.1f}–{100 * ends[1]:.1f})" if ends else "")


def write_parquet(scored: Sequence[ScoredAnswer], path: Path, named: bool = False) -> None:
    """Write one row per question: question, answer, pairs, mean IoU."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pair = [("predicted", pa.int32()), ("target", pa.int32()), ("category", pa.string()), ("phrase", pa.string())]
    pair += [("intersection", pa.int64()), ("union", pa.int64()), ("iou", pa.float64()), ("rating", pa.int32())]
    pair += [("boundary_iou", pa.float64())]
    pair += [("named", pa.bool_())] if named else []
    texts = [(name, pa.string()) for name in ("id", "image", "kind", "detail", "question", "text")]
    counts = [("targets", pa.int32()), ("masks", pa.int32()), ("iou", pa.float64())]
    schema = pa.schema([*texts, *counts, ("pairs", pa.list_(pa.struct(pair)))])
    with atomic_write(path) as temporary:
        pq.write_table(pa.Table.from_pylist([_row(answer) for answer in scored], schema=schema), temporary)


def _row(scored: ScoredAnswer) -> dict[str, Any]:
    question, targets = scored.question, scored.answer.targets
    pairs = [
        {
            "predicted": pair.predicted,
            "target": pair.target,
            "category": None if pair.target is None else question.targets[pair.target].category,
            "phrase": None if pair.predicted is None else targets[pair.predicted].phrase,
            "intersection": pair.counts.intersection,
            "union": pair.counts.union,
            "iou": pair.iou,
            "rating": pair.rating,
            "boundary_iou": pair.boundary_iou,
            "named": pair.named,
        }
        for pair in scored.pairs
    ]
    texts = {"id": question.id, "image": str(question.image), "kind": question.kind, "detail": question.detail}
    texts |= {"question": question.text, "text": scored.answer.text}
    return {**texts, "targets": len(question.targets), "masks": len(targets), "iou": scored.iou, "pairs": pairs}
