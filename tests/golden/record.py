"""Record golden results, or compare them with what the code gives now.

Command: `python -m tests.golden.record [NAME ...] [--check]`, in the root of the repository.
"""

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import SHARED, store
from .command import inside


@dataclass(frozen=True)
class Golden:
    """A result.

    Args:
        name: of its file.
        maker: MODULE.FUNCTION in this package, which is given an empty folder and returns the result.
        slow: not among the tests that run by default.
        shared: it reads what is beside the repository.
        noise: what numbers may differ by on another kind of machine; None: they are the same everywhere.
    """

    name: str
    maker: str
    slow: bool = False
    shared: bool = False
    noise: float | None = None

    @property
    def make(self) -> Callable[[Path], Any]:
        """The function."""
        module, _, function = self.maker.partition(".")
        return getattr(importlib.import_module(f"{__package__}.{module}"), function)


# On two threads instead of one, numbers in float32 differ by up to 1e-6.
FLOAT32, BFLOAT16 = 0.001, 0.03
GOLDEN = (
    Golden("train_nano", "trainings.nano", shared=True, noise=FLOAT32, slow=True),
    Golden("train_lisa", "trainings.lisa", shared=True, noise=FLOAT32, slow=True),
    Golden("train_seem", "trainings.seem", shared=True, noise=FLOAT32, slow=True),
    Golden("train_mini", "trainings.mini", slow=True, shared=True, noise=BFLOAT16),
    Golden("fine_tune", "trainings.fine_tune", noise=BFLOAT16),
    Golden("fine_tune_mini", "trainings.fine_tune_mini", slow=True, noise=FLOAT32),
    Golden("answers", "answers.some", noise=FLOAT32),
    Golden("answers_all", "answers.every", slow=True, noise=FLOAT32),
    Golden("commands", "answers.commands", noise=FLOAT32),
    Golden("reference", "checkpoints.pixellm_checkpoint", shared=True, noise=FLOAT32),
    Golden("reference_lisa", "checkpoints.lisa_checkpoint", shared=True, noise=FLOAT32),
    Golden("scores", "scores.benchmarks"),
    Golden("eval_annotated", "scores.annotated", slow=True, shared=True, noise=FLOAT32),
    Golden("muse", "muse.template", shared=True),
    Golden("costs", "costs.small"),
    Golden("costs_large", "costs.large", slow=True),
    Golden("exports", "exporting.exports"),
)


def made(golden: Golden, folder: Path) -> Any:
    """Return a result as the code gives it now, made in an empty folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(store.THREADS)
    try:
        with inside(folder):
            return store.plain(golden.make(folder))
    finally:
        torch.set_num_threads(threads)


def noise_here(golden: Golden) -> float | None:
    """Return what numbers may differ by here: nothing on the kind of machine that they were recorded on."""
    recorded, _ = store.read(golden.name)
    return None if recorded == store.machine() | {"threads": store.THREADS} else golden.noise


def compare(golden: Golden, found: Any) -> list[str]:
    """Return what is different from the recorded result."""
    _, recorded = store.read(golden.name)
    return list(store.differences(recorded, found, noise_here(golden)))


def main() -> None:
    """Record or check all, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.record", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(golden.name for golden in GOLDEN))
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if anything is different")
    arguments = parser.parse_args()
    if unknown := {*arguments.names} - {golden.name for golden in GOLDEN}:
        parser.error(f"unknown names: {', '.join(sorted(unknown))}")
    torch.set_num_threads(store.THREADS)
    chosen = [golden for golden in GOLDEN if not arguments.names or golden.name in arguments.names]
    if not all([_run(golden, arguments.check) for golden in chosen]):
        sys.exit(1)


def _run(golden: Golden, check: bool) -> bool:
    """Record or check one; whether it is as it was."""
    if golden.shared and not SHARED.is_dir():
        print(f"{golden.name}: skipped, the shared data are not beside the project")
        return True
    started = time.process_time()  # of a busy machine the clock says little
    with tempfile.TemporaryDirectory() as folder:
        found = made(golden, Path(folder).resolve() / golden.name)
    different = compare(golden, found) if check else []
    if not check:
        store.write(golden.name, found)
    state = "as recorded" if check and not different else f"{len(different)} differences" if check else "recorded"
    print(f"{golden.name}: {state}, {time.process_time() - started:.1f} s of the processor", flush=True)
    for line in different[:20]:
        print(f"  {line}")
    return not different


if __name__ == "__main__":
    main()
