"""pixellm-mini for the runtime without torch: shipped graphs, shipped weights and a fetched language model.

Weights are those that `pixellm.checkpoints.assemble` makes: the base in bfloat16, merged with the adapters, in fp16.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pixellm.mini.parts import PRETRAINED
from pixellm.runtime.llama_gguf import read_llama, to_bfloat16
from pixellm.runtime.manifest import MANIFEST, WEIGHTS, Manifest
from pixellm.runtime.optimised import optimise_graphs
from pixellm.runtime.packing import write_weights
from pixellm.utils.cache import announce

SHIPPED = PRETRAINED / "graphs"
LLM, ROWS = "language_model.", "language_model.codebook_rows"
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"  # one matrix
_ADAPTER = re.compile(r"(?P<target>.+)\.lora_A(?:\.default)?\.weight")


def prepare_mini(gguf: Path, out: Path) -> None:
    """Write pixellm-mini as `pixellm.graphs.export` would.

    Args:
        gguf: SmolLM2's file.
        out: an empty directory.
    """
    announce("preparing pixellm-mini")
    for file in SHIPPED.iterdir():
        shutil.copyfile(file, out / file.name)
    write_weights(out / WEIGHTS, Manifest.read(out / MANIFEST).tensors, weight_reader(gguf))
    optimise_graphs(out)


def weight_reader(gguf: Path) -> Callable[[str], np.ndarray]:
    """Return a function that gives each weight of the complete checkpoint, by its key, in fp32."""
    from safetensors import safe_open

    base = read_llama(gguf)
    trained = safe_open(PRETRAINED / "model.safetensors", "np")
    alpha = float(trained.metadata()["lora_alpha"])
    keys = set(trained.keys())
    adapters = {match["target"]: key for key in keys if (match := _ADAPTER.fullmatch(key))}

    def read(key: str) -> np.ndarray:
        if key in keys:
            return _plain(trained.get_tensor(key))
        own = key.removeprefix(LLM)
        weight = to_bfloat16(base[TABLE if own == HEAD else own]).astype(np.float16)
        if own in (TABLE, HEAD):
            return _plain(np.concatenate([weight, trained.get_tensor(ROWS).astype(np.float16)]))
        if a_key := adapters.get(key.removesuffix(".weight")):
            a = trained.get_tensor(a_key).astype(np.float32)
            b = trained.get_tensor(a_key.replace(".lora_A", ".lora_B")).astype(np.float32)
            weight = (weight.astype(np.float32) + alpha / len(a) * b @ a).astype(np.float16)
        return _plain(weight)

    return read


def _plain(weight: np.ndarray) -> np.ndarray:
    return weight.astype(np.float32) if weight.dtype == np.float16 else weight
