"""A file of answers in every format of `pixellm export`."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support import exports as drawn

from . import store
from .command import pixellm

FORMATS = ("coco", "lvis", "labelme", "yolo-seg", "png", "cutout", "muse")
FILES = {"coco", "lvis", "muse"}  # the others are folders
POLYGONS = ("coco", "lvis", "labelme", "yolo-seg", "muse")
TOLERANCE = 1.5


def exports(folder: Path) -> Any:
    """Return answers of drawn masks in every format, exact and with fewer points."""
    answers = drawn.predictions(folder)
    exact = {to: exported(folder, answers, to) for to in FORMATS}
    return {"exact": exact, "fewer_points": {to: exported(folder, answers, to, TOLERANCE) for to in POLYGONS}}


def exported(folder: Path, answers: Path, to: str, tolerance: float | None = None) -> dict[str, str]:
    """Return digests of the files that an export writes."""
    out = folder / f"out-{to}{'' if tolerance is None else '-fewer'}{'.json' if to in FILES else ''}"
    options = [] if tolerance is None else ["--tolerance", tolerance]
    pixellm("export", answers, "--to", to, "--out", out, *options)
    files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
    return {f"{path.relative_to(folder).as_posix()} sha256": _of_file(path, folder) for path in files}


def _of_file(path: Path, folder: Path) -> str:
    """Digest the pixels of an image, the text of anything else without the folder's path."""
    if path.suffix in (".png", ".jpg"):
        with Image.open(path) as image:
            return store.digest(f"{image.mode} {image.size}".encode() + np.asarray(image).tobytes())
    return store.digest(path.read_text(encoding="utf-8").replace(str(folder), ""))
