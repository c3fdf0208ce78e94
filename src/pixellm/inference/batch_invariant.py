"""Rows that go through the language model together, and yet each in matrices of its own: bit by bit as if alone.

A matrix product rounds by the shape of its operands, so that the rows of one product differ in their last bits from the
same rows alone; a pixel that hangs in the balance then tips. Here every row keeps its shapes. What is shared is the way
of the weights from memory, which is what a short row costs: all rows pass one layer before the next is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaModel

from pixellm.inference.kv_cache import KeyValues
from pixellm.model.modeling import CACHE_ARGUMENT, PixelLMForConditionalGeneration


@dataclass(frozen=True)
class RowInputs:
    """What `PixelLMForConditionalGeneration.hidden_states` takes for one row: (1, W, D), (1, 1, W, keys), (1, W)."""

    embeddings: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    cache: KeyValues


def hidden_states(model: PixelLMForConditionalGeneration, rows: Sequence[RowInputs]) -> list[Tensor]:
    """Last-layer states (1, W, D) of each row; equal to those of `model.hidden_states`, row by row."""
    base = model.language_model.base_model
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
