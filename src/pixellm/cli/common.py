"""Options, consoles and output files that the commands share, and how much the libraries below may print."""

import atexit
import gc
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    import torch
    from rich.table import Table
    from rich.tree import Tree

out_console = Console(highlight=False, markup=False, soft_wrap=True)
err_console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

STDOUT = Path("-")  # as an output file: standard output
WIDE = 1000  # characters of a line in a pipe or a file
INTERRUPTED = "interrupted"
FINISHING = "finishing what is in flight (Ctrl-C again drops it)"

Model = Annotated[
    str, typer.Option(help="Model: a name of `pixellm models list`, a Hugging Face Hub id, or a directory.")
]
NamerOption = Annotated[
    str | None,
    typer.Option(
        "--namer",
        help="Model that names the objects first (a name as for --model, or MODEL@URL of an OpenAI-compatible server); "
        "--model then segments each of them.",
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


class Runtime(StrEnum):
    AUTO = "auto"
    ONNX = "onnx"
    TORCH = "torch"


RuntimeOption = Annotated[
    Runtime,
    typer.Option(help="Runtime of the model; auto: onnx where the model has graphs and no GPU is there, else torch."),
]
DeviceOption = Annotated[Device, typer.Option(help="Device of the model; auto: a GPU if there is one.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Type of the weights; auto: bfloat16 on a GPU, else float32.")]


class Quantization(StrEnum):
    INT8 = "int8"
    INT4 = "int4"


def _with_torchao(value: Quantization | None) -> Quantization | None:
    if value is not None and find_spec("torchao") is None:
        raise ModuleNotFoundError("No module named 'torchao'", name="torchao")
    return value


MinScoreOption = Annotated[
    float,
    typer.Option(
        "--min-score",
        min=0,
        max=1,
        help="Least presence score (score, where the model gives none) of the masks that are given out; 0: all.",
    ),
]
QuantizeOption = Annotated[
    Quantization | None,
    typer.Option(
        "--quantize",
        callback=_with_torchao,
        help="Quantise the language model's weights to 8 or 4 bits: less memory, and faster decoding on a CPU.",
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


def runs_graphs(runtime: Runtime, model: str | Path, needs_torch: bool) -> bool:
    """Return whether onnxruntime runs a model.

    Args:
        runtime: as chosen.
        model: its name or directory.
        needs_torch: other options ask for what only torch can do.

    Raises:
        ValueError: onnxruntime is chosen together with such options.
    """
    if runtime is Runtime.ONNX and needs_torch:
        raise ValueError(
            "expected no --device cuda, --dtype, --quantize, --namer or --num-gpus with --runtime onnx. Leave them out."
        )
    if runtime is not Runtime.AUTO:
        return runtime is Runtime.ONNX
    from pixellm.hub.models import has_graphs

    if needs_torch or not has_graphs(model):
        return False
    return find_spec("torch") is None or shutil.which("nvidia-smi") is None


def quieten_transformers() -> None:
    """Keep transformers' advice out of the output; call it before it is imported."""
    if not debugging():
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def collect_less() -> None:
    """Collect garbage less often, and not at exit.

    Importing torch and transformers creates millions of objects, which all stay: scanning them takes a third of the
    time to a first answer.
    """
    gc.set_threshold(5_000)
    atexit.register(gc.freeze)


def log_progress() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pixellm").setLevel(logging.INFO if is_first_process() else logging.WARNING)


def is_first_process() -> bool:
    """Return True in the first of the processes that train together: the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def print_lines(*lines: str) -> None:
    for line in lines:
        out_console.print(line)


def print_whole(lines: "Table | Tree") -> None:
    """Print a table or tree; in a pipe or a file, which have no width, without breaking its lines."""
    console = out_console if out_console.is_terminal else Console(highlight=False, markup=False, width=WIDE)
    console.print(lines)


def reserve_stdout(*outputs: Path | None) -> None:
    """Send messages to standard error if one of a command's output files is `-`.

    Raises:
        ValueError: more than one of them is.
    """
    if outputs.count(STDOUT) > 1:
        raise ValueError("expected `-`, standard output, for one output file, got it for several. Name a file.")
    out_console.stderr = STDOUT in outputs


@contextmanager
def output_file(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield the path to write `path` to; for `-` a temporary file, copied to standard output once it is complete.

    Call `reserve_stdout` with all of a command's output files before its first message. `suffix` is the temporary
    file's, for writers that read the format from the name.
    """
    if path != STDOUT:
        yield path
        return
    with TemporaryDirectory() as folder:
        temporary = Path(folder) / f"output{suffix}"
        yield temporary
        with temporary.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


@contextmanager
def interrupting(stop: Callable[[str], None]) -> Iterator[None]:
    """Call `stop` at the first Ctrl-C, so that work in flight is finished; the second one raises."""

    def interrupted(*_: object) -> None:
        stop(INTERRUPTED)
        err_console.print(FINISHING)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def debugging() -> bool:
    return os.environ.get("PIXELLM_DEBUG", "0") not in ("", "0")
