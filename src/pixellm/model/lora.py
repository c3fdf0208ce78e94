"""Merging LoRA: weights with adapters beside them → plain weights (arXiv 2106.09685)."""

import re

from torch import Tensor

_ADAPTER = re.compile(r"(?P<target>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")


def merge_lora(state: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Add `alpha / rank · B·A` to each weight that has an adapter in the same state dict.

    Args:
        state: plain weights `X.weight`, adapters `X.lora_A[.default].weight` (rank, in) and `X.lora_B…` (out, rank).
        alpha: LoRA's scale before division by the rank.

    Returns:
        The state without adapters; merged in fp32, in the dtype of the plain weight.

    Raises:
        ValueError: an adapter without its other half or its weight.
    """
    plain: dict[str, Tensor] = {}
    adapters: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        if match := _ADAPTER.fullmatch(key):
            adapters.setdefault(match["target"], {})[match["side"]] = tensor
        else:
            plain[key] = tensor
    for target, sides in adapters.items():
        weight = plain.get(f"{target}.weight")
        if weight is None or set(sides) != {"A", "B"}:
            raise ValueError(f"{target}: expected a weight with lora_A and lora_B, got {sorted(sides)}.")
        a, b = sides["A"].float(), sides["B"].float()
        plain[f"{target}.weight"] = (weight.float() + alpha / len(a) * b @ a).to(weight.dtype)
    return plain
