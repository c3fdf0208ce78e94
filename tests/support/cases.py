"""Questions and answers for the scorer, of bool masks: what its tests need."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pixellm.eval.benchmarks import Benchmark, BenchmarkQuestion, BenchmarkTarget
from pixellm.eval.predictions import Predictions
from pixellm.eval.protocols import choose_protocol
from pixellm.eval.report import BenchmarkReport, score
from pixellm.imaging import masks
from pixellm.types import Answer, Target


def pixels(*columns: int, width: int = 10) -> np.ndarray:
    """A mask of one row with these pixels."""
    mask = np.zeros((1, width), dtype=bool)
    mask[0, list(columns)] = True
    return mask


def question(
    targets: Sequence[np.ndarray],
    question_id: str = "val/1/0",
    names: Sequence[str] = (),
    ignored: np.ndarray | None = None,
    hw: tuple[int, int] = (1, 10),
) -> BenchmarkQuestion:
    named = [*names, *["thing"] * len(targets)]
    hw = targets[0].shape if targets else hw
    found = tuple(
        BenchmarkTarget(f"the {name} there", name, masks.encode(t)) for name, t in zip(named, targets, strict=False)
    )
    image_id = question_id.rpartition("/")[0]
    hidden = None if ignored is None else masks.encode(ignored)
    return BenchmarkQuestion(question_id, Path("nothing.jpg"), image_id, hw, "What?", "What?", found, hidden)


def answer(
    found: Sequence[np.ndarray],
    question_id: str = "val/1/0",
    phrases: Sequence[str] | None = None,
    scores: Sequence[float] | None = None,
) -> Answer:
    text, targets = "", []
    each = zip(phrases or [""] * len(found), found, scores or [None] * len(found), strict=True)
    for phrase, mask, sure in each:
        targets.append(Target.of_mask(phrase, (len(text), len(text) + len(phrase)), mask, sure))
        text += f"{phrase}, " if phrases else ""
    return Answer("", text, tuple(targets), found[0].shape if len(found) else (0, 0), id=question_id)


def scored(
    questions: Sequence[BenchmarkQuestion],
    answers: Sequence[Answer],
    name: str = "muse",
    protocol: str | None = None,
    **settings,
) -> BenchmarkReport:
    benchmark = Benchmark(name, name, "val", tuple(questions))
    predictions = Predictions({one.id: one for one in answers})
    return score(benchmark, predictions, choose_protocol(name, protocol), **settings)
