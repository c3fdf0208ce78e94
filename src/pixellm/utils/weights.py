"""Weight files: reading those of anyone without running their code, writing ours."""

import json
import pickle
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pixellm.utils.files import make_readable

MAX_SHARD = "5GB"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # as safetensors calls them
# What makes `from_pretrained` read other files than a directory's own safetensors.
ELSEWHERE = {"state_dict", "subfolder", "variant", "gguf_file", "use_safetensors"}


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


@dataclass(frozen=True)
class MappedTensor:
    """One tensor of a safetensors file; reading it maps the file anew.

    A mapping keeps what was read of it in memory until its last tensor is gone. One for the whole file would stay
    beside weights that are made from it in another precision, as a second copy; one for each tensor goes with that.
    """

    file: Path
    key: str

    def __getitem__(self, index: Any) -> Tensor:
        with safe_open(self.file, "pt") as reader:
            return reader.get_tensor(self.key)[index]


def mapped_weights(directory: Path, kept: torch.dtype | None = None) -> dict[str, Any]:
    """All tensors of a checkpoint's safetensors, each to be read by `[...]`; none if it has no such files.

    Args:
        directory: of the checkpoint.
        kept: those of this dtype will be used as they are, so that they may share a mapping of their file.

    Raises:
        ValueError: shards are missing, or a file is damaged.
    """
    files = [directory / WEIGHTS]
    if not files[0].is_file():
        _check_shards(directory, sorted(directory.glob("*.safetensors")), INDEX)
        index = directory / INDEX
        shards = read_json(index)["weight_map"].values() if index.is_file() else ()
        files = [directory / name for name in sorted(set(shards))]
    found: dict[str, Any] = {}
    for file in files:
        try:
            reader: Any = safe_open(file, "pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(_unreadable(file, error)) from None
        for key in reader.keys():  # noqa: SIM118
            whole = reader.get_slice(key)
            stays = kept in DTYPES and whole.get_dtype() == DTYPES[kept]
            found[key] = whole if stays else MappedTensor(file, key)
    return found


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide transformers' bars of loading weights; afterwards its settings are as before."""
    from huggingface_hub import utils as hub
    from transformers.utils import logging as transformers_logging

    shown, hub_shown = transformers_logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # those of the Hub, too
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
        if not hub_shown:
            hub.disable_progress_bars()
        elif not shown:
            hub.enable_progress_bars()


def load_whole(load: Callable[..., Any], config_class: type, source: Any, *args, **kwargs) -> tuple[Any, dict]:
    """Model and loading info of a `from_pretrained`, every weight there, none in memory twice meanwhile.

    Args:
        load: `PreTrainedModel.from_pretrained` of a class.
        config_class: that class's.
        source: what to load. From a directory, weights that become others (by `dtype`, or quantised) are read one by
            one.
        *args: for `load`.
        **kwargs: for `load`.

    Raises:
        ValueError: the checkpoint lacks weights, or can't be read.
    """
    state, dtype = {}, kwargs.get("dtype")
    if isinstance(dtype, torch.dtype) and source is not None and not kwargs.keys() & ELSEWHERE:
        state = mapped_weights(Path(source), None if kwargs.get("quantization_config") else dtype)
    if state:
        kwargs["config"] = kwargs.get("config") or config_class.from_pretrained(source)
        kwargs["state_dict"] = state
    with without_progress_bars():
        model, info = load(None if state else source, *args, output_loading_info=True, **kwargs)
    if state:
        model.name_or_path = model.config.name_or_path = str(source)
    expect_all_weights(info["missing_keys"], source or "the checkpoint")
    return model, info


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
        raise ValueError(_unreadable(file, error)) from None
    if not isinstance(loaded, dict):
        raise ValueError(f"{file}: expected a dict of tensors, got {type(loaded).__name__}. Is it a checkpoint?")
    for wrapper in ("module", "state_dict", "model"):
        if isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    return {key: value for key, value in loaded.items() if isinstance(value, Tensor)}


def _unreadable(file: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"{file}: expected a file of plain tensors, got one that cannot be read as such ({reason}). It is damaged, "
        "or it holds pickled code, which is never run. Fetch it again from a source that you trust."
    )


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
        save_file(_apart({key: state[key] for key in keys}), directory / name, {"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (directory / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    make_readable(directory)


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous, and no two in the same memory, which safetensors refuses; only what has to be is copied."""
    apart: dict[str, Tensor] = {}
    taken: list[tuple[int, int]] = []
    for key, tensor in state.items():
        tensor = tensor.contiguous()
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        apart[key] = tensor.clone() if any(start < other_end and end > other for other, other_end in taken) else tensor
        taken.append((start, end))
    return apart


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"expected a JSON file at {path} ({error}). Is this the checkpoint's directory?") from None
