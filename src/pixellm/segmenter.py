"""Segmenters by name: PixelLM, the baselines, and two stages of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

import pixellm.baselines.lisa
import pixellm.mini.lisa  # noqa: F401, both register their classes with transformers
from pixellm.backbones import BackboneConfig, BackboneForConditionalGeneration, BackboneProcessor
from pixellm.backbones.predictor import BackbonePredictor
from pixellm.baselines.florence2 import Florence2Segmenter
from pixellm.baselines.phrases import PhraseSegmenter
from pixellm.baselines.sam2 import Sam2Grounder
from pixellm.baselines.sam3 import Sam3Grounder, Sam3Segmenter
from pixellm.baselines.seem import SeemConfig, SeemPredictor
from pixellm.baselines.two_stage import Grounder, ModelGrounder, ModelNamer, Namer, PhraseGrounder, TwoStage
from pixellm.baselines.vision_server import VisionServer
from pixellm.cost.memory import LoadOptions, expect_room
from pixellm.hub.models import MINI, resolve
from pixellm.hub.systems import FLORENCE2_TYPE, OTHER_TYPES, SAM2_TYPES, SAM3_TYPES, SERVER, kind_of, resolve_system
from pixellm.inference.quantization import Quantize, load_quantised
from pixellm.model import PixelLMConfig, PixelLMProcessor
from pixellm.predictor import Predictor
from pixellm.types import Segmenter
from pixellm.utils.checks import check_min_score
from pixellm.utils.model_files import read_config, readable


def load(
    name: str | Path = MINI,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    system: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    quantize: Quantize | None = None,
    min_score: float = 0.0,
) -> Predictor:
    """Load a model by name (`pixellm models list`), by Hugging Face Hub id, or from a directory.

    Args:
        name: name, Hub id or directory.
        device: device of the weights.
        dtype: precision of the weights.
        system: see `Predictor`.
        sampling: see `Predictor`.
        quantize: 8 or 4 bits for the language model's weights, see `pixellm.inference.quantization`.
        min_score: see `Predictor`.

    Raises:
        ValueError: no such model, a directory that does not hold one, weights that don't fit into memory, or a wrong
            `min_score`.
        ModuleNotFoundError: torchao is missing, which quantises weights (the extra `quant`).
    """
    check_min_score(min_score)  # before the weights are read
    directory = resolve(str(name))
    config = read_config(directory)
    if not isinstance(config, PixelLMConfig | BackboneConfig):
        raise ValueError(f"expected a model that writes answers in {directory}, got a {config.model_type!r}.")
    expect_room(directory, config, LoadOptions(dtype, quantize, str(device)))
    if quantize is None:
        model = AutoModel.from_pretrained(directory, dtype=dtype).to(device)
    else:
        model = load_quantised(directory, config, quantize, torch.device(device), dtype)
    if isinstance(model, BackboneForConditionalGeneration):
        processor = BackboneProcessor.from_pretrained(directory)
        return BackbonePredictor(model, processor, system, sampling, min_score=min_score)
    assert isinstance(config, PixelLMConfig)
    return Predictor(model, _processor(directory, config), system, sampling, min_score=min_score)


def _processor(directory: Path, config: PixelLMConfig) -> PixelLMProcessor:
    """Load the processor of a model; a ValueError if it belongs to one of other sizes."""
    processor = PixelLMProcessor.from_pretrained(directory)
    both = {
        "number of image tokens": (config.num_image_tokens, processor.num_image_tokens),
        "codebook ids": (config.codebook_ids, processor.codebook_ids),
    }
    for name, (expected, got) in both.items():
        if expected != got:
            raise ValueError(
                f"expected a processor_config.json in {directory} with the {name} of its config.json, {expected}, "
                f"got {got}. Use the files that were saved together."
            )
    with readable(directory, "a processor_config.json with the templates of a chat"):
        if not processor.prompt_ids("") or not processor.prefix_ids:
            raise ValueError("no prompt")
    return processor


def load_segmenter(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    sampling: Mapping[str, Any] | None = None,
    namer: str | None = None,
    quantize: Quantize | None = None,
    min_score: float = 0.0,
) -> Segmenter:
    """Load a trained model, or two stages.

    Args:
        name: see `pixellm.hub.models.resolve`; also the directory or Hub id of a SAM 3 or a Florence-2, and after a
            namer that points of a SAM 2.
        device: device of the weights.
        dtype: precision of the weights.
        sampling: see `pixellm.inference.generation.Sampling`; None: the defaults of the model.
        namer: first stage, which names the objects that `name` then segments: a model's name, or MODEL@URL for one
            behind an OpenAI-compatible server.
        quantize: precision of the language model's weights, see `load`.
        min_score: 0..1, targets with a lower confidence are left out of answers; of two stages, the second one's.

    Raises:
        ValueError: no such model, a directory that does not hold one, `sampling` or `quantize` for a model that
            generates no text, or a wrong `min_score`.
    """
    least = check_min_score(min_score)
    segmenter = _load_segmenter(name, device, dtype, sampling, namer, quantize)
    segmenter.min_score = least
    return segmenter


def _load_segmenter(
    name: str | Path,
    device: str | torch.device,
    dtype: torch.dtype,
    sampling: Mapping[str, Any] | None,
    namer: str | None,
    quantize: Quantize | None,
) -> Segmenter:
    if namer is not None:
        return _two_stages(name, device, dtype, sampling, namer, quantize)
    directory = resolve_system(name)
    kind = kind_of(directory)
    if kind not in (*OTHER_TYPES, SeemConfig.model_type):
        return load(directory, device, dtype, sampling=sampling, quantize=quantize)
    if options := [*(sampling or ()), *(["quantize"] if quantize else [])]:
        raise ValueError(
            f"expected no {', '.join(options)} for {name}, which segments phrases: it writes no text. Leave that out."
        )
    if kind in SAM2_TYPES:
        raise ValueError(f"expected a system that reads questions, got the SAM 2 {name}. Add a namer that points.")
    return _phrase_segmenter(directory, kind, device, dtype)


def _phrase_segmenter(
    directory: Path, kind: str, device: str | torch.device, dtype: torch.dtype
) -> PhraseSegmenter | SeemPredictor:
    """Load a system that segments phrases."""
    read_config(directory)  # its errors name what is wrong
    if kind in SAM3_TYPES:
        return Sam3Segmenter.load(directory, device, dtype)
    if kind == FLORENCE2_TYPE:
        return Florence2Segmenter.load(directory, device, dtype)
    return SeemPredictor.load(directory, device, dtype)


def _two_stages(
    name: str | Path,
    device: str | torch.device,
    dtype: torch.dtype,
    sampling: Mapping[str, Any] | None,
    namer: str,
    quantize: Quantize | None,
) -> TwoStage:
    directory = resolve_system(name)
    kind = kind_of(directory)
    model, at, url = namer.partition(SERVER)
    without_text = kind in (*OTHER_TYPES, SeemConfig.model_type)
    if quantize and at and without_text:
        raise ValueError(f"expected no quantize for {name} after {namer}: no language model is loaded. Leave it out.")
    writer = None if at else load(namer, device, dtype, sampling=sampling, quantize=quantize)
    names: Namer = VisionServer(model, url or None) if writer is None else ModelNamer(writer)
    grounder: Grounder
    shared = writer is not None and directory == resolve(namer)  # LISA_rec: one model for both
    if kind in SAM2_TYPES:
        grounder = Sam2Grounder.load(directory, device)
    elif without_text:
        segmenter = _phrase_segmenter(directory, kind, device, dtype)
        grounder = Sam3Grounder(segmenter) if isinstance(segmenter, Sam3Segmenter) else PhraseGrounder(segmenter)
    elif writer is not None and shared:
        grounder = ModelGrounder(writer)
    else:
        grounder = ModelGrounder(load(directory, device, dtype, quantize=quantize))
    return TwoStage(names, grounder, shared)
