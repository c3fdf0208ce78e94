"""Preallocated KV cache with in-place append; transformers' own cache concatenates, which copies everything each step.

Shapes:  R rows · H heads · K tokens so far · W tokens of a step · d width of a head
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

SPARE_TOKENS = 64  # allocated beyond what is needed, whenever the cache grows


class PreallocatedLayer(DynamicLayer):
    """KV cache of one layer: `keys` and `values` (R, H, K, d) are views of longer, preallocated tensors."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        super().__init__()
        self._allocated: list[Tensor] = []
        self.columns: Tensor | None = None  # columns that a step writes; None: append
        if keys is not None and values is not None:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append the keys and values (R, H, W, d) of a step and return all of them (R, H, K + W, d).

        With `columns` (W,) set they are written there, and the whole allocation is returned.
        """
        if self.columns is not None:
            for tensor, new in zip(self._allocated, (key_states, value_states), strict=True):
                tensor.index_copy_(2, self.columns, new)
            return self._allocated[0], self._allocated[1]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        self.reserve(key_states.shape[2], SPARE_TOKENS)
        written = self.get_seq_length()
        for tensor, new in zip(self._allocated, (key_states, value_states), strict=True):
            tensor[:, :, written : written + new.shape[2]] = new
        self.advance(key_states.shape[2])
        return self.written

    @property
    def written(self) -> tuple[Tensor, Tensor]:
        """Keys and values; the layer must not be empty."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def reserve(self, tokens: int, spare: int) -> bool:
        """Allocate columns for further tokens; return True if all were copied to tensors with `spare` more columns."""
        if self._allocated and self.get_seq_length() + tokens <= self._allocated[0].shape[2]:
            return False
        self._allocated = [F.pad(held, (0, 0, 0, tokens + spare)) for held in self.written]
        self.advance(0)
        return True

    def advance(self, tokens: int) -> None:
        """Count further columns as written."""
        end = self.get_seq_length() + tokens
        self.keys, self.values = (tensor[:, :, :end] for tensor in self._allocated)


class KVCache(Cache):
    """Preallocated KV cache of all layers, all of the same length."""

    def __init__(self, layers: list[PreallocatedLayer] | None = None) -> None:
        if layers is None:
            super().__init__(layer_class_to_replicate=PreallocatedLayer)
        else:
            super().__init__(layers=list(layers))

    @property
    def capacity(self) -> int:
        """Number of allocated columns."""
        return self._own_layers()[0]._allocated[0].shape[2]

    def reserve(self, tokens: int, spare: int) -> bool:
        """See `PreallocatedLayer.reserve`."""
        return any([layer.reserve(tokens, spare) for layer in self._own_layers()])

    def advance(self, tokens: int) -> None:
        """See `PreallocatedLayer.advance`."""
        for layer in self._own_layers():
            layer.advance(tokens)

    @contextmanager
    def writing_at(self, columns: Tensor) -> Iterator[None]:
        """See `PreallocatedLayer.update`."""
        for layer in self._own_layers():
            layer.columns = columns
        try:
            yield
        finally:
            for layer in self._own_layers():
                layer.columns = None

    def select(self, rows: Tensor, columns: Tensor | None = None) -> "KVCache":
        """Copy some rows (indexes), and of them some columns (indexes, or bool (K,))."""
        pairs = [[held[rows] for held in pair] for pair in self._pairs()]
        if columns is not None:
            pairs = [[held[:, :, columns] for held in pair] for pair in pairs]
        return KVCache([PreallocatedLayer(*pair) for pair in pairs])

    @staticmethod
    def concatenated(caches: "Sequence[KVCache]") -> "KVCache":
        """Concatenate the rows of several caches; shorter ones are padded with 0, which must be masked."""
        layers = zip(*(cache._pairs() for cache in caches), strict=True)
        return KVCache([PreallocatedLayer(*map(_stacked, zip(*pairs, strict=True))) for pairs in layers])

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [layer.written for layer in self._own_layers()]

    def _own_layers(self) -> list[PreallocatedLayer]:
        return cast("list[PreallocatedLayer]", self.layers)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    longest = max(tensor.shape[2] for tensor in tensors)
    return torch.cat([F.pad(tensor, (0, 0, 0, longest - tensor.shape[2])) for tensor in tensors])
