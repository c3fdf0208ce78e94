"""Batch-invariant forward pass: the states of a row are bitwise identical whatever other rows are in the batch.

The rounding of a matrix product depends on the shape of its operands. Here every row has a product of its own, and all
rows pass one layer before the next, so that its weights are read from memory once, which dominates the cost of short
rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaModel

from pixellm.inference.kv_cache import KVCache
from pixellm.model.modeling import CACHE_ARGUMENT, PixelLMForConditionalGeneration


@dataclass(frozen=True)
class RowInputs:
    """Arguments of `PixelLMForConditionalGeneration.hidden_states` for one row: (1, W, D), (1, 1, W, keys), (1, W)."""

    embeddings: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    cache: KVCache


def hidden_states(model: PixelLMForConditionalGeneration, rows: Sequence[RowInputs]) -> list[Tensor]:
    """Return the last-layer states (1, W, D) of each row, bitwise identical to those of `model.hidden_states`."""
    base = model.text_model
    if len(rows) == 1 or type(base) is not LlamaModel:  # others do more between their layers
        return [model.hidden_states(row.embeddings, row.attention_mask, row.position_ids, row.cache) for row in rows]
    states = [row.embeddings for row in rows]
    rotary = [base.rotary_emb(row.embeddings, position_ids=row.position_ids) for row in rows]
    for layer in base.layers:
        states = [
            layer(
                state,
                attention_mask=row.attention_mask,
                position_ids=row.position_ids,
                position_embeddings=position,
                use_cache=True,
                **{CACHE_ARGUMENT: row.cache},
            )
            for state, row, position in zip(states, rows, rotary, strict=True)
        ]
    return [base.norm(state) for state in states]
