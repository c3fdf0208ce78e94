"""FLOPs and peak memory of a call, counted while it runs on the meta device: shapes alone, no numbers.

A multiply-add counts two FLOPs. Counted are matrix products and convolutions, attention included; norms, activations,
softmax, interpolation, look-ups and sums are not.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, PreTrainedConfig


@dataclass(frozen=True)
class Measured:
    """FLOPs of a call, and the most bytes that the tensors made by it held at one time, its result among them."""

    flops: int
    peak_bytes: int


def on_meta(config: PreTrainedConfig) -> Any:
    """The model of a configuration without its weights, bf16, in eval mode."""
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    return model.eval().to(torch.bfloat16)


def measure(call: Callable[[], object]) -> Measured:
    """Count a call. On the meta device attention is not fused: its scores count as tensors that are held."""
    # The order matters: inside the FLOP counter, attention has not been taken apart yet.
    with torch.inference_mode(), PeakMemory() as memory, FlopCounterMode(display=False) as counter:
        call()
    return Measured(counter.get_total_flops(), memory.peak)


class PeakMemory(TorchDispatchMode):
    """Follows the storages that are made while it is on, from the call that makes each to the end of its last tensor.

    Attributes:
        peak: the most bytes alive at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._alive = 0
        self._known: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {_key(tensor) for tensor in tree_iter((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and _key(tensor) not in given | self._known.keys():
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._alive += size
        self.peak = max(self.peak, self._alive)
        self._known[key] = weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._alive -= size
        del self._known[key]


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
