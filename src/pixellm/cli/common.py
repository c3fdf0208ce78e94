"""What the commands share: consoles, options, and how talkative the libraries below are."""

import atexit
import gc
import logging
import os
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    import torch

out_console = Console(highlight=False, markup=False, soft_wrap=True)
err_console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

Model = Annotated[str, typer.Option(help="A name of `pixellm models list`, a Hugging Face Hub id, or a directory.")]
NamerOption = Annotated[
    str | None,
    typer.Option(
        "--namer",
        help="In two stages: this model first names the things in words (a name as of --model, or MODEL@URL of an "
        "OpenAI-compatible server), then --model segments each.",
    ),
]
File = typer.Option(exists=True, dir_okay=False)
Folder = typer.Option(exists=True, file_okay=False)


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Dtype(StrEnum):
    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Quantization(StrEnum):
    INT8 = "int8"
    INT4 = "int4"


def _with_torchao(value: Quantization | None) -> Quantization | None:
    if value is not None and find_spec("torchao") is None:
        raise ModuleNotFoundError("No module named 'torchao'", name="torchao")
    return value


QuantizeOption = Annotated[
    Quantization | None,
    typer.Option(
        "--quantize",
        callback=_with_torchao,
        help="Language model's weights at 8 or 4 bits: less memory, and on a CPU quicker words.",
    ),
]


def device_and_dtype(device: Device, dtype: Dtype) -> "tuple[str, torch.dtype]":
    import torch

    if device is Device.CUDA and not torch.cuda.is_available():
        raise ValueError("expected a CUDA device, found none. Use --device cpu, or install torch for your GPU.")
    available = device is not Device.CPU and torch.cuda.is_available()
    automatic = torch.bfloat16 if available else torch.float32
    # `torchrun` gives each of its processes a GPU of its own.
    where = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if available else "cpu"
    return where, automatic if dtype is Dtype.AUTO else getattr(torch, dtype.value)


def quieten_transformers() -> None:
    """Keep transformers' and torch's advice out of our output; they read this when they are imported."""
    if not debugging():
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        # Where torchao is installed, transformers imports it, of which torch has something to say.
        os.environ.setdefault("TORCH_LOGS", "-torch.utils._pytree")


def collect_less() -> None:
    """Have Python look for garbage less often, and not at the end.

    Importing torch and transformers makes objects by the million, which all stay: going through them again and again
    is a third of the time to a first answer.
    """
    gc.set_threshold(5_000)
    atexit.register(gc.freeze)


def hide_loading_bars() -> None:
    """Of weights that are here; not earlier, because the bars of downloads go with them."""
    if not debugging():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()


def log_progress() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pixellm").setLevel(logging.INFO if is_first_process() else logging.WARNING)


def is_first_process() -> bool:
    """Of several that train together, one talks."""
    return os.environ.get("RANK", "0") == "0"


def print_lines(*lines: str) -> None:
    for line in lines:
        out_console.print(line)


def debugging() -> bool:
    return os.environ.get("PIXELLM_DEBUG", "0") not in ("", "0")
