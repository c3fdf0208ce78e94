"""Count FLOPs and peak memory of a call on the meta device (shapes without values); bytes of weights and KV cache.

A multiply-add counts two FLOPs. Matrix products and convolutions count, attention included; norms, activations,
softmax, interpolation, look-ups and sums don't.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from pixellm.inference.quantization import Quantize, group_size, quantised_layers

BF16 = 2


@dataclass(frozen=True)
class CallCost:
    """FLOPs of a call, and the peak of the bytes held by the tensors that it creates, its result among them."""

    flops: int
    peak_bytes: int


def on_meta(config: PreTrainedConfig) -> Any:
    """Build the model of a configuration without weights, bf16, in eval mode."""
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    return model.eval().to(torch.bfloat16)


def measure(call: Callable[[], object]) -> CallCost:
    """Count a call. On the meta device attention is not fused: its scores count as memory."""
    # The order matters: inside the FLOP counter, attention has not been taken apart yet.
    with torch.inference_mode(), PeakMemory() as memory, FlopCounterMode(display=False) as counter:
        call()
    return CallCost(counter.get_total_flops(), memory.peak)


class PeakMemory(TorchDispatchMode):
    """Track every storage created inside the context until its last tensor is released.

    Attributes:
        peak: largest number of bytes alive at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._alive = 0
        self._known: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.prim.device.default:  # of tensors without values autograd asks it thousands of times
            return func(*args)
        inputs = {_key(tensor) for tensor in tree_iter((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and _key(tensor) not in inputs | self._known.keys():
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


def parameters(*modules: nn.Module) -> int:
    """Count the parameters; those shared within a module count once."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def weight_bytes(model: nn.Module, language_model: PreTrainedModel | None) -> dict[str, int]:
    """Bytes of the weights at bf16, int8 and int4, as `pixellm.inference.quantization` holds them, without buffers.

    The language model's linear layers but its output layer are quantised: at 8 bits with one bf16 scale per output
    channel, at 4 bits with a bf16 scale and a bf16 zero point per group of inputs. All else stays bf16: embeddings,
    vision, codebook, mask heads.
    """
    whole = BF16 * parameters(model)
    kinds: tuple[Quantize, ...] = ("int8", "int4")
    return {"bf16": whole} | {
        kind: whole - (0 if language_model is None else saved_bytes(language_model, BF16, kind)) for kind in kinds
    }


def saved_bytes(language_model: PreTrainedModel, width: int, quantize: Quantize) -> int:
    """Bytes saved by quantising a language model whose weights take `width` bytes each."""
    layers = quantised_layers(language_model).values()
    return sum(width * layer.weight.numel() - quantised_bytes(layer, quantize) for layer in layers)


def quantised_bytes(layer: nn.Linear, quantize: Quantize) -> int:
    """Bytes of a layer's quantised weights with their scales, see `weight_bytes`."""
    if quantize == "int8":
        return layer.weight.numel() + BF16 * layer.out_features
    return layer.weight.numel() // 2 + layer.out_features * 2 * BF16 * (
        layer.in_features // group_size(layer.in_features)
    )


def kv_cache_bytes(config: PreTrainedConfig, tokens: int) -> int:
    """Bytes of the KV cache for `tokens` tokens in every layer, bf16; `config` is the language model's."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * BF16 * config.num_hidden_layers * heads * width * tokens
