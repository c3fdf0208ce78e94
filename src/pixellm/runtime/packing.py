"""Weights file of an exported model: each tensor at its place, in the form that its graph reads.

Matrices of the language model may be blocks of integers with a scale each, as onnxruntime's `MatMulNBits` reads them.

Shapes:  N outputs · K inputs · B blocks of an output (K / 32)
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np

from pixellm.runtime.manifest import TensorPlace

BLOCK = 32  # inputs that share a scale


def quantise(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantise a matrix (N, K), K divisible by 32, to signed integers with a scale for each block.

    Returns:
        uint8 (N, B, 32 · bits / 8) of integers plus 2^(bits - 1), the lower of two first, and fp32 (N, B) scales.
    """
    blocks = weight.astype(np.float32).reshape(len(weight), -1, BLOCK)
    half = 1 << (bits - 1)
    at = np.abs(blocks).argmax(axis=2, keepdims=True)
    scales = np.take_along_axis(blocks, at, axis=2) / -half  # the largest becomes -half, which the integers reach
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales != 0)
    values = np.clip(np.rint(blocks * inverse) + half, 0, 2 * half - 1).astype(np.uint8)
    if bits == 4:
        values = values[..., ::2] | values[..., 1::2] << 4
    return values, scales[..., 0]


def packed(weight: np.ndarray, places: Iterable[TensorPlace]) -> Iterator[np.ndarray]:
    """Yield a weight in the forms in which it is stored, one for each place; it is quantised once."""
    quantised = cache(lambda bits: quantise(weight, bits))
    for place in places:
        stored = weight
        if place.kind.startswith(("blocks", "scales")):
            values, scales = quantised(int(place.kind[-1]))
            stored = values if place.kind.startswith("blocks") else scales
        yield np.ascontiguousarray(stored, dtype=place.dtype).reshape(place.shape)


def write_weights(path: Path, places: Iterable[TensorPlace], read: Callable[[str], np.ndarray]) -> None:
    """Write a weights file; `read` gives the weight of a checkpoint's key."""
    with path.open("wb") as file:
        for source, own in groupby(places, key=lambda place: place.source):
            forms = list(own)
            for place, stored in zip(forms, packed(read(source), forms), strict=True):
                file.seek(place.offset)
                file.write(stored.data)
