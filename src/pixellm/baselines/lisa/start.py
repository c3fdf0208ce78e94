"""A pretrained SAM, in transformers' format, as LISA's training starts from it."""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import SamConfig

from pixellm.utils.weights import read_json, read_weights

_PARTS = {
    "vision_encoder.": "sam_encoder.",
    "mask_decoder.": "pixel_decoder.mask_decoder.",
    "shared_image_embedding.positional_embedding": "pixel_decoder.frequencies",
    "prompt_encoder.no_mask_embed.weight": "pixel_decoder.no_mask_embed",
}


def sam_settings(name: str) -> dict[str, Any]:
    """Fields of `LisaConfig` that say the sizes of a SAM; `name` is a Hub id or a directory.

    Raises:
        ValueError: it is no SAM.
    """
    directory = _directory(name)
    kind = read_json(directory / "config.json").get("model_type")
    if kind != "sam":
        raise ValueError(f"sam_model: expected a SAM in transformers' format, got {name}, a model of type {kind!r}.")
    config = SamConfig.from_pretrained(directory)
    decoder = config.mask_decoder_config.to_diff_dict() | {"layer_norm_eps": 1e-5}  # see `LisaConfig`
    return {
        "sam_vision_config": config.vision_config.to_diff_dict(),
        "sam_decoder_config": decoder,
        "decoder_dim": config.mask_decoder_config.hidden_size,
    }


def sam_weights(name: str) -> dict[str, Tensor]:
    """The weights of a SAM under our names, without what reads points, boxes and masks."""
    found = {}
    for key, tensor in read_weights(_directory(name)).items():
        start = next((start for start in _PARTS if key.startswith(start)), None)
        if start:
            found[_PARTS[start] + key.removeprefix(start)] = tensor
    return found


def _directory(name: str) -> Path:
    return Path(name) if Path(name).is_dir() else Path(snapshot_download(name))
