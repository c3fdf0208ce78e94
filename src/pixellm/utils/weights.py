"""Weight files: read without running code from them, loaded into models, written as safetensors."""

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
from pixellm.utils.model_files import expect_enough_weights, read_config, read_json, readable

MAX_SHARD = "5GB"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # as safetensors calls them
# What makes `from_pretrained` read other files than a directory's own safetensors.
ELSEWHERE = {"state_dict", "subfolder", "variant", "gguf_file", "use_safetensors"}


def read_weights(source: Path) -> dict[str, Tensor]:
    """Read all tensors of a file, or of the weight files in a directory, without running any code from them.

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
    """Tensor of a safetensors file that maps the file anew each time it is read.

    A mapping stays in memory until its last tensor is released. One mapping of the whole file would stay beside weights
    that are converted to another precision, as a second copy; one per tensor is released with it.
    """

    file: Path
    key: str

    def __getitem__(self, index: Any) -> Tensor:
        with safe_open(self.file, "pt") as reader:
            return reader.get_tensor(self.key)[index]


def mapped_weights(directory: Path, kept: torch.dtype | None = None) -> dict[str, Any]:
    """Map all tensors of a checkpoint's safetensors, each read by `[...]`; empty if it has no such files.

    Args:
        directory: directory of the checkpoint.
        kept: dtype of the model: tensors of it are used unconverted, and may share a mapping of their file.

    Raises:
        ValueError: shards are missing, or a file is damaged.
    """
    files = [directory / WEIGHTS]
    if not files[0].is_file():
        _check_shards(directory, sorted(directory.glob("*.safetensors")), INDEX)
        index = directory / INDEX
        files = [directory / name for name in sorted(shards_of(index))] if index.is_file() else []
    tensors: dict[str, Any] = {}
    for file in files:
        try:
            reader: Any = safe_open(file, "pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(_unreadable(file, error)) from None
        for key in reader.keys():  # noqa: SIM118
            whole = reader.get_slice(key)
            stays = kept in DTYPES and whole.get_dtype() == DTYPES[kept]
            tensors[key] = whole if stays else MappedTensor(file, key)
    return tensors


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide transformers' bars of loading and saving weights; afterwards its settings are as before."""
    from huggingface_hub import utils as hub
    from transformers.utils import logging as transformers_logging

    enabled, hub_enabled = transformers_logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # those of the Hub, too
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
        if not hub_enabled:
            hub.disable_progress_bars()
        elif not enabled:
            hub.enable_progress_bars()


def load_whole(load: Callable[..., Any], source: Any, *args, **kwargs) -> tuple[Any, dict]:
    """Run a `from_pretrained` without progress bars, and with every weight there and none in memory twice.

    Args:
        load: `PreTrainedModel.from_pretrained` of a model class.
        source: model to load. From a directory, weights that are converted or quantised are read one by one.
        *args: passed to `load`.
        **kwargs: passed to `load`.

    Returns:
        The model, and transformers' loading info.

    Raises:
        ValueError: the checkpoint lacks weights, has some of other shapes, or can't be read.
    """
    state, dtype, any_shape = {}, kwargs.get("dtype"), kwargs.pop("ignore_mismatched_sizes", False)
    changed = dtype == "auto" or kwargs.get("quantization_config")  # as stored, and perhaps converted afterwards
    if dtype == "auto" and source is not None and Path(source).is_dir():
        dtype = (kwargs.get("config") or read_config(source)).dtype
    if isinstance(dtype, torch.dtype) and source is not None and not kwargs.keys() & ELSEWHERE:
        state = mapped_weights(Path(source), None if changed else dtype)
        if not state:
            pickled = ", ".join(sorted(file.name for file in Path(source).glob("*.bin"))[:3])
            got = f"only {pickled}, which may hold code" if pickled else "none"
            raise ValueError(
                f"expected the model's weights as *.safetensors in {source}, got {got}. Copy or download them again; "
                "a checkpoint of the released code has to be converted first: pixellm convert"
            )
    if state:
        kwargs["config"] = kwargs.get("config") or read_config(source)
        kwargs["state_dict"] = state
        expect_enough_weights(Path(source), kwargs["config"])
    with readable(source, "the weights of a model"), without_progress_bars():
        model, info = load(
            None if state else source, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    if state:
        model.name_or_path = model.config.name_or_path = str(source)
    _expect_shapes([] if any_shape else info["mismatched_keys"], source or "the checkpoint")
    expect_all_weights(info["missing_keys"], source or "the checkpoint")
    return model, info


def _expect_shapes(mismatched: Collection[tuple[str, Any, Any]], source: object) -> None:
    """Raise a ValueError if weights of a checkpoint (`source`) are not of the shapes that its configuration says."""
    for key, got, expected in sorted(mismatched):
        raise ValueError(
            f"expected {key} of shape {tuple(expected)}, as the config.json of {source} describes it, got {tuple(got)} "
            f"in its weights ({len(mismatched)} differ). Use the config.json that was saved with them."
        )


def _check_shards(directory: Path, files: list[Path], indexes: str) -> None:
    for index in directory.glob(indexes):
        if absent := shards_of(index) - {file.name for file in files}:
            raise ValueError(f"{directory}: {index.name} names {sorted(absent)}, which are missing. Fetch them again.")


def shards_of(index: Path) -> set[str]:
    """Return the names of a checkpoint's files, which lie beside its index."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index}: expected a weight_map of weights to files, got {str(names)[:60]}. Fetch it again.")
    return set(names.values())


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
    """Raise a ValueError if a checkpoint (`source`) lacks weights of its model, which would stay random."""
    if missing:
        first = sorted(missing)[:3]
        raise ValueError(
            f"expected all weights of the model in {source}, {len(missing)} are not there "
            f"({', '.join(first)}{', …' if len(missing) > 3 else ''}). Is it complete?"
        )


def save_state(state: dict[str, Tensor], directory: Path) -> None:
    """Write a state dict as safetensors, in shards if it is large."""
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
    """Make tensors contiguous and disjoint in memory, as safetensors wants them; copy only where needed."""
    disjoint: dict[str, Tensor] = {}
    spans: list[tuple[int, int]] = []
    for key, tensor in state.items():
        tensor = tensor.contiguous()
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        overlaps = any(start < other_end and end > other for other, other_end in spans)
        disjoint[key] = tensor.clone() if overlaps else tensor
        spans.append((start, end))
    return disjoint
