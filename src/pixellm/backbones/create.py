"""Make a PixelLM of a vision-language model: its weights, codebook tokens in its vocabulary, new parts for masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken, AutoConfig, AutoModelForImageTextToText, AutoProcessor

from pixellm.backbones.configuration import BackboneConfig
from pixellm.backbones.families import adapter_for
from pixellm.backbones.modeling import BackboneForConditionalGeneration
from pixellm.backbones.processing import BackboneProcessor
from pixellm.model.processing import add_codebook_tokens
from pixellm.utils.model_files import readable
from pixellm.utils.weights import without_progress_bars

SPREAD = 0.02  # standard deviation of the codebook's new input rows around the mean row


@dataclass(frozen=True)
class NewParts:
    """Sizes of what is added to a base; see `BackboneConfig` for the fields."""

    num_scales: int = 2
    tokens_per_scale: int = 3
    vision_layers: tuple[int, ...] | None = None
    mask_grid: int | None = None
    decoder_dim: int = 256


def create(
    base: str | Path, out: Path, parts: NewParts = NewParts(), dtype: torch.dtype | None = None, seed: int = 0
) -> None:
    """Write a checkpoint directory that holds all that is needed.

    Args:
        base: directory or Hub id of an `AutoModelForImageTextToText`.
        out: directory, created; it must be empty.
        parts: sizes of what is added.
        dtype: of all weights; None: the base's.
        seed: of the new weights.

    Raises:
        ValueError: the family of the base has no adapter, or `out` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"expected an empty directory, got {out} with files in it. Choose another.")
    with readable(base, "a vision-language model of transformers"):
        config: Any = AutoConfig.from_pretrained(base)
    adapter_for(config.model_type)  # before anything is loaded
    with readable(base, "the weights and the processor of a vision-language model"), without_progress_bars():
        processor = AutoProcessor.from_pretrained(base)
        model = AutoModelForImageTextToText.from_pretrained(base, dtype=dtype or "auto")
    made, made_processor = extend(model, processor, parts, seed)
    with without_progress_bars():
        made.save_pretrained(out)
        made_processor.save_pretrained(out)


def extend(
    base: Any, base_processor: Any, parts: NewParts, seed: int = 0
) -> tuple[BackboneForConditionalGeneration, BackboneProcessor]:
    """Add codebook tokens and the parts for masks to a loaded base; its tokenizer and vocabulary are changed."""
    _fill_vocabulary(base_processor.tokenizer, base.get_input_embeddings().num_embeddings)
    tokens = add_codebook_tokens(base_processor.tokenizer, parts.num_scales * parts.tokens_per_scale)
    ids = base_processor.tokenizer.convert_tokens_to_ids(tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _add_rows(base, ids)
        config = BackboneConfig(
            base.config,
            num_scales=parts.num_scales,
            tokens_per_scale=parts.tokens_per_scale,
            codebook_ids=tuple(ids),
            vision_layers=parts.vision_layers,
            mask_grid=parts.mask_grid,
            decoder_dim=parts.decoder_dim,
            token_penalty=base.generation_config.repetition_penalty or 1.0,
            dtype=base.dtype,
        )
        model = BackboneForConditionalGeneration.from_base(config, base)
    processor = BackboneProcessor(base_processor, base.config.model_type, tokens, _eos_ids(base, base_processor))
    return model.eval(), processor


def _fill_vocabulary(tokenizer: Any, rows: int) -> None:
    """Name the ids for which the base has rows but its tokenizer no token: further tokens then get rows of their own.

    The base's answers would change if one of these rows, which it may write, became a codebook token's.
    """
    spare = [AddedToken(f"<|spare_{number}|>", special=True) for number in range(len(tokenizer), rows)]
    tokenizer.add_tokens(spare, special_tokens=True)


@torch.no_grad()
def _add_rows(base: Any, ids: list[int]) -> None:
    """Append the codebook's rows to the vocabulary; no row of the base changes.

    In the output layer each is the mean of the words: its score is the mean of theirs, so that greedy decoding never
    takes it, and texts stay the base's until training makes it likelier. (Tied layers: up to the noise, 2 % of the
    spread of the words.)
    """
    words = ids[0]
    base.resize_token_embeddings(words + len(ids), mean_resizing=False)
    head = base.get_output_embeddings()
    inputs, outputs = base.get_input_embeddings().weight, head.weight
    mean = inputs[:words].float().mean(dim=0)
    noise = torch.randn(len(ids), inputs.shape[1]) * SPREAD * inputs[:words].float().std()
    _set_rows(inputs, ids, mean + noise.to(mean))
    if outputs is not inputs:
        _set_rows(outputs, ids, outputs[:words].float().mean(dim=0))
        if getattr(head, "bias", None) is not None:
            head.bias[ids] = head.bias[:words].mean()


def _set_rows(weight: Tensor, ids: list[int], rows: Tensor) -> None:
    weight[ids] = rows.to(weight.dtype)


def _eos_ids(base: Any, processor: Any) -> list[int]:
    """Ids that end the base's answers."""
    ids = base.generation_config.eos_token_id
    ids = processor.tokenizer.eos_token_id if ids is None else ids
    return list(ids) if isinstance(ids, list | tuple) else [ids]
