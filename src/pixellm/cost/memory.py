"""Parameters, and bytes of weights and of keys and values."""

from torch import nn
from transformers import PreTrainedConfig

BF16 = 2
GROUP_SIZE = 128  # input channels that share a scale at 4 bits, as is usual (torchao, AWQ, GPTQ)


def parameters(*modules: nn.Module) -> int:
    """How many; what several places share is counted once within a module."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def weight_bytes(model: nn.Module, language_model: nn.Module | None) -> dict[str, int]:
    """Weights at bf16, int8 and int4.

    Quantised are the language model's linear layers but its output layer: at 8 bits with one bf16 scale for each output
    channel, at 4 bits with a bf16 scale and a bf16 zero point for each 128 inputs of one. All else stays bf16:
    embeddings, vision, codebook, mask heads. Buffers are not counted.
    """
    everything = BF16 * parameters(model)
    layers = [] if language_model is None else _inner_linears(language_model)
    plain = BF16 * sum(layer.weight.numel() for layer in layers)
    int8 = sum(layer.weight.numel() + BF16 * layer.out_features for layer in layers)
    int4 = sum(
        layer.out_features * (-(-layer.in_features // 2) + 2 * BF16 * -(-layer.in_features // GROUP_SIZE))
        for layer in layers
    )
    return {"bf16": everything, "int8": everything - plain + int8, "int4": everything - plain + int4}


def _inner_linears(language_model: nn.Module) -> list[nn.Linear]:
    head = language_model.get_output_embeddings()
    return [module for module in language_model.modules() if isinstance(module, nn.Linear) and module is not head]


def kv_cache_bytes(config: PreTrainedConfig, tokens: int) -> int:
    """Keys and values of so many tokens in every layer, bf16; `config` is the language model's."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * BF16 * config.num_hidden_layers * heads * width * tokens
