"""Whatever answers questions about photographs, by one name: PixelLM and the baselines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, PreTrainedModel

import pixellm.baselines.lisa  # noqa: F401, so that transformers knows it
from pixellm.baselines.sam2 import Sam2Grounder
from pixellm.baselines.seem import SeemConfig, SeemForGrounding, SeemPredictor
from pixellm.baselines.two_stage import Grounder, ModelGrounder, ModelNamer, Namer, PhraseGrounder, TwoStage
from pixellm.baselines.vision_server import VisionServer
from pixellm.eval.resumable import identify
from pixellm.hub.models import resolve
from pixellm.inference.quantization import Quantize
from pixellm.predictor import Predictor
from pixellm.types import Segmenter
from pixellm.utils.weights import read_json

SAM2_TYPES = ("sam2", "sam2_video")  # checkpoints of both hold the image model
SAM2_ID = "facebook/sam2"  # what its Hub ids begin with
SERVER = "@"  # MODEL@URL


def load_segmenter(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    sampling: Mapping[str, Any] | None = None,
    namer: str | None = None,
    quantize: Quantize | None = None,
) -> Segmenter:
    """A trained model, or two in a row, ready to be asked.

    Args:
        name: see `pixellm.hub.models.resolve`; behind a namer that points also a SAM 2, its directory or Hub id.
        device: where it runs.
        dtype: in which precision.
        sampling: see `pixellm.inference.generation.Sampling`; None: the defaults of the model.
        namer: what first says in words which things are meant, of which `name` then segments each: a model's name, or
            MODEL@URL for one behind an OpenAI-compatible server.
        quantize: of a language model's weights, see `Predictor.load`.

    Raises:
        ValueError: no such model, a directory that does not hold one, or `sampling` or `quantize` for one that writes
            nothing.
    """
    if namer is not None:
        return _two_stages(name, device, dtype, sampling, namer, quantize)
    directory = resolve(name)
    if not isinstance(AutoConfig.from_pretrained(directory), SeemConfig):
        return Predictor.load(directory, device, dtype, sampling=sampling, quantize=quantize)
    if given := [*(sampling or ()), *(["quantize"] if quantize else [])]:
        raise ValueError(
            f"expected no {', '.join(given)} for {name}, which is SEEM-style: it writes no text. Leave that out."
        )
    return SeemPredictor.load(directory, device, dtype)


def segmenter_of(model: PreTrainedModel, processor: Any, sampling: Mapping[str, Any] | None = None) -> Segmenter:
    """What asks a model that is here already; `sampling`, as above, is for those that write."""
    if isinstance(model, SeemForGrounding):
        return SeemPredictor(model, processor)
    return Predictor(model, processor, sampling=sampling)


def weights_of(name: str | Path, namer: str | None = None, quantize: Quantize | None = None) -> str:
    """What identifies the weights of a system: a digest of each directory, and of a server what it is called."""
    first = [] if namer is None else [namer if SERVER in namer else identify(resolve(namer))]
    directory = resolve(name) if namer is None else _second(name)
    return " ".join([*first, identify(directory), *([quantize] if quantize else [])])


def _second(name: str | Path) -> Path:
    """Directory of a second stage, fetched or built first if need be."""
    config = Path(name) / "config.json"
    if config.is_file() and read_json(config).get("model_type") in SAM2_TYPES:
        return Path(name)
    return Path(snapshot_download(str(name))) if str(name).startswith(SAM2_ID) else resolve(name)


def _two_stages(
    name: str | Path,
    device: str | torch.device,
    dtype: torch.dtype,
    sampling: Mapping[str, Any] | None,
    namer: str,
    quantize: Quantize | None,
) -> TwoStage:
    directory = _second(name)
    kind = read_json(directory / "config.json").get("model_type")
    model, at, url = namer.partition(SERVER)
    silent = kind in (*SAM2_TYPES, SeemConfig.model_type)
    if quantize and at and silent:
        raise ValueError(f"expected no quantize for {name} after {namer}: no language model is loaded. Leave it out.")
    writer = None if at else Predictor.load(namer, device, dtype, sampling=sampling, quantize=quantize)
    names: Namer = VisionServer(model, url or None) if writer is None else ModelNamer(writer)
    grounder: Grounder
    if kind in SAM2_TYPES:
        grounder = Sam2Grounder.load(directory, device)
    elif writer is not None and directory == resolve(namer):  # LISA_rec: one model for both
        grounder = ModelGrounder(writer)
    else:
        segmenter = load_segmenter(directory, device, dtype, quantize=None if silent else quantize)
        grounder = PhraseGrounder(segmenter) if isinstance(segmenter, SeemPredictor) else ModelGrounder(segmenter)
    return TwoStage(names, grounder)
