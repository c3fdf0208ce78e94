"""Choice of the next token from scores, in NumPy, as transformers' logits processors do it.

Shapes:  V vocabulary
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from pixellm.sampling import Sampling


def next_token(scores: np.ndarray, ids: Sequence[int], sampling: Sampling, generator: np.random.Generator) -> int:
    """Return the token that follows.

    Args:
        scores: fp32 (V,), which is changed; -inf where a token must not follow.
        ids: all of the row's ids so far, without image tokens.
        sampling: see there; its `processors` and `stopping` are transformers' and can't be used here.
        generator: random numbers of the row.
    """
    if sampling.repetition_penalty != 1:
        used = np.unique(ids)
        own = scores[used]
        scores[used] = np.where(own < 0, own * sampling.repetition_penalty, own / sampling.repetition_penalty)
    if sampling.no_repeat_ngram_size:
        scores[_repeating(ids, sampling.no_repeat_ngram_size)] = -np.inf
    if sampling.temperature == 0:
        return int(scores.argmax())
    kept = _nucleus(scores / np.float32(sampling.temperature), sampling.top_k, sampling.top_p)
    return int(generator.choice(len(scores), p=_softmax(kept.astype(np.float64))))


def _repeating(ids: Sequence[int], size: int) -> list[int]:
    """Return the tokens that would complete a run of `size` tokens which `ids` has already."""
    following: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for start in range(len(ids) - size + 1):
        following[tuple(ids[start : start + size - 1])].append(ids[start + size - 1])
    return following.get(tuple(ids[len(ids) - size + 1 :]), []) if len(ids) + 1 >= size else []


def _nucleus(scores: np.ndarray, top_k: int | None, top_p: float | None) -> np.ndarray:
    """Set to -inf what is not among the `top_k` highest scores or the most probable that make up `top_p`."""
    if top_k is not None and top_k < len(scores):
        scores = np.where(scores < np.partition(scores, -top_k)[-top_k], -np.inf, scores)
    if top_p is not None and top_p < 1:
        order = scores.argsort(kind="stable")
        below = _softmax(scores[order]).cumsum() <= 1 - top_p
        below[-1] = False
        scores = scores.copy()
        scores[order[below]] = -np.inf
    return scores


def _softmax(scores: np.ndarray) -> np.ndarray:
    exponents = np.exp(scores - scores.max())
    return exponents / exponents.sum()
