"""Weight-only quantisation: the language model's inner linear layers at 8 or 4 bits, everything else as it is.

torchao chooses the scales and quantises, layer by layer while the weights are read. On a CPU its layers then make a
bf16 matrix of an int8 weight for every product, which takes longer than bf16 weights would; so there each becomes a
module that calls torch's own kernels (docs/decisions/quantisation.md). On a GPU torchao's layers stay.

Shapes:  N outputs · K inputs · G inputs of a group that share a scale
"""

import ctypes
import sys
from abc import ABC, abstractmethod
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, TorchAoConfig

Quantize = Literal["int8", "int4"]

GROUP_SIZES = (128, 64, 32)  # at 4 bits; the first that divides the inputs. 128 is usual (torchao, AWQ, GPTQ).
# What torch's kernels take; with other inputs the one for int8 reads beyond its operands.
INPUTS, OUTPUTS = 32, 16
# With more rows than these the kernels are slower than a bf16 product with weights made for it; and so many weights are
# made at a time, so that they stay in the processor's cache.
KERNEL_ROWS = {"int8": 16, "int4": 128}
CHUNK = {"int8": 1 << 20, "int4": 1 << 18}
BLOCK = 64  # outputs that torch packs together at 4 bits, where vectors have 512 bits


def quantised_layers(language_model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The layers that are quantised, by name: linear, not the output layer, of sizes that the kernels take."""
    head = language_model.get_output_embeddings()
    return {
        name: module
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and not _odd(module)
    }


def _odd(layer: nn.Linear) -> bool:
    return bool(layer.in_features % INPUTS or layer.out_features % OUTPUTS)


def group_size(inputs: int) -> int:
    """G of a layer with K inputs, a multiple of 32."""
    return next(size for size in GROUP_SIZES if inputs % size == 0)


def load_quantised(
    directory: Any, config: PreTrainedConfig, quantize: Quantize, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """Load a model and quantise its language model meanwhile: at no time are all its weights there.

    Args:
        directory: of the checkpoint.
        config: of the model.
        quantize: bits of a weight. int8: a scale for each output; int4: scale and zero point for each G inputs of one.
        device: where it is to run.
        dtype: of everything else. On a CPU the quantised layers' own products are bf16 all the same.

    Raises:
        ValueError: nothing in it can be quantised, or not for this device and dtype.
        ModuleNotFoundError: torchao is missing.
    """
    if device.type != "cpu" and quantize == "int4" and dtype != torch.bfloat16:
        raise ValueError(f"int4 on {device.type}: expected bfloat16, which its kernel wants, got {dtype}.")
    model = AutoModel.from_pretrained(
        directory,
        dtype=dtype,
        quantization_config=torchao_config(config, quantize, device),
        device_map=None if device.type == "cpu" else {"": device},
    )
    if device.type == "cpu":
        use_kernels(model.text_model)
        _give_back_freed()
    return model


def _give_back_freed() -> None:
    """Let glibc return what was freed between the weights that stay: of a small model it can be as much as those."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)  # other C libraries have none


def torchao_config(config: PreTrainedConfig, quantize: Quantize, device: torch.device) -> TorchAoConfig:
    """Return the config with which transformers quantises the layers while reading them; see `load_quantised`."""
    from torchao.quantization import FqnToConfig

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    layers = quantised_layers(model.text_model)
    if not layers:
        raise ValueError(
            f"quantize: expected linear layers with a multiple of {INPUTS} inputs and of {OUTPUTS} outputs in the "
            f"language model, found none in a {config.text_config.model_type!r}. Load it as it is."
        )
    (path,) = (name for name, module in model.named_modules() if module is model.text_model)
    settings = {f"{path}.{name}": layer_config(quantize, layer.in_features, device) for name, layer in layers.items()}
    return TorchAoConfig(FqnToConfig(settings), modules_to_not_convert=[])


def layer_config(quantize: Quantize, inputs: int, device: torch.device) -> Any:
    """Return the torchao config for a layer with K inputs."""
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    if quantize == "int8":
        return Int8WeightOnlyConfig(set_inductor_config=False)
    if device.type != "cpu":
        tiles: Any = "tile_packed_to_4d"
        return Int4WeightOnlyConfig(group_size(inputs), set_inductor_config=False, int4_packing_format=tiles)
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    return PrototypeInt4WeightOnlyConfig(group_size(inputs), set_inductor_config=False)


def use_kernels(language_model: PreTrainedModel) -> None:
    """Put an `Int8Linear` or `Int4Linear` in the place of each layer that torchao quantised, with its weights."""
    for name, layer in quantised_layers(language_model).items():
        weight: Any = layer.weight
        bias = None if layer.bias is None else layer.bias.detach()
        if weight.qdata.dtype == torch.int8:
            module = Int8Linear(weight.qdata, weight.scale.flatten(), bias)
        else:
            module = Int4Linear(weight.qdata, weight.scale_and_zero, bias, weight.block_size[1])
        language_model.set_submodule(name, module)


class _FrozenProduct(torch.autograd.Function):
    """Product with quantised weights, which never train: gradients reach only what is multiplied by them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layer: "_KernelLinear | FrozenLinear") -> Tensor:
        ctx.layer = layer
        return layer.product(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.product_of_gradient(gradients[0]), None


class _KernelLinear(nn.Module, ABC):
    """A linear layer whose product is computed in bf16, whatever the dtype of what it reads."""

    weight: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # Not in checkpoints: a quantised model is quantised at each load.
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("scales", scales.to(torch.bfloat16), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    @property
    @abstractmethod
    def in_features(self) -> int:
        """K."""

    @property
    def out_features(self) -> int:
        """N."""
        return len(self.weight)

    def forward(self, states: Tensor) -> Tensor:
        """(…, K) → (…, N), in the dtype of `states`; gradients reach `states`."""
        rows = states.reshape(-1, states.shape[-1]).to(torch.bfloat16)
        product = _FrozenProduct.apply(rows, self).to(states.dtype).unflatten(0, states.shape[:-1])
        return product if self.bias is None else product + self.bias

    @abstractmethod
    def product(self, rows: Tensor) -> Tensor:
        """Multiply rows (R, K) in bfloat16 by the weights: (R, N)."""

    def product_of_gradient(self, gradient: Tensor) -> Tensor:
        """Multiply the gradient (R, N) of a product by the weights: (R, K); a block of outputs at a time."""
        inputs = self.in_features
        total = torch.zeros(len(gradient), inputs, dtype=torch.float32, device=gradient.device)
        step = max(BLOCK, CHUNK["int4"] // inputs // BLOCK * BLOCK)
        for start in range(0, self.out_features, step):
            block = slice(start, start + step)
            total += gradient[:, block].to(torch.bfloat16) @ self.dequantised(block)
        return total.to(gradient.dtype)

    @abstractmethod
    def dequantised(self, outputs: slice) -> Tensor:
        """Weights of some outputs in bf16 (outputs, K); the slice begins at a multiple of `BLOCK`."""


class Int8Linear(_KernelLinear):
    """Weights int8 (N, K), scales bf16 (N,)."""

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    def dequantised(self, outputs: slice) -> Tensor:
        return self.weight[outputs].to(torch.bfloat16) * self.scales[outputs, None]

    def product(self, rows: Tensor) -> Tensor:
        if len(rows) <= KERNEL_ROWS["int8"]:
            return torch._weight_int8pack_mm(rows, self.weight, self.scales)
        count, inputs = self.weight.shape
        product = rows.new_empty(len(rows), count)
        step = max(1, CHUNK["int8"] // inputs)
        for start in range(0, count, step):
            block = slice(start, start + step)
            product[:, block] = rows @ self.weight[block].to(rows.dtype).T
        return product.mul_(self.scales)


class Int4Linear(_KernelLinear):
    """Weights packed as torch's kernel wants them, uint8 (N, K / 2); scales and zero points bf16 (K / G, N, 2)."""

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> None:
        super().__init__(weight, scales, bias)
        self.group = group

    @property
    def in_features(self) -> int:
        return len(self.scales) * self.group

    def dequantised(self, outputs: slice) -> Tensor:
        if len(self.weight) % BLOCK == 0 and packing_is_known():
            blocks = slice(outputs.start // BLOCK, -(-min(outputs.stop, len(self.weight)) // BLOCK))
            return self._unpacked_blocks(blocks).flatten(1, 2).mT.flatten(0, 1)
        # What a product with the identity gives; the whole, since a kernel takes no part of packed weights.
        identity = torch.eye(self.in_features, dtype=torch.bfloat16)
        packed = torch.ops.aten._weight_int4pack_mm_for_cpu
        return packed(identity, self.weight, self.group, self.scales)[:, outputs].T

    def product(self, rows: Tensor) -> Tensor:
        if len(rows) > KERNEL_ROWS["int4"] and len(self.weight) % BLOCK == 0 and packing_is_known():
            return self._unpacking_product(rows)
        return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.weight, self.group, self.scales)

    def _unpacking_product(self, rows: Tensor) -> Tensor:
        count, inputs = rows.shape
        blocks = len(self.weight) // BLOCK
        product = rows.new_empty(count, blocks, BLOCK)
        step = max(1, CHUNK["int4"] // (BLOCK * inputs))
        for start in range(0, blocks, step):
            block = slice(start, start + step)
            weights = self._unpacked_blocks(block).flatten(1, 2)
            product[:, block] = torch.matmul(rows, weights).transpose(0, 1)
        return product.flatten(1)

    def _unpacked_blocks(self, blocks: slice) -> Tensor:
        """Weights of some blocks of outputs in bf16 (blocks, K / G, G, BLOCK)."""
        packed = self.weight.view(-1, self.in_features, BLOCK // 2)[blocks]
        # (K / G, N, 2) → each (blocks, groups of inputs, 1, BLOCK).
        chosen = self.scales.view(len(self.scales), -1, BLOCK, 2)[:, blocks]
        scales, zeros = chosen.permute(3, 1, 0, 2)[:, :, :, None].contiguous()
        return unpacked(packed).unflatten(1, (-1, self.group)).mul_(scales).add_(zeros)


class FrozenLinear(nn.Module):
    """A layer that torchao quantised and that runs on a GPU, through which gradients can go.

    Args:
        layer: without gradients of its own; its weight is a tensor of torchao's.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias, self.dtype = layer.weight, layer.bias, layer.weight.dtype
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, states: Tensor) -> Tensor:
        """(…, K) → (…, N), in the dtype of `states`; gradients reach `states`."""
        rows = states.reshape(-1, self.in_features).to(self.dtype)
        product = _FrozenProduct.apply(rows, self).to(states.dtype).unflatten(0, states.shape[:-1])
        return product if self.bias is None else product + self.bias

    def product(self, rows: Tensor) -> Tensor:
        """Multiply rows (R, K) by the weights: (R, N)."""
        return F.linear(rows, self.weight)

    def product_of_gradient(self, gradient: Tensor) -> Tensor:
        """Multiply the gradient (R, N) of a product by the weights, which products with the identity give: (R, K)."""
        identity = torch.eye(self.in_features, dtype=self.dtype, device=gradient.device)
        return (gradient.to(self.dtype) @ self.product(identity).T).to(gradient.dtype)


FROZEN_LAYERS = (Int8Linear, Int4Linear, FrozenLinear)


def let_gradients_through(language_model: PreTrainedModel) -> None:
    """Put a `FrozenLinear` in the place of each layer whose weights torchao holds."""
    for name, layer in quantised_layers(language_model).items():
        if type(layer.weight) is not nn.Parameter:
            language_model.set_submodule(name, FrozenLinear(layer))


def unpacked(packed: Tensor) -> Tensor:
    """Packed weights (blocks, K, BLOCK / 2) → -8 to 7, bf16 (blocks, K, BLOCK).

    A byte holds two outputs of a block that are BLOCK / 2 apart, the first in its low half.
    """
    numbers = torch.empty(*packed.shape[:2], BLOCK, dtype=torch.int16)
    numbers[..., : BLOCK // 2] = packed & 15
    numbers[..., BLOCK // 2 :] = packed >> 4
    # In the last bits of bf16's 128 they make 128 to 143: quicker than to convert them.
    return numbers.bitwise_or_(0x4300).view(torch.bfloat16).sub_(128 + 8)


@cache
def packing_is_known() -> bool:
    """Return whether `unpacked` undoes torch's packing, which depends on the processor and maybe on torch's version."""
    weights = torch.randint(16, (2 * BLOCK, 2 * INPUTS), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weights, 1)
    restored = unpacked(packed.view(2, -1, BLOCK // 2)) + 8
    return torch.equal(restored.to(torch.int32), weights.unflatten(0, (2, BLOCK)).transpose(1, 2))
