"""Attention masks of language models whose layers differ, or whose image tokens see each other.

Shapes:  R rows · W queries, the last W keys are their own · K keys
"""

from typing import Any

import torch
from torch import Tensor

from pixellm.model.packing import additive

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"


def layer_types(text_config: Any) -> list[str]:
    """Return the kind of each layer; a ValueError if there is another than these three."""
    types = list(getattr(text_config, "layer_types", None) or [FULL] * text_config.num_hidden_layers)
    if other := sorted(set(types) - {FULL, SLIDING, LINEAR}):
        raise ValueError(
            f"expected layers of {FULL}, {SLIDING} or {LINEAR} in the language model, got {', '.join(other)}. "
            "Choose another base."
        )
    return types


def layer_masks(bias: Tensor, text_config: Any) -> Tensor | dict[str, Tensor | None]:
    """Return a mask as the language model takes it: itself, or one for each kind of layer.

    Args:
        bias: (R, 1, W, K), 0 where a key is seen.
        text_config: of the language model.
    """
    types = set(layer_types(text_config))
    if types == {FULL}:
        return bias
    masks: dict[str, Tensor | None] = {FULL: bias, LINEAR: None}
    if SLIDING in types:
        masks[SLIDING] = additive(within_window(bias == 0, text_config.sliding_window), bias.dtype)
    return {kind: mask for kind, mask in masks.items() if kind in types}


def within_window(seen: Tensor, window: int) -> Tensor:
    """Keep of the seen keys (R, 1, W, K) those less than `window` before the query, counting only keys that it sees."""
    queries, keys = seen.shape[-2:]
    count = seen.cumsum(dim=-1)
    own = torch.arange(keys - queries, keys, device=seen.device)[:, None].expand(*seen.shape[:-1], 1)
    return seen & (count.gather(-1, own) - count < window)


def with_blocks(bias: Tensor, is_image: Tensor) -> Tensor:
    """Let the image tokens of an unbroken run see each other in both directions.

    Args:
        bias: (1, 1, T, T).
        is_image: bool (T,).
    """
    begins = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:-1]
    run = begins.cumsum(dim=0).masked_fill(~is_image, 0)
    return bias.masked_fill((run[:, None] == run) & is_image, 0)
