"""Keys and values of a language model with room behind them: a step writes its own, and copies nothing that is there.

Transformers' own cache concatenates: every step copies all keys and values of every layer.

Shapes:  R rows · H heads · K tokens so far · W tokens of a step · d width of a head
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

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
        self.columns: Tensor | None = None  # where a step writes, if not behind what is written
        if keys is not None and values is not None:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write the keys and values (R, H, W, d) of a step; all that there are now (R, H, K + W, d).

        With `columns` (W,) set they are written there, and the whole room comes back, what isn't written yet with it.
        """
        if self.columns is not None:
            for room, new in zip(self._room, (key_states, value_states), strict=True):
                room.index_copy_(2, self.columns, new)
            return self._room[0], self._room[1]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        self.reserve(key_states.shape[2], ROOM)
        written = self.get_seq_length()
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, written : written + new.shape[2]] = new
        self.wrote(key_states.shape[2])
        return self.written

    @property
    def written(self) -> tuple[Tensor, Tensor]:
        """Keys and values, once there are any."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def reserve(self, tokens: int, room: int) -> bool:
        """Have room for so many tokens more; True if all had to be copied, into tensors with `room` beyond that."""
        if self._room and self.get_seq_length() + tokens <= self._room[0].shape[2]:
            return False
        self._room = [F.pad(held, (0, 0, 0, tokens + room)) for held in self.written]
        self.wrote(0)
        return True

    def wrote(self, tokens: int) -> None:
        """So many more are written."""
        end = self.get_seq_length() + tokens
        self.keys, self.values = (room[:, :, :end] for room in self._room)


class KeyValues(Cache):
    """Of all layers; full length in each, as the masks are."""

    def __init__(self, layers: list[RoomyLayer] | None = None) -> None:
        if layers is None:
            super().__init__(layer_class_to_replicate=RoomyLayer)
        else:
            super().__init__(layers=list(layers))

    @property
    def room(self) -> int:
        """Tokens, written ones among them, that there is room for."""
        return self._own_layers()[0]._room[0].shape[2]

    def reserve(self, tokens: int, room: int) -> bool:
        """See `RoomyLayer.reserve`."""
        return any([layer.reserve(tokens, room) for layer in self._own_layers()])

    def wrote(self, tokens: int) -> None:
        """See `RoomyLayer.wrote`."""
        for layer in self._own_layers():
            layer.wrote(tokens)

    @contextmanager
    def writing_at(self, columns: Tensor) -> Iterator[None]:
        """See `RoomyLayer.update`."""
        for layer in self._own_layers():
            layer.columns = columns
        try:
            yield
        finally:
            for layer in self._own_layers():
                layer.columns = None

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
        return [layer.written for layer in self._own_layers()]

    def _own_layers(self) -> list[RoomyLayer]:
        return cast("list[RoomyLayer]", self.layers)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    longest = max(part.shape[2] for part in parts)
    return torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[2])) for part in parts])
