"""Is there room for a released model: on the disk, in memory?"""

import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pixellm.hub.catalogue import PRECISIONS, ReleasedModel
from pixellm.utils.cache import announce, cache_dir

# While converting: Python, torch, transformers and the largest tensors; weights are mapped, not read.
CONVERSION_BYTES = 1_000_000_000


def expect_disk(model: ReleasedModel, place: Path, remaining: int, converted: int) -> None:
    """Raise a ValueError if the disk of `place` lacks room for the rest of the download and the converted model.

    Args:
        model: the model.
        place: a directory.
        remaining: bytes to download.
        converted: bytes of the converted model.
    """
    free = shutil.disk_usage(place).free
    if free < remaining + converted:
        raise ValueError(
            f"expected {gigabytes(remaining + converted)} free in {cache_dir()} for {model.name} "
            f"({gigabytes(remaining)} to download, {gigabytes(converted)} to convert it to; the download is deleted "
            f"afterwards), got {gigabytes(free)}. Free some, or set PIXELLM_CACHE to a directory on another disk."
        )


def expect_memory(model: ReleasedModel, size: int, force: bool) -> None:
    """Raise a ValueError if this computer can't convert a checkpoint of `size` bytes, or never run it."""
    import psutil  # here: every command imports this module

    available = psutil.virtual_memory().available
    if available < CONVERSION_BYTES:
        raise ValueError(
            f"expected {gigabytes(CONVERSION_BYTES)} of memory to convert {model.name}, got {gigabytes(available)} "
            "that is available. Close other programs."
        )
    memory = model.facts.memory
    needed = {name: size * memory[name] // memory["bfloat16"] for name in PRECISIONS}
    here = machine_memory()
    best = replace(model.facts, memory=needed).precision_within(here)
    if best is None and not force:
        raise ValueError(
            f"expected {gigabytes(needed['int4'])} of memory to run {model.name} at 4 bits, got a computer with "
            f"{gigabytes(here)}. Take another computer; to download it all the same: "
            f"pixellm models pull {model.name} --force"
        )
    if best is None:
        announce(f"{model.name} does not fit into this computer's {gigabytes(here)} of memory")
    elif best != "bfloat16":
        announce(f"{model.name} fits into this computer's {gigabytes(here)} of memory with {PRECISIONS[best]}")


def machine_memory() -> int:
    """Return the bytes of this computer's memory, or of its largest NVIDIA GPU if that has more."""
    import psutil

    sizes = [psutil.virtual_memory().total]
    if program := shutil.which("nvidia-smi"):
        command = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        with suppress(OSError, subprocess.SubprocessError, ValueError):
            result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            sizes += [int(line) << 20 for line in result.stdout.split()]  # MiB
    return max(sizes)


def gigabytes(size: int) -> str:
    """Format a number of bytes."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
