"""Encoded images with their key-value prefix, the least recently used out first."""

from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image
from torch import Tensor

from pixellm.inference.generation import Prefix

Key = tuple[str, str, str | None]  # tenant, digest of the image, system text


@dataclass(frozen=True)
class Encoded:
    """A photograph and what the model made of it."""

    photograph: Image.Image
    prefix: Prefix

    @property
    def nbytes(self) -> int:
        """Of pixels, features, keys and values."""
        images = self.prefix.images
        tensors = _tensors([getattr(images, field.name) for field in fields(images)])
        tensors += _tensors([[layer.keys, layer.values] for layer in self.prefix.cache.layers])
        return 3 * self.photograph.width * self.photograph.height + sum(tensor.nbytes for tensor in tensors)


class PrefixCache:
    """Holds at most `capacity` bytes; an image that is larger alone is not kept."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.nbytes = capacity, 0
        self._entries: OrderedDict[Key, tuple[Encoded, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Encoded | None:
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: Key, encoded: Encoded) -> None:
        size = encoded.nbytes
        if key in self._entries or size > self.capacity:
            return
        self._entries[key] = (encoded, size)
        self.nbytes += size
        while self.nbytes > self.capacity:
            _, (_, freed) = self._entries.popitem(last=False)
            self.nbytes -= freed


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, list | tuple) else []
