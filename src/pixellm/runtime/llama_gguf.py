"""Llama weights from a GGUF file by NumPy, under transformers' names.

Shapes:  D width · H heads
"""

from pathlib import Path

import numpy as np

NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def read_llama(file: Path) -> dict[str, np.ndarray]:
    """Return the weights of a Llama, fp32, unpacked.

    Raises:
        ValueError: the file is no GGUF of a Llama.
    """
    from gguf import GGUFReader, dequantize

    try:
        reader = GGUFReader(file)
        heads = {
            "attn_q": int(reader.fields["llama.attention.head_count"].contents()),
            "attn_k": int(reader.fields["llama.attention.head_count_kv"].contents()),
        }
        weights = {}
        for tensor in reader.tensors:
            key, part = _key(tensor.name)
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
            weights[key] = _halves(values, heads[part]) if part in heads else values
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ValueError(f"expected the GGUF file of a Llama in {file}, got ({error}).") from None
    return weights


def _key(name: str) -> tuple[str, str]:
    """Return transformers' name of a tensor, and its part of a layer: blk.0.attn_q.weight → …, attn_q."""
    parts = name.split(".")
    if parts[0] != "blk":
        return f"{TOP[parts[0]]}.weight", parts[0]
    return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight", parts[2]


def _halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Bring the rows of each head from pairs, as GGUF rotates them, to halves, as transformers does: (H·d, D)."""
    return weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round fp32 to bfloat16, to the nearest and to even; the result is fp32."""
    bits = values.view(np.uint32)
    rounded = bits + (0x7FFF + (bits >> 16 & 1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)
