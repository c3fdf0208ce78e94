"""Conversations about one image, packed into one row: they share its prefix and do not see each other.

Shapes:  B images · T tokens of a row
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def packed_positions(segment_ids: Tensor) -> Tensor:
    """Positions (B, T) in which every conversation continues right after the prefix."""
    prefix = (segment_ids == 0).sum(dim=1, keepdim=True)
    index = torch.arange(segment_ids.shape[1], device=segment_ids.device).expand_as(segment_ids)
    changes = F.pad(segment_ids[:, 1:] != segment_ids[:, :-1], (1, 0), value=False)
    start = torch.where(changes, index, 0).cummax(dim=1).values
    return torch.where(segment_ids > 0, index - start + prefix, index)


def packed_attention_bias(segment_ids: Tensor, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask (B, 1, T, T): causal, to the prefix and to one's own conversation, to valid keys only."""
    length = segment_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    keys = segment_ids[:, None, :]
    seen = causal & ((keys == 0) | (keys == segment_ids[:, :, None])) & valid[:, None, :]
    return additive(seen, dtype)[:, None]


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool mask (True is seen) → 0 and the dtype's smallest number."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
