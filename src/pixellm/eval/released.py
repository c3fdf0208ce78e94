"""The released code's arithmetic for MUSE, faults included (train_ds.py, `ar_validate`; utils/matcher.py).

It works on mask logits; a file of predictions holds binary masks. Their logits are taken to be ±10, those of a model
that is certain of every pixel. What the code then does:

- Pairs have the least mean BCE + DICE on 12,544 uniformly random points, sampled bilinearly; the points are drawn with
  a seed for each question here, without any there.
- Polygons of a target are added, not united: pixels that two of them cover are neither target nor background.
- IoU = I / (U + 1e-5), and 1 more where U = 0. A target without a mask is paired with an empty mask.
- A mask without a target is paired with an empty target, but its logits are never turned into 0 and 1 before they are
  counted in two bins over 0..1: only pixels with logits from 0.5 to 1 would count. A confident false positive has none:
  I = U = 0, IoU 1.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from pixellm.eval.benchmarks import BenchmarkQuestion, BenchmarkTarget
from pixellm.eval.matching import MaskPair
from pixellm.eval.overlap import Overlap, overlap
from pixellm.imaging import masks
from pixellm.types import Answer

POINTS = 12_544  # matcher.py, match_pred
LOGIT = 10.0
EPSILON = 1e-5


def released_pairs(question: BenchmarkQuestion, answer: Answer) -> list[MaskPair]:
    """Return pairs in the released order: matched ones, targets without a mask, masks without a target."""
    targets = question.targets
    rows, columns = _match(question, answer)
    pairs = [
        _pair(row, column, _overlap(answer.targets[row].rle, targets[column], question.hw))
        for row, column in zip(rows, columns, strict=True)
    ]
    empty = masks.empty(*question.hw)
    missing = [index for index in range(len(targets)) if index not in columns]
    pairs += [_pair(None, index, _overlap(empty, targets[index], question.hw)) for index in missing]
    extra = [index for index in range(len(answer.targets)) if index not in rows]
    return pairs + [_pair(index, None, Overlap(0, 0)) for index in extra]


def _pair(predicted: int | None, target: int | None, counts: Overlap) -> MaskPair:
    iou = counts.intersection / (counts.union + EPSILON) + (counts.union == 0)
    return MaskPair(predicted, target, counts, iou)


def _overlap(mask: masks.Rle, target: BenchmarkTarget, hw: tuple[int, int]) -> Overlap:
    if not target.parts:
        return overlap(mask, target.rle)
    once = _sum(target.parts) == 1
    return overlap(mask, masks.encode(once))


def _sum(parts: Sequence[masks.Rle]) -> np.ndarray:
    return np.stack([masks.decode(part, *part["size"]) for part in parts]).sum(axis=0, dtype=np.uint8)


def _match(question: BenchmarkQuestion, answer: Answer) -> tuple[list[int], list[int]]:
    """Return the indices of masks and of their targets."""
    from scipy.optimize import linear_sum_assignment

    if not answer.targets or not question.targets:
        return [], []
    if len(answer.targets) == len(question.targets) == 1:
        return [0], [0]
    seed = int.from_bytes(hashlib.sha256(question.id.encode()).digest()[:8], "little")
    sampler = _Sampler(np.random.default_rng(seed).random((POINTS, 2)), question.hw)
    logits = np.stack([sampler(target.mask, -LOGIT, LOGIT) for target in answer.targets])
    reference = np.stack([sampler(_values(target), 0.0, 1.0) for target in question.targets])
    rows, columns = linear_sum_assignment(_bce(logits, reference) + _dice(logits, reference))
    return rows.tolist(), columns.tolist()


def _values(target: BenchmarkTarget) -> np.ndarray:
    return _sum(target.parts or (target.rle,))


class _Sampler:
    """Bilinear samples at points (x, y) in 0..1 as `grid_sample` takes them: pixels have centres, outside is 0."""

    def __init__(self, points: np.ndarray, hw: tuple[int, int]) -> None:
        height, width = hw
        x, y = points[:, 0] * width - 0.5, points[:, 1] * height - 0.5
        left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        corners, weights = [], []
        for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
            column, row = left + right, top + below
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            corners.append(np.where(inside, column * height + row, 0))  # masks are decoded column by column
            weight = (1 - np.abs(x - column)) * (1 - np.abs(y - row))
            weights.append(np.where(inside, weight, 0.0))
        self.corners, self.weights = np.stack(corners), np.stack(weights)
        self.total = self.weights.sum(axis=0)

    def __call__(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        """`values` (H, W), of which 0 stands for `low`, 1 for `high` → (POINTS,)."""
        shares = (self.weights * values.ravel(order="F")[self.corners]).sum(axis=0)
        return low * self.total + (high - low) * shares


def _bce(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean binary cross-entropy of every mask (P, N) with every target (T, N): (P, T)."""
    inside, outside = np.logaddexp(0, -logits), np.logaddexp(0, logits)
    return (inside @ reference.T + outside @ (1 - reference).T) / logits.shape[1]


def _dice(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    probabilities = 1 / (1 + np.exp(-logits))
    total = probabilities.sum(axis=1)[:, None] + reference.sum(axis=1)[None, :]
    return 1 - (2 * probabilities @ reference.T + 1) / (total + 1)
