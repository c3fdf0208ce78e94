"""Parameters, and bytes of weights and of keys and values."""

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from pixellm.inference.quantization import Quantize, group_size, quantised_layers

BF16 = 2


def parameters(*modules: nn.Module) -> int:
    """How many; what several places share is counted once within a module."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def weight_bytes(model: nn.Module, language_model: PreTrainedModel | None) -> dict[str, int]:
    """Weights at bf16, int8 and int4, as `pixellm.inference.quantization` holds them; buffers are not counted.

    Quantised are the language model's linear layers but its output layer: at 8 bits with one bf16 scale for each output
    channel, at 4 bits with a bf16 scale and a bf16 zero point for each group of inputs of one. All else stays bf16:
    embeddings, vision, codebook, mask heads.
    """
    everything = BF16 * parameters(model)
    kinds: tuple[Quantize, ...] = ("int8", "int4")
    return {"bf16": everything} | {
        kind: everything - (0 if language_model is None else saved_bytes(language_model, BF16, kind)) for kind in kinds
    }


def saved_bytes(language_model: PreTrainedModel, width: int, quantize: Quantize) -> int:
    """How much less a language model's weights take when they are quantised, else being `width` bytes each."""
    layers = quantised_layers(language_model).values()
    return sum(width * layer.weight.numel() - _quantised_bytes(layer, quantize) for layer in layers)


def _quantised_bytes(layer: nn.Linear, quantize: Quantize) -> int:
    if quantize == "int8":
        return layer.weight.numel() + BF16 * layer.out_features
    return layer.weight.numel() // 2 + layer.out_features * 2 * BF16 * (
        layer.in_features // group_size(layer.in_features)
    )


def kv_cache_bytes(config: PreTrainedConfig, tokens: int) -> int:
    """Keys and values of so many tokens in every layer, bf16; `config` is the language model's."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * BF16 * config.num_hidden_layers * heads * width * tokens
