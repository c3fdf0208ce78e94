"""Benchmark + predictions → score → `Report`."""

import logging
from collections.abc import Iterable, Sequence

from pixellm.eval.benchmarks import Benchmark, BenchmarkQuestion
from pixellm.eval.predictions import Predictions
from pixellm.eval.protocols import Protocol, Scored
from pixellm.eval.report import Report
from pixellm.eval.text_rater import OfflineRater, Rater, rate
from pixellm.types import Answer

logger = logging.getLogger(__name__)


def score(
    benchmark: Benchmark,
    predictions: Predictions,
    protocol: Protocol,
    rater: Rater | None = None,
    seed: int = 0,
    progress: Iterable[BenchmarkQuestion] | None = None,
) -> Report:
    """Score a file of predictions.

    Args:
        benchmark: the questions.
        predictions: the answers; a question without one counts as answered without a mask, and is counted.
        protocol: see `choose_protocol`.
        rater: of the words, where the protocol has them rated; by default `OfflineRater`.
        seed: of the bootstrap.
        progress: the questions, wrapped in whatever shows how far it is.

    Raises:
        ValueError: an answer to no question of the benchmark, or a mask of another size than its image.
    """
    missing = predictions.check_ids({question.id: None for question in benchmark.questions})
    if missing:
        logger.warning("%d of %d questions have no answer: no mask", len(missing), len(benchmark.questions))
    scored: Sequence[Scored] = [
        score_one(question, predictions.answers.get(question.id, Answer("", "", (), question.hw)), protocol)
        for question in progress or benchmark.questions
    ]
    rated_by = None
    if protocol.rated:
        rater = rater or OfflineRater()
        scored, rated_by = rate(scored, rater), rater.fingerprint
    return Report(benchmark, protocol, tuple(scored), tuple(missing), predictions.fingerprint, rated_by, seed)


def score_one(question: BenchmarkQuestion, answer: Answer, protocol: Protocol) -> Scored:
    """One answer, its words not rated."""
    for index, target in enumerate(answer.targets):
        if tuple(target.rle["size"]) != question.hw:
            raise ValueError(
                f"{question.id}, mask {index}: expected the image's size {list(question.hw)} (height, width), got "
                f"{target.rle['size']}. Give masks at the original image's size."
            )
    return Scored(question, answer, tuple(protocol.pairs(question, answer)))
