"""The command line of a base installation: a process in which nothing of torch can be imported."""

import os
import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "torchvision", "transformers", "timm", "scipy", "skimage", "matplotlib", "cv2", "supervision")


def arguments(*words: str) -> list[str]:
    """Return the command for `pixellm WORDS...` in such a process."""
    code = f"import sys; sys.modules |= dict.fromkeys({HEAVY})\nfrom pixellm.cli import main; main()"
    return [sys.executable, "-c", code, *words]


def environment() -> dict[str, str]:
    """Return its environment: the package that is tested, and the caches of this process."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "NO_COLOR": "1"}


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments(*words), cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
