"""What trains: adapters and new embeddings of the language model, and chosen parts of the rest."""

from collections.abc import Iterable

from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel

from pixellm.baselines.seem import SeemForGrounding
from pixellm.model import PixelLMForConditionalGeneration
from pixellm.train.recipe import Lora

EMBEDDINGS = ("embed_tokens", "lm_head")


def adapt(model: PixelLMForConditionalGeneration | SeemForGrounding, lora: Lora, trained: Iterable[str]) -> None:
    """Freeze all but adapters and codebook rows of the language model, and what starts with a name in `trained`.

    What trains is kept in float32, frozen weights of the language model in the dtype that they have. SEEM-style has no
    language model to adapt.

    Raises:
        ValueError: a name in `trained` is of no part of the model, or no linear layer is called like a LoRA target.
    """
    model.requires_grad_(False)
    for start in trained:
        if not hasattr(model, start.split(".")[0]):  # it may be None: without a dense classifier there is no word_mix
            raise ValueError(f"trained: expected a part of the model, got {start!r}. Known: {parts_of(model)}.")
        for name, parameter in model.named_parameters():
            if name == start or name.startswith(f"{start}."):
                parameter.requires_grad_(True)
    if isinstance(model, PixelLMForConditionalGeneration):
        model.freeze_constants()
        _add_adapters(model, lora)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _add_adapters(model: PixelLMForConditionalGeneration, lora: Lora) -> None:
    """LoRA in the language model, and rows of its embedding tables that train alone."""
    tied = model.config.text_config.tie_word_embeddings
    rows = {name: model.config.codebook_ids for name in (EMBEDDINGS[:1] if tied else EMBEDDINGS)}
    adapters = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        trainable_token_indices=rows,
    )
    inject_adapter_in_model(adapters, model.language_model)


def reader_of(model: PixelLMForConditionalGeneration | SeemForGrounding) -> PreTrainedModel:
    """The part that reads text, whose own weights stay as they are."""
    return model.text_encoder if isinstance(model, SeemForGrounding) else model.language_model


def parts_of(model: nn.Module) -> str:
    """Names of a model's parts, for messages."""
    return ", ".join(name for name, _ in model.named_children())
