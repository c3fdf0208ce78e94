"""Metrics of scores: AUROC, expected calibration error, risk and coverage. `docs/evaluation.md` has hand cases.

A target's score is its `confidence`: the presence score where the model gives one, else the score of its mask. The
score of a question is the highest of its answer's targets, 0 without a target.

    AUROC   P(score of a question with targets > score of a no-target question), ties count 1/2
    ECE     Σ over 15 equal bins of the score: share of the predictions × |mean correctness − mean score|
    AURC    mean over k of the mean risk of the k predictions with the highest scores; risk = 1 − IoU

Resamples are weights: how often each question was drawn. All three are computed from them without sorting again.

Shapes:  U questions · N predictions · G distinct scores · B bins · R resamples
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pixellm.eval.protocols import ScoredAnswer, ScoringProtocol

BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599)
CORRECT_IOU = 0.5  # a prediction with at least this IoU is correct
POINTS = 100  # of a curve


@dataclass(frozen=True)
class ScoreTable:
    """Scores of questions and predictions; a prediction is what a protocol pairs: a mask, or an answer's masks united.

    Args:
        present: (U,) score of each question.
        has_target: bool (U,).
        question: (N,) index of each prediction's question.
        score: (N,) of each prediction; of united masks the highest.
        iou: (N,) with its target; 0 without one.
    """

    present: np.ndarray
    has_target: np.ndarray
    question: np.ndarray
    score: np.ndarray
    iou: np.ndarray

    @classmethod
    def of(cls, scored: Sequence[ScoredAnswer], protocol: ScoringProtocol) -> "ScoreTable | None":
        """Collect the scores of answers; None where there are none, or a target is without."""
        found = [[target.confidence for target in answer.answer.targets] for answer in scored]
        known = [[score for score in scores if score is not None] for scores in found]
        if protocol.per_image or known != found or not any(known):
            return None
        rows = [
            (index, score, iou)
            for index, (answer, scores) in enumerate(zip(scored, known, strict=True))
            for score, iou in _predictions(answer, scores, protocol)
        ]
        question, score, iou = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(
            np.array([max(scores, default=0.0) for scores in known]),
            np.array([bool(answer.question.targets) for answer in scored]),
            np.array(question, dtype=np.int64),
            np.array(score, dtype=np.float64),
            np.array(iou, dtype=np.float64),
        )

    def metrics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return each metric (R,) under weights (R, U) of the questions, whole numbers; NaN where it does not exist."""
        predictions = weights[:, self.question]
        return {"auroc": self._auroc(weights), "ece": self._ece(predictions), "aurc": self._aurc(predictions)}

    @cached_property
    def _levels(self) -> tuple[np.ndarray, np.ndarray]:
        """The order of questions by score, and where each distinct score begins in it."""
        return _groups(self.present)

    @cached_property
    def _ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """The order of predictions, the highest score first, and where each distinct score begins in it."""
        return _groups(-self.score)

    def _auroc(self, weights: np.ndarray) -> np.ndarray:
        order, starts = self._levels
        weights, positive = weights[:, order], self.has_target[order]
        above = np.add.reduceat(weights * positive, starts, axis=1)
        below = np.add.reduceat(weights * ~positive, starts, axis=1)
        lower = np.cumsum(below, axis=1) - below
        with np.errstate(invalid="ignore"):
            return (above * (lower + below / 2)).sum(axis=1) / (above.sum(axis=1) * below.sum(axis=1))

    def _ece(self, weights: np.ndarray) -> np.ndarray:
        gap = (self.iou >= CORRECT_IOU) - self.score
        bins = np.eye(BINS)[bin_of(self.score)]  # N B
        with np.errstate(invalid="ignore"):
            return np.abs((weights * gap) @ bins).sum(axis=1) / weights.sum(axis=1)

    def _aurc(self, weights: np.ndarray) -> np.ndarray:
        """Mean risk at every coverage; predictions of equal score come in no order: each has their mean risk.

        After W predictions of summed risk S, m further ones of mean risk r give
        Σ_j (S + j r) / (W + j) = m r + (S − r W) (H(W + m) − H(W)), with the harmonic numbers H.
        """
        if not len(self.score):
            return np.full(len(weights), np.nan)
        order, starts = self._ranks
        weights = weights[:, order]
        counts = np.add.reduceat(weights, starts, axis=1)
        risks = np.add.reduceat(weights * (1 - self.iou[order]), starts, axis=1)
        until, summed = np.cumsum(counts, axis=1), np.cumsum(risks, axis=1)
        before, mean = until - counts, risks / np.maximum(counts, 1)
        harmonic = np.r_[0.0, np.cumsum(1 / np.arange(1, until.max() + 1))]
        areas = risks + (summed - risks - mean * before) * (harmonic[until] - harmonic[before])
        with np.errstate(invalid="ignore"):
            return areas.sum(axis=1) / until[:, -1]

    def curves(self) -> dict[str, list[dict[str, float]]]:
        """Return the points of three curves, at most `POINTS` each, from the highest score to the lowest.

        `risk_coverage`: coverage and risk of the predictions that reach `min_score`; `roc`: the shares of questions
        with and without targets that reach it; `reliability`: mean score and correctness of the predictions in a bin.
        """
        curves = {"risk_coverage": self._risk_coverage(), "roc": self._roc(), "reliability": self._reliability()}
        return {name: points for name, points in curves.items() if points}

    def _risk_coverage(self) -> list[dict[str, float]]:
        order, starts = self._ranks
        if not len(order):
            return []
        ends = np.r_[starts[1:], len(order)] - 1
        risk = np.cumsum(1 - self.iou[order]) / np.arange(1, len(order) + 1)
        kept = ends[_spread((ends + 1) / len(order))]
        return [
            {"min_score": float(self.score[order[at]]), "coverage": (at + 1) / len(order), "risk": float(risk[at])}
            for at in kept.tolist()
        ]

    def _roc(self) -> list[dict[str, float]]:
        positives = self.present[self.has_target]
        negatives = self.present[~self.has_target]
        if not len(positives) or not len(negatives):
            return []
        levels = np.unique(self.present)[::-1]
        shares = [(float((positives >= s).mean()), float((negatives >= s).mean())) for s in levels]
        kept = _spread(np.mean(shares, axis=1))
        names = ("min_score", "true_positive_rate", "false_positive_rate")
        return [dict(zip(names, (float(levels[at]), *shares[at]), strict=True)) for at in kept.tolist()]

    def _reliability(self) -> list[dict[str, float]]:
        bins, correct = bin_of(self.score), self.iou >= CORRECT_IOU
        return [
            {
                "from": number / BINS,
                "to": (number + 1) / BINS,
                "predictions": int((bins == number).sum()),
                "score": float(self.score[bins == number].mean()),
                "correct": float(correct[bins == number].mean()),
            }
            for number in np.unique(bins)[::-1].tolist()
        ]


def bin_of(score: np.ndarray) -> np.ndarray:
    """Return the bin (N,) of each score: bin b holds b/B < score ≤ (b + 1)/B, the first one 0, too."""
    return np.clip(np.ceil(score * BINS).astype(np.int64) - 1, 0, BINS - 1)


def _predictions(scored: ScoredAnswer, scores: Sequence[float], protocol: ScoringProtocol) -> list[tuple[float, float]]:
    """Return score and IoU of each mask of an answer; where a protocol unites them, of their union."""
    if not scored.pairs:  # no mask is expected
        return [(score, 0.0) for score in scores]
    united = protocol.unites(scored.question)
    return [
        (max(scores) if united else scores[pair.predicted], pair.iou)
        for pair in scored.pairs
        if pair.predicted is not None
    ]


def _groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ascending order of values (N,), and the places in it where a new value begins (G,)."""
    order = np.argsort(values, kind="stable")
    return order, np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)


def _spread(shares: np.ndarray) -> np.ndarray:
    """Choose at most `POINTS` + 1 of ascending shares (G,), spread evenly, the last one among them."""
    wanted = np.linspace(shares[0], shares[-1], min(POINTS, len(shares)))
    return np.unique(np.searchsorted(shares, wanted - 1e-12))
