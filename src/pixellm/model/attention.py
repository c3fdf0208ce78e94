"""Attention of the vision encoder and of the language model, as one of transformers' attention functions.

It is torch's fused attention with two exceptions: keys in the padding are left out rather than masked, and in bfloat16
on a CPU, where the fused kernel takes two to five times as long, the products are written out.

Shapes:  B images or rows · H heads · G of them with keys · N queries · K keys · d width of a head
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "pixellm"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    seen: Sequence[Tensor | None] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """One of transformers' attention functions.

    Args:
        module: whose attention it is.
        query: (B, H, N, d).
        key: (B, G, K, d).
        value: (B, G, K, d).
        attention_mask: what is added to the scores (B, 1, N, K), or which keys are seen (bool), or None.
        scaling: of the scores.
        seen: for each image the indexes of the keys that are seen, or None for all of them; the mask is not looked at.
        options: for torch's fused attention.

    Returns:
        (B, N, H, d) and None.
    """
    if seen is not None and any(at is not None for at in seen):
        images = zip(query.split(1), key.split(1), value.split(1), seen, strict=True)
        attended = [
            attend(module, q, *((k, v) if at is None else (k[:, :, at], v[:, :, at])), None, scaling, **options)[0]
            for q, k, v, at in images
        ]
        return torch.cat(attended), None
    bias = None if seen is not None else attention_mask
    if query.is_cpu and query.dtype == torch.bfloat16 and not torch.is_grad_enabled() and not options.get("dropout"):
        if query.shape[2] == 1 and (bias is None or (bias.is_floating_point() and bias.shape[1] == 1)):
            return _of_one_token(query * scaling, key, value, bias), None
        if bias is None and not getattr(module, "is_causal", True) and query.shape[1] == key.shape[1]:
            return _head_by_head(query * scaling, key, value), None
    return sdpa_attention_forward(module, query, key, value, bias, scaling=scaling, **options)


def _of_one_token(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """(B, H, 1, d) → (B, 1, H, d)."""
    grouped = query.unflatten(1, (key.shape[1], -1))[:, :, :, 0]
    scores = (key @ grouped.mT).mT  # this way round the product reads the keys as they lie
    if bias is not None:
        scores = scores + bias
    return (scores.softmax(dim=-1) @ value).flatten(1, 2)[:, None]


def _head_by_head(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, H, N, d) → (B, N, H, d); what is made for one head stays in the processor's caches."""
    heads = zip(query.unbind(1), key.unbind(1), value.unbind(1), strict=True)
    return torch.stack([(q @ k.mT).softmax(dim=-1) @ v for q, k, v in heads], dim=2)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
