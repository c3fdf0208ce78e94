"""Weight files: reading those of anyone without running their code, writing ours."""

import json
import pickle
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pixellm.embedded import make_readable

MAX_SHARD = "5GB"


def read_weights(source: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of the weight files in a directory, without running any code from them.

    Raises:
        ValueError: no weights, an unreadable or incomplete file, or a pickle that holds more than tensors.
    """
    if source.is_dir():
        safe, pickled = sorted(source.glob("*.safetensors")), sorted(source.glob("pytorch_model*.bin"))
        files = safe or pickled
        _check_shards(source, files, "*.safetensors.index.json" if safe else "*.bin.index.json")
    else:
        files = [source] if source.exists() else []
    if not files:
        raise ValueError(f"expected *.safetensors or pytorch_model*.bin in {source}, found none. Check the path.")
    state: dict[str, Tensor] = {}
    for file in files:
        state |= _read_file(file)
    return state


def _check_shards(directory: Path, files: list[Path], indexes: str) -> None:
    for index in directory.glob(indexes):
        expected = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if absent := expected - {file.name for file in files}:
            raise ValueError(f"{directory}: {index.name} names {sorted(absent)}, which are missing. Fetch them again.")


def _read_file(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as reader:
                return {key: reader.get_tensor(key) for key in reader.keys()}  # noqa: SIM118
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, SafetensorError, EOFError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{file}: expected a file of plain tensors, got one that cannot be read as such ({reason}). It is damaged, "
            "or it holds pickled code, which is never run. Fetch it again from a source that you trust."
        ) from None
    if not isinstance(loaded, dict):
        raise ValueError(f"{file}: expected a dict of tensors, got {type(loaded).__name__}. Is it a checkpoint?")
    for wrapper in ("module", "state_dict", "model"):
        if isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    return {key: value for key, value in loaded.items() if isinstance(value, Tensor)}


def expect_all_weights(missing: Collection[str], source: object) -> None:
    """A ValueError if a checkpoint (`source`) lacks weights that its model has, which would be left as drawn."""
    if missing:
        first = sorted(missing)[:3]
        raise ValueError(
            f"expected all weights of the model in {source}, {len(missing)} are not there "
            f"({', '.join(first)}{', …' if len(missing) > 3 else ''}). Is it complete?"
        )


def save_state(state: dict[str, Tensor], directory: Path) -> None:
    """Write a state dict as safetensors, in shards where it is large."""
    plan = split_torch_state_dict_into_shards(
        state, filename_pattern="model{suffix}.safetensors", max_shard_size=MAX_SHARD
    )
    for name, keys in plan.filename_to_tensors.items():
        save_file({key: state[key].contiguous().clone() for key in keys}, directory / name, {"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    make_readable(directory)


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"expected a JSON file at {path} ({error}). Is this the checkpoint's directory?") from None
