"""A scored benchmark as table, JSON, Markdown, Parquet (a row a question), and a page of its worst and best answers."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixellm import __version__
from pixellm.eval.benchmarks import Benchmark
from pixellm.eval.figures import Figures, figures, splits
from pixellm.eval.protocols import Protocol, Scored
from pixellm.imaging.contact_sheet import Card, contact_sheet
from pixellm.imaging.images import load_image
from pixellm.imaging.masks import as_text
from pixellm.types import Answer, Target
from pixellm.utils.files import atomic_write, write_text

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger(__name__)

TITLES = {"giou": "gIoU", "ciou": "cIoU", "precision@0.5": "P@0.5", "precision@0.7": "P@0.7", "precision@0.9": "P@0.9"}
TITLES |= {"n_acc": "N-acc", "t_acc": "T-acc"}
CATEGORIES = 15  # the most frequent ones, in tables; JSON has all
SHOWN = 8  # worst and best answers on the page, each beside what was wanted


@dataclass(frozen=True)
class Report:
    """What came out.

    Args:
        benchmark: the questions.
        protocol: how they were scored.
        scored: every question in order.
        missing: ids of the questions without an answer.
        fingerprint: how the answers were made, where the predictions say so.
        rated_by: who rated the words, where they were.
        seed: of the bootstrap.
    """

    benchmark: Benchmark
    protocol: Protocol
    scored: tuple[Scored, ...]
    missing: tuple[str, ...]
    fingerprint: dict[str, Any]
    rated_by: dict[str, Any] | None
    seed: int

    @cached_property
    def overall(self) -> Figures:
        return figures(self.scored, self.protocol, self.seed)

    @cached_property
    def splits(self) -> dict[str, dict[str, Figures]]:
        return splits(self.scored, self.protocol)

    @property
    def about(self) -> list[str]:
        """What the numbers are of, in sentences."""
        made = self.fingerprint.get("answers", "made by another system (the file does not say how)")
        lines = [
            f"{self.benchmark.title}: {len(self.scored)} questions, protocol {self.protocol.name} "
            f"v{self.protocol.version}: {self.protocol.says}.",
            f"Answers: {made}. Questions without an answer, counted as without a mask: {len(self.missing)}.",
        ]
        if self.benchmark.left_out:
            lines.append(f"Records of the benchmark that can't be used and are left out: {self.benchmark.left_out}.")
        if self.rated_by:
            lines.append(f"Words rated by: {', '.join(f'{key} {value}' for key, value in self.rated_by.items())}.")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Everything but the questions; all figures are in 0..1."""
        benchmark, protocol = self.benchmark, self.protocol
        return {
            "pixellm": __version__,
            "benchmark": {"name": benchmark.name, "dataset": benchmark.dataset, "split": benchmark.split},
            "questions_digest": digest(benchmark),
            "protocol": {"name": protocol.name, "version": protocol.version, "says": protocol.says},
            "answers": self.fingerprint,
            "rated_by": self.rated_by,
            "questions": len(self.scored),
            "missing": len(self.missing),
            "missing_ids": list(self.missing),
            "left_out": benchmark.left_out,
            "bootstrap": {"seed": self.seed, "level": 0.95, "units": "images" if protocol.per_image else "questions"},
            "overall": self.overall.to_json(),
            "by": {split: {n: f.to_json() for n, f in rows.items()} for split, rows in self.splits.items()},
        }

    def rows(self) -> Iterator[tuple[str, Figures]]:
        """The rows of a table: all, then each split."""
        yield "all", self.overall
        for split, parts in self.splits.items():
            shown = list(parts.items())
            if split == "category":
                shown = sorted(shown, key=lambda part: (-part[1].pairs, part[0]))[:CATEGORIES]
            elif split == "targets" and len(shown) == 1:
                continue
            yield from ((f"{split}: {name}", found) for name, found in shown)

    def columns(self) -> list[str]:
        return [name for name in TITLES if name in self.overall.values]

    def cells(self, found: Figures) -> list[str]:
        """Figures in percent, with their 95 % intervals where there are any."""
        cells = [f"{found.questions}", f"{found.pairs}"]
        for name in self.columns():
            value, ends = found.values.get(name), found.intervals.get(name)
            cell = "" if value is None else f"{100 * value:.1f}"
            cells.append(cell + (f" ({100 * ends[0]:.1f}–{100 * ends[1]:.1f})" if ends else ""))
        return cells

    @property
    def heading(self) -> list[str]:
        return ["questions", "pairs", *(TITLES[name] for name in self.columns())]

    def table(self) -> "Table":
        """The figures, for a terminal."""
        from rich.table import Table

        table = Table(caption="percent, with 95 % bootstrap intervals")
        table.add_column("", no_wrap=True)
        for title in self.heading:
            table.add_column(title, justify="right")
        for name, found in self.rows():
            table.add_row(name, *self.cells(found))
        return table

    def markdown(self) -> str:
        lines = [*(f"{line}\n" for line in self.about), "Percent, with 95 % bootstrap intervals.\n"]
        lines += [f"| | {' | '.join(self.heading)} |", f"|---|{'---:|' * len(self.heading)}"]
        lines += [f"| {name} | {' | '.join(self.cells(found))} |" for name, found in self.rows()]
        return "\n".join(lines) + "\n"

    def write(self, out: Path) -> list[Path]:
        """Write `score.json`, `score.md`, `questions.parquet` and, if the images are there, `answers.jpg`."""
        paths = [out / name for name in ("score.json", "score.md", "questions.parquet")]
        write_text(paths[0], json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")
        write_text(paths[1], self.markdown())
        write_parquet(self.scored, paths[2])
        page = out / "answers.jpg"
        return [*paths, page] if answer_page(self.scored, page) else paths


def digest(benchmark: Benchmark) -> str:
    """The same for the same questions and targets."""
    found = hashlib.sha256()
    for question in benchmark.questions:
        counts = [as_text(target.rle)["counts"] for target in question.targets]
        found.update(json.dumps([question.id, question.text, question.hw, counts]).encode())
    return found.hexdigest()[:16]


def write_parquet(scored: Sequence[Scored], path: Path) -> None:
    """One row a question: what was asked and said, its pairs, and its mean IoU."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(one) for one in scored]
    pair = [("predicted", pa.int32()), ("target", pa.int32()), ("category", pa.string()), ("phrase", pa.string())]
    pair += [("intersection", pa.int64()), ("union", pa.int64()), ("iou", pa.float64()), ("rating", pa.int32())]
    texts = [(name, pa.string()) for name in ("id", "image", "question", "text")]
    counts = [("targets", pa.int32()), ("masks", pa.int32()), ("iou", pa.float64())]
    schema = pa.schema([*texts, *counts, ("pairs", pa.list_(pa.struct(pair)))])
    with atomic_write(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def _row(one: Scored) -> dict[str, Any]:
    question, targets = one.question, one.answer.targets
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
        }
        for pair in one.pairs
    ]
    asked = {"id": question.id, "image": str(question.image), "question": question.text}
    sizes = {"targets": len(question.targets), "masks": len(targets)}
    return {**asked, "text": one.answer.text, **sizes, "iou": mean_iou(one), "pairs": pairs}


def mean_iou(one: Scored) -> float:
    """Over the pairs of a question."""
    return sum(pair.iou for pair in one.pairs) / max(1, len(one.pairs))


def answer_page(scored: Sequence[Scored], path: Path, count: int = SHOWN) -> bool:
    """Draw the best and the worst answers, each beside what was wanted; whether there was an image to draw on."""
    ranked = sorted(
        (one for one in scored if one.question.image.is_file()), key=lambda one: (-mean_iou(one), one.question.id)
    )
    if not ranked:
        logger.warning("no page of answers: the benchmark's images are not there")
        return False
    best = ranked[: min(count, (len(ranked) + 1) // 2)]
    worst = ranked[len(best) :][-count:][::-1]
    items = [item for good, chosen in ((True, best), (False, worst)) for one in chosen for item in _cards(one, good)]
    contact_sheet(items, path)
    return True


def _cards(one: Scored, good: bool) -> list[Card]:
    image, question = load_image(one.question.image), one.question
    if (image.height, image.width) != question.hw:
        raise ValueError(f"{question.id}: expected an image of {question.hw}, got {question.image} of another size.")
    names = [target.description or target.category or "target" for target in question.targets]
    text, wanted = "", []
    for name, target in zip(names, question.targets, strict=True):
        wanted.append(Target(name, (len(text), len(text) + len(name)), as_text(target.rle)))
        text += f"{name}, "
    answer = replace(one.answer, question=question.text, original_hw=question.hw, image=image)
    reference = Answer("wanted:", text[:-2] or "nothing", tuple(wanted), question.hw, image)
    return [answer.card(f"IoU {mean_iou(one):.2f}", good), reference.card("wanted", good)]
