"""Pretrained parts of a new model: their settings and weights, under our names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from pixellm.checkpoints.convert import clip_weights
from pixellm.checkpoints.layout import ConversionReport
from pixellm.model import PixelLMConfig, PixelLMForConditionalGeneration, PixelLMProcessor, PixelLMVisionConfig
from pixellm.train.model_kind import config_fields
from pixellm.train.recipe import check_names
from pixellm.utils.model_files import read_json
from pixellm.utils.weights import read_weights

ANSWERING = ("language_model.", "codebook.", "pixel_decoder.")  # not taken over with another model's vision encoder


def with_text_settings(text: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a language model's settings with changes.

    Raises:
        ValueError: there is no such setting, or there are not so many layers.
    """
    check_names(changes, text.keys(), "initialise: settings: text_config: ")
    if changes.get("num_hidden_layers", 0) > text["num_hidden_layers"]:
        raise ValueError(
            f"text_config: expected at most the {text['num_hidden_layers']} layers of the language model, got "
            f"{changes['num_hidden_layers']}."
        )
    return text | dict(changes)


def vision_settings(
    directory: Path, preset: PixelLMVisionConfig
) -> tuple[dict[str, Any], Sequence[float], Sequence[float]]:
    """Return the settings of a vision encoder, and mean and standard deviation of the RGB that it was trained with."""
    if _is_pixellm(directory):
        pixels = PixelLMProcessor.from_pretrained(directory).image_processor
        known = config_fields(type(preset))
        settings = AutoConfig.from_pretrained(directory).vision_config.to_dict()
        settings = {key: value for key, value in settings.items() if key in known}
        return settings, pixels.image_mean, pixels.image_std
    clip = CLIPVisionConfig.from_pretrained(directory).to_diff_dict()
    sizes = {"clip": {key: value for key, value in clip.items() if key != "image_size"}}
    return preset.to_dict() | sizes, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


def encoder_weights(directory: Path, model: Any, shifted: bool = False) -> dict[str, Tensor]:
    """Return the weights of a vision encoder under the names of `model`; of a PixelLM, also of what reads it.

    With `shifted`, CLIP's position table is resized as in `resize_positions`.
    """
    if _is_pixellm(directory):
        state = read_weights(directory)
        return {key: tensor for key, tensor in state.items() if not key.startswith(ANSWERING)}
    names = model.state_dict().keys()
    return clip_weights(read_weights(directory), model.config.vision_config, names, ConversionReport(), shifted)


def _is_pixellm(directory: Path) -> bool:
    """Return whether a directory holds a whole PixelLM model rather than a CLIP."""
    return str(read_json(directory / "config.json").get("model_type")).startswith(PixelLMConfig.model_type)


def load_fitting(model: PreTrainedModel, state: Mapping[str, Tensor], prefixes: tuple[str, ...], source: Path) -> None:
    """Load the weights that fit; those with one of the prefixes have to be all there.

    Raises:
        ValueError: some are not.
    """
    own = model.state_dict()
    fitting = {key: tensor for key, tensor in state.items() if key in own and own[key].shape == tensor.shape}
    if absent := {key for key in own if key.startswith(prefixes)} - fitting.keys():
        raise ValueError(f"{source}: expected a vision encoder of the recipe's sizes, got one without {min(absent)}.")
    model.load_state_dict(fitting, strict=False)


def language_config(directory: Path) -> PreTrainedConfig:
    """Read a causal LM's configuration; LLaVA's first models are LLaMAs under another name, with a projector."""
    settings, _ = PreTrainedConfig.get_config_dict(directory)
    if settings.get("model_type") == "llava" and "hidden_size" in settings:
        return LlamaConfig.from_dict(settings | {"model_type": "llama"})
    return AutoConfig.from_pretrained(directory)


def load_language_model(model: PixelLMForConditionalGeneration, directory: Path) -> None:
    """Load the weights of a causal LM; rows for new tokens are drawn around the mean of the others."""
    config: Any = language_config(directory)
    config.num_hidden_layers = model.config.text_config.num_hidden_layers  # perhaps only its first ones
    kind = LlamaForCausalLM if isinstance(config, LlamaConfig) else AutoModelForCausalLM
    base = kind.from_pretrained(directory, config=config, dtype="auto").state_dict()
    own = model.language_model.state_dict()
    for key, tensor in base.items():
        if own[key].shape != tensor.shape:
            base[key] = with_new_rows(tensor, len(own[key]))
    model.language_model.to(next(iter(base.values())).dtype).load_state_dict(base)


def with_new_rows(table: Tensor, count: int) -> Tensor:
    """Extend an embedding table (V, D) to `count` rows, drawn around the mean of the old ones."""
    mean, std = table.float().mean(dim=0), table.float().std(dim=0)
    new = mean + 0.5 * std * torch.randn(count - len(table), table.shape[1])
    return torch.cat([table, new.to(table.dtype)])
