"""Families of vision-language models that have an adapter."""

from pixellm.backbones.adapter import Adapter
from pixellm.backbones.families.gemma3 import Gemma3Adapter
from pixellm.backbones.families.internvl import InternVlAdapter
from pixellm.backbones.families.llava import LlavaAdapter
from pixellm.backbones.families.llava_onevision import LlavaOnevisionAdapter
from pixellm.backbones.families.qwen_vl import Qwen3VlAdapter, Qwen25VlAdapter
from pixellm.backbones.families.smolvlm import SmolVlmAdapter

ADAPTERS = (
    LlavaAdapter(),
    LlavaOnevisionAdapter(),
    Qwen25VlAdapter(),
    Qwen3VlAdapter(),
    InternVlAdapter(),
    SmolVlmAdapter(),
    Gemma3Adapter(),
)


def known_types() -> list[str]:
    """Model types of transformers that have an adapter."""
    return [model_type for adapter in ADAPTERS for model_type in adapter.model_types]


def adapter_for(model_type: str) -> Adapter:
    """Return the adapter of a model type; a ValueError if its family has none."""
    for adapter in ADAPTERS:
        if model_type in adapter.model_types:
            return adapter
    raise ValueError(
        f"expected a vision-language model of a family that has an adapter ({', '.join(known_types())}), got "
        f"{model_type!r}. Choose one of these, or write an adapter: docs/any_vlm.md says what it has to give."
    )
