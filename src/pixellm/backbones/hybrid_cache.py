"""Cache of language models with linear attention: states of fixed size beside keys and values.

States can't be shared or cut by columns: each row gets a copy of its prefix's, and rows are decoded one by one, since
a padding token would change them.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import LinearAttentionLayer

from pixellm.backbones.masks import LINEAR
from pixellm.inference.kv_cache import KVCache, PreallocatedLayer


class HybridCache(KVCache):
    """See `KVCache`; `layers` are of either kind."""

    @classmethod
    def empty(cls, layer_types: Sequence[str]) -> "HybridCache":
        """Make a cache for layers of these kinds."""
        return cls([LinearAttentionLayer() if kind == LINEAR else PreallocatedLayer() for kind in layer_types])  # pyright: ignore[reportArgumentType]

    def select(self, rows: Tensor, columns: Tensor | None = None) -> "HybridCache":
        """Copy some rows, and of their keys and values some columns; states are copied whole."""
        layers: list[Any] = []
        for layer in self.layers:
            if isinstance(layer, PreallocatedLayer):
                pair = [held[rows] for held in layer.written]
                layers.append(PreallocatedLayer(*(pair if columns is None else [held[:, :, columns] for held in pair])))
            else:
                layers.append(copied := copy.deepcopy(layer))
                copied.reorder_cache(rows)
        return HybridCache(layers)

    @staticmethod
    def concatenated(caches: "Sequence[HybridCache]") -> "HybridCache":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Concatenate the rows of several caches; shorter keys and values are padded with 0, which must be masked."""
        layers: list[Any] = []
        for same in zip(*(cache.layers for cache in caches), strict=True):
            if isinstance(same[0], PreallocatedLayer):
                layers += KVCache.concatenated([KVCache([layer]) for layer in same]).layers  # pyright: ignore[reportArgumentType]
                continue
            layers.append(joined := copy.deepcopy(same[0]))
            for index in range(joined.number_of_states):
                joined.conv_states[index] = torch.cat([layer.conv_states[index] for layer in same])
                joined.recurrent_states[index] = torch.cat([layer.recurrent_states[index] for layer in same])
        return HybridCache(layers)
