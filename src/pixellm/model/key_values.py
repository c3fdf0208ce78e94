"""Keys and values of a language model with room behind them: a step writes its own, and copies nothing that is there.

Transformers' own cache concatenates: every step copies all keys and values of every layer.

Shapes:  R rows · H heads · K tokens so far · W tokens of a step · d width of a head
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64  # tokens that there is room for behind those that are written, whenever more is needed


class RoomyLayer(DynamicLayer):
    """Of one layer: `keys` and `values` (R, H, K, d) are the written part of tensors that are longer."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        super().__init__()
        self._room: list[Tensor] = []
        if keys is not None and values is not None:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write the keys and values (R, H, W, d) of a step; all that there are now (R, H, K + W, d)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        assert self.keys is not None
        assert self.values is not None
        written, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if not self._room or end > self._room[0].shape[2]:
            self._room = [F.pad(held, (0, 0, 0, end - written + ROOM)) for held in (self.keys, self.values)]
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, written:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values


class KeyValues(Cache):
    """Of all layers; full length in each, as the masks are."""

    def __init__(self, layers: list[RoomyLayer] | None = None) -> None:
        if layers is None:
            super().__init__(layer_class_to_replicate=RoomyLayer)
        else:
            super().__init__(layers=list(layers))

    def select(self, rows: Tensor, columns: Tensor | None = None) -> "KeyValues":
        """A copy of some rows (indexes), and of some columns (indexes, or bool (K,))."""
        found = [[held[rows] for held in pair] for pair in self._pairs()]
        if columns is not None:
            found = [[held[:, :, columns] for held in pair] for pair in found]
        return KeyValues([RoomyLayer(*pair) for pair in found])

    @staticmethod
    def joined(parts: "Sequence[KeyValues]") -> "KeyValues":
        """Rows of all; the shorter are filled up with 0, which nobody may look at."""
        layers = zip(*(part._pairs() for part in parts), strict=True)
        return KeyValues([RoomyLayer(*map(_stacked, zip(*pairs, strict=True))) for pairs in layers])

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        found = []
        for layer in self.layers:
            assert isinstance(layer, RoomyLayer)
            assert layer.keys is not None
            assert layer.values is not None
            found.append((layer.keys, layer.values))
        return found


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    longest = max(part.shape[2] for part in parts)
    return torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[2])) for part in parts])
