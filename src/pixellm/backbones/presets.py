"""Sizes of published vision-language models with the parts that PixelLM adds, for counting without weights.

The sizes are those of the models' config.json on the Hugging Face Hub; tests compare the counts with those published.
"""

from collections.abc import Callable
from typing import Any

from transformers import AutoConfig

from pixellm.backbones.configuration import BackboneConfig

CODEBOOK = 6  # tokens: 2 scales × 3
# SigLIP-so400m, and the tower of Qwen3-VL-8B that comes from it.
SO400M: dict[str, Any] = {"hidden_size": 1152, "intermediate_size": 4304}
QWEN3_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936 + CODEBOOK,
    "max_position_embeddings": 262144,
    "tie_word_embeddings": False,
}
QWEN3_4B: dict[str, Any] = QWEN3_8B | {"hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}


def _qwen3_vl(text: dict[str, Any], vision: dict[str, Any]) -> BackboneConfig:
    rope = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True, "rope_theta": 5e6}
    tower = {"num_heads": 16, "out_hidden_size": text["hidden_size"], "num_position_embeddings": 2304, "patch_size": 16}
    tied = text["tie_word_embeddings"]
    return _with_parts("qwen3_vl", text | {"rope_parameters": rope}, tower | vision, tie_word_embeddings=tied)


def qwen3_vl_4b() -> BackboneConfig:
    """Qwen/Qwen3-VL-4B-Instruct."""
    vision = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
    return _qwen3_vl(QWEN3_4B, vision)


def qwen3_vl_8b() -> BackboneConfig:
    """Qwen/Qwen3-VL-8B-Instruct."""
    return _qwen3_vl(QWEN3_8B, SO400M | {"depth": 27, "deepstack_visual_indexes": [8, 16, 24]})


def internvl3_5_8b() -> BackboneConfig:
    """OpenGVLab/InternVL3_5-8B-HF: InternViT-300M and Qwen3-8B."""
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": [448, 448],
        "patch_size": [14, 14],
        "attention_bias": True,
    }
    text = QWEN3_8B | {"model_type": "qwen3", "max_position_embeddings": 40960}
    return _with_parts("internvl", text, vision, image_seq_length=256, tie_word_embeddings=False)


def smolvlm2_2b() -> BackboneConfig:
    """HuggingFaceTB/SmolVLM2-2.2B-Instruct: SigLIP-so400m and SmolLM2-1.7B."""
    vision = SO400M | {"num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 384, "patch_size": 14}
    text = {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 49280 + CODEBOOK,
        "max_position_embeddings": 8192,
        "pad_token_id": 2,
    }
    return _with_parts("smolvlm", text, vision, scale_factor=3, tie_word_embeddings=False)


def gemma3_4b() -> BackboneConfig:
    """google/gemma-3-4b-it."""
    vision = SO400M | {
        "model_type": "siglip_vision_model",
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 896,
        "patch_size": 14,
        "vision_use_head": False,
    }
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 1024,
        "vocab_size": 262208 + CODEBOOK,
    }
    return _with_parts("gemma3", text, vision, mm_tokens_per_image=256)


def _with_parts(model_type: str, text: dict[str, Any], vision: dict[str, Any], **settings: Any) -> BackboneConfig:
    base = AutoConfig.for_model(model_type, text_config=text, vision_config=vision, **settings)
    return BackboneConfig(base)


PRESETS: dict[str, Callable[[], BackboneConfig]] = {
    "qwen3-vl-4b": qwen3_vl_4b,
    "qwen3-vl-8b": qwen3_vl_8b,
    "internvl3.5-8b": internvl3_5_8b,
    "smolvlm2-2.2b": smolvlm2_2b,
    "gemma3-4b": gemma3_4b,
}
