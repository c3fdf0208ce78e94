"""What training starts from: a whole model, none of whose modules is drawn anew, or a language model and an encoder."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from pixellm.baselines.lisa import LisaConfig, LisaImageProcessor
from pixellm.baselines.lisa.start import sam_settings, sam_weights
from pixellm.baselines.seem import SeemConfig, SeemForGrounding, SeemProcessor
from pixellm.checkpoints.conversion_report import Report
from pixellm.checkpoints.convert import clip_weights
from pixellm.hub.models import MINI, resolve
from pixellm.hub.presets import PRESETS
from pixellm.mini.build import form_ids
from pixellm.mini.parts import LANGUAGE_MODEL, fetch_language_model
from pixellm.model import (
    PixelLMConfig,
    PixelLMForConditionalGeneration,
    PixelLMImageProcessor,
    PixelLMProcessor,
    PixelLMVisionConfig,
)
from pixellm.model.processing import add_codebook_tokens
from pixellm.model.templates import CHATML, IMAGE_MARKERS, VICUNA
from pixellm.train.recipe import ModelStart, check_names
from pixellm.utils.weights import read_json, read_weights

ANSWERING = ("language_model.", "codebook.", "pixel_decoder.")  # not taken over with another model's vision encoder


Model = PixelLMForConditionalGeneration | SeemForGrounding
Processor = PixelLMProcessor | SeemProcessor


def load(start: ModelStart, seed: int) -> tuple[Model, Processor]:
    """The model, its weights in the precision that they are stored in, and its processor.

    Raises:
        ValueError: neither a whole model nor both parts are given, or one can't be had.
    """
    if start.model:
        directory = resolve(start.model)
        config = AutoConfig.from_pretrained(directory, **start.settings)
        model: Any = AutoModel.from_pretrained(directory, config=config, dtype="auto")
        kind = SeemProcessor if isinstance(model, SeemForGrounding) else PixelLMProcessor
        return model, kind.from_pretrained(directory)
    config, processor = describe(start)
    torch.manual_seed(seed)
    model: Any = AutoModel.from_config(config)
    read = _load_text_encoder if isinstance(model, SeemForGrounding) else _load_language_model
    read(model, _language_model(start.language_model or ""))
    own = model.state_dict()
    state = _encoder_weights(start.vision_model or "", config, own)
    if start.sam_model:
        state |= sam_weights(start.sam_model)
    fitting = {key: t for key, t in state.items() if key in own and own[key].shape == t.shape}
    pretrained = ("vision_encoder.", *(("sam_encoder.", "pixel_decoder.") if start.sam_model else ()))
    if absent := {key for key in own if key.startswith(pretrained)} - fitting.keys():
        raise ValueError(
            f"{start.vision_model}: expected a vision encoder of the recipe's sizes, got one without {min(absent)}."
        )
    model.load_state_dict(fitting, strict=False)
    return model, processor


def describe(start: ModelStart) -> tuple[PixelLMConfig, PixelLMProcessor] | tuple[SeemConfig, SeemProcessor]:
    """Configuration and processor of a model made of parts; reads their settings and the tokenizer alone.

    Raises:
        ValueError: a part or the preset is not given, or is of another kind.
    """
    if not (start.language_model and start.vision_model and start.preset):
        raise ValueError(
            "start: expected a model, or a preset with language_model and vision_model, got "
            f"{start}. Name what training starts from."
        )
    if start.preset not in PRESETS:
        raise ValueError(f"start: expected a preset, got {start.preset!r}. Known: {', '.join(PRESETS)}.")
    preset = PRESETS[start.preset]()
    if isinstance(preset, SeemConfig):
        return _describe_seem(start, preset)
    settings = preset.to_dict() | dict(start.settings)
    with_sam = isinstance(preset, LisaConfig) and preset.sam_vision_config is not None
    if with_sam != bool(start.sam_model):
        raise ValueError(
            f"start: expected {'a' if with_sam else 'no'} sam_model with the preset {start.preset}, got "
            f"{start.sam_model}."
        )
    if start.sam_model:
        settings |= sam_settings(start.sam_model)
    language_model = _language_model(start.language_model)
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    tokens = add_codebook_tokens(tokenizer, settings["num_scales"] * settings["tokens_per_scale"])
    template = CHATML if "<|im_start|>" in tokenizer.get_vocab() else VICUNA
    if template is VICUNA:
        absent = [token for token in IMAGE_MARKERS if token not in tokenizer.get_vocab()]
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in absent])
    text = _language_config(language_model)
    text.vocab_size = max(text.vocab_size, len(tokenizer))
    vision, mean, std = _vision(start.vision_model, preset.vision_config)
    vision |= start.settings.get("vision_config", {})
    settings |= {
        "text_config": _with_layers(text.to_dict(), start.settings.get("text_config", {})),
        "vision_config": vision,
        "codebook_ids": tokenizer.convert_tokens_to_ids(tokens),
        "vocabulary_ids": [form_ids(tokenizer, name) for name in vision["vocabulary"]],
    }
    config = type(preset).from_dict(settings)
    size = config.vision_config.image_size
    if with_sam:
        image_processor = LisaImageProcessor(config.sam_vision_config.image_size, size, mean, std)
    else:
        image_processor = PixelLMImageProcessor(size, mean, std)
    processor = PixelLMProcessor(image_processor, tokenizer, tokens, config.num_image_tokens, **template)
    return config, processor


def _describe_seem(start: ModelStart, preset: SeemConfig) -> tuple[SeemConfig, SeemProcessor]:
    """As many of the language model's first layers as the preset says are the text encoder."""
    language_model = _language_model(start.language_model or "")
    text = _language_config(language_model).get_text_config().to_dict()
    layers = {"num_hidden_layers": preset.text_config.num_hidden_layers}
    vision, mean, std = _vision(start.vision_model or "", preset.vision_config)
    own = {"image_size": preset.vision_config.image_size, "vocabulary": ()}
    settings = {
        "text_config": _with_layers(text, layers | dict(start.settings.get("text_config", {}))),
        "vision_config": vision | own | dict(start.settings.get("vision_config", {})),
    }
    config = SeemConfig.from_dict(preset.to_dict() | dict(start.settings) | settings)
    image_processor = PixelLMImageProcessor(config.vision_config.image_size, mean, std)
    return config, SeemProcessor(image_processor, AutoTokenizer.from_pretrained(language_model), config.max_tokens)


def _with_layers(text: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A language model's settings with changes; a ValueError if it has no such setting, or not so many layers."""
    check_names(changes, text.keys(), "settings: text_config")
    if changes.get("num_hidden_layers", 0) > text["num_hidden_layers"]:
        raise ValueError(
            f"text_config: expected at most the {text['num_hidden_layers']} layers of the language model, got "
            f"{changes['num_hidden_layers']}."
        )
    return text | dict(changes)


def _vision(name: str, preset: PixelLMVisionConfig) -> tuple[dict[str, Any], Sequence[float], Sequence[float]]:
    """Settings of a vision encoder, and the mean and spread of the pixels that it was trained with."""
    if _is_pixellm(name):
        directory = resolve(name)
        pixels = PixelLMProcessor.from_pretrained(directory).image_processor
        return PixelLMConfig.from_pretrained(directory).vision_config.to_dict(), pixels.image_mean, pixels.image_std
    clip = CLIPVisionConfig.from_pretrained(name).to_diff_dict()
    sizes = {"clip": {key: value for key, value in clip.items() if key != "image_size"}}
    return preset.to_dict() | sizes, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


def _encoder_weights(name: str, config: PixelLMConfig, own: Collection[str]) -> dict[str, Tensor]:
    """Weights of a vision encoder under our names (`own`); of a PixelLM model, also of what reads it."""
    if _is_pixellm(name):
        state = read_weights(resolve(name))
        return {key: tensor for key, tensor in state.items() if not key.startswith(ANSWERING)}
    return clip_weights(read_weights(_directory(name)), config, own, Report())


def _is_pixellm(name: str) -> bool:
    """Whether a name is that of a whole PixelLM model, whose encoder is meant, and not of a CLIP."""
    file = Path(name) / "config.json"
    return name == MINI or (file.is_file() and read_json(file).get("model_type") == PixelLMConfig.model_type)


def _language_model(name: str) -> str:
    """Where a language model is: a Hub id, a directory, or the embedded one."""
    return str(fetch_language_model()) if name == LANGUAGE_MODEL.name else name


def _language_config(name: str) -> PreTrainedConfig:
    """A causal LM's configuration; LLaVA's first models are LLaMAs under another name, with a projector beside them."""
    settings, _ = PreTrainedConfig.get_config_dict(name)
    if settings.get("model_type") == "llava" and "hidden_size" in settings:
        return LlamaConfig.from_dict(settings | {"model_type": "llama"})
    return AutoConfig.from_pretrained(name)


def _load_language_model(model: PixelLMForConditionalGeneration, name: str) -> None:
    """Weights of a causal LM; rows for new tokens start near the mean of the others."""
    config: Any = _language_config(name)
    config.num_hidden_layers = model.config.text_config.num_hidden_layers  # perhaps only its first ones
    kind = LlamaForCausalLM if isinstance(config, LlamaConfig) else AutoModelForCausalLM
    base = kind.from_pretrained(name, config=config, dtype="auto").state_dict()
    own = model.language_model.state_dict()
    for key, tensor in base.items():
        if own[key].shape != tensor.shape:
            base[key] = _with_rows(tensor, len(own[key]))
    model.language_model.to(next(iter(base.values())).dtype).load_state_dict(base)


def _load_text_encoder(model: SeemForGrounding, name: str) -> None:
    """Weights of a causal LM's first layers, or of CLIP's text encoder."""
    found: Any = AutoModel.from_pretrained(
        name, config=model.config.text_config, dtype="auto", output_loading_info=True
    )
    base, info = found
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{name}: expected a text encoder of the recipe's sizes, got one without {missing[0]}.")
    model.text_encoder.to(base.dtype).load_state_dict(base.state_dict())


def _with_rows(table: Tensor, count: int) -> Tensor:
    """An embedding table (V, D) with new rows, drawn around the mean of the old ones, up to `count`."""
    mean, spread = table.float().mean(dim=0), table.float().std(dim=0)
    new = mean + 0.5 * spread * torch.randn(count - len(table), table.shape[1])
    return torch.cat([table, new.to(table.dtype)])


def _directory(name: str) -> Path:
    return Path(name) if Path(name).is_dir() else Path(snapshot_download(name))
