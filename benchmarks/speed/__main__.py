"""Measure, and write docs/performance.md: each part in a process of its own, its rows kept as soon as it has ended.

    python -m benchmarks.speed                                        # all but the 7B, some 20 minutes on two cores
    python -m benchmarks.speed --sizes mid --parts question --dtypes float32
    python -m benchmarks.speed --sizes pixellm-7b --dtypes bfloat16 --device cuda

A part that is measured again replaces its earlier rows.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from rich.progress import track

from benchmarks.speed.models import MID, SIZES
from benchmarks.speed.parts import PARTS
from benchmarks.speed.report import write_report
from pixellm.hub.models import MINI
from pixellm.utils.files import write_text

RESULTS = Path(__file__).parents[1] / "results" / "speed.jsonl"
DTYPES = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[MINI, MID])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # measure here, print the rows
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            "--device: expected a machine with an NVIDIA GPU, got one without. Leave it out to measure the CPU."
        )
    if asked.one:
        torch.manual_seed(0)
        for row in PARTS[asked.parts[0]](asked.sizes[0], getattr(torch, asked.dtypes[0]), asked.device):
            print(json.dumps(row), flush=True)
        return
    jobs = [(part, size, dtype) for size in asked.sizes for dtype in asked.dtypes for part in asked.parts]
    for part, size, dtype in track(jobs, "measuring"):
        named = {"device": device_name(asked.device), "part": part, "size": size, "dtype": dtype}
        keep([{**named, **row} for row in measured(part, size, dtype, asked.device)], named)
    write_report(read())


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} cores"


def measured(part: str, size: str, dtype: str, device: str) -> list[dict]:
    """The rows of a part, measured in a new process."""
    of = ["--parts", part, "--sizes", size, "--dtypes", dtype, "--device", device]
    command = [sys.executable, "-m", "benchmarks.speed", "--one", *of]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def read() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()] if RESULTS.exists() else []


def keep(rows: list[dict], named: dict) -> None:
    """Put a part's rows in the place of its earlier ones."""
    others = [row for row in read() if any(row[key] != value for key, value in named.items())]
    write_text(RESULTS, "".join(json.dumps(row) + "\n" for row in [*others, *rows]))


if __name__ == "__main__":
    main()
