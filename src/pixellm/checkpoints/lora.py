"""Merging LoRA: weights with adapters beside them → plain weights (arXiv 2106.09685)."""

import re
from collections.abc import Sequence

from torch import Tensor

_ADAPTER = re.compile(r"(?P<target>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")


_TRAINED_ROWS = ".token_adapter.trainable_tokens_delta.default"


def merge_trained(
    base: dict[str, Tensor], trained: dict[str, Tensor], alpha: float, rows: Sequence[int]
) -> dict[str, Tensor]:
    """Put what was trained into the state that training started from.

    Args:
        base: plain weights.
        trained: weights that replace some of them, adapters, and rows of embedding tables under peft's names.
        alpha: as in `merge_lora`.
        rows: the ids whose embeddings were trained.

    Returns:
        Plain weights, each in the dtype that it has in `base`.
    """
    merged = dict(base)
    for key, tensor in trained.items():
        if key.endswith(_TRAINED_ROWS):
            table = f"{key.removesuffix(_TRAINED_ROWS)}.weight"
            merged[table] = base[table].clone()
            merged[table][list(rows)] = tensor.to(base[table].dtype)
        elif _ADAPTER.fullmatch(key):
            merged[key] = tensor
        else:
            merged[key] = tensor.to(base[key].dtype)
    return merge_lora(merged, alpha)


def merge_lora(state: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Add `alpha / rank · B·A` to each weight that has an adapter in the same state dict.

    Args:
        state: plain weights `X.weight`, adapters `X.lora_A[.default].weight` (rank, in) and `X.lora_B…` (out, rank). It
            is emptied, so that no weight stays beside the merged one.
        alpha: LoRA's scale before division by the rank.

    Returns:
        The state without adapters; merged in fp32, in the dtype of the plain weight.

    Raises:
        ValueError: an adapter without its other half or its weight.
    """
    plain: dict[str, Tensor] = {}
    adapters: dict[str, dict[str, Tensor]] = {}
    for key in list(state):
        if match := _ADAPTER.fullmatch(key):
            adapters.setdefault(match["target"], {})[match["side"]] = state.pop(key)
        else:
            plain[key] = state.pop(key)
    for target, sides in adapters.items():
        weight = plain.get(f"{target}.weight")
        if weight is None or set(sides) != {"A", "B"}:
            raise ValueError(f"{target}: expected a weight with lora_A and lora_B, got {sorted(sides)}.")
        a, b = sides["A"].float(), sides["B"].float()
        plain[f"{target}.weight"] = (weight.float() + alpha / len(a) * b @ a).to(weight.dtype)
    return plain
