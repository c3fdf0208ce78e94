"""Parameters, FLOPs and memory, counted without weights."""

import json
from pathlib import Path
from typing import Any

from .command import pixellm

Options = tuple[str | int, ...]
LARGE: tuple[Options, ...] = (
    ("pixellm-7b", "--dtype", "bfloat16"),
    ("pixellm-7b", "--dtype", "bfloat16", "--quantize", "int4", "--questions", 4),
    ("lisa-13b", "--dtype", "float32", "--quantize", "int8"),
)


def small(folder: Path) -> Any:
    """Return what answers of pixellm-mini take, and what memory is planned for."""
    plan = ("pixellm-mini", "--targets", 6)
    return {"cost": _cost(folder, "pixellm-mini", "--targets", 2), "plans": _plans(plan)}


def large(folder: Path) -> Any:
    """Return the same of the paper's models."""
    return {
        "cost": _cost(folder, "pixellm-7b", "--against", "lisa-7b,lisa-13b,seem"),
        "plans": _plans(*LARGE),
    }


def _plans(*several: Options) -> dict[str, list[str]]:
    return {" ".join(map(str, options)): _plan(*options) for options in several}


def _cost(folder: Path, *options: str | int) -> Any:
    pixellm("cost", *options, "--json", "cost.json")
    return json.loads((folder / "cost.json").read_text(encoding="utf-8"))


def _plan(*options: str | int) -> list[str]:
    """Return the rows of the table; what is available, and whether it fits, is this machine's."""
    printed = pixellm("models", "plan", *options, "--device", "cpu", code=None)
    rows = [" ".join(line.replace("│", " ").split()) for line in printed.splitlines()]
    start = next(number for number, row in enumerate(rows) if row.startswith("weights,"))
    end = next(number for number, row in enumerate(rows) if row.startswith("total"))
    return rows[start : end + 1]
