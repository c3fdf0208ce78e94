"""Output files of `pixellm ask`: overlay images and JSON, checked before the model is loaded, written atomically."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pixellm.cli.common import STDOUT, out_console, output_file
from pixellm.imaging.images import EXAMPLE
from pixellm.utils.files import atomic_write, real_path, write_text

if TYPE_CHECKING:  # it would import torch
    from pixellm.types import Answer

IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
COMPRESSION = 1  # of PNG: a tenth larger than by default, in a quarter of the time; JPEG has no such setting


@dataclass(frozen=True)
class Outputs:
    """Output files of one call.

    Args:
        overlays: one path per question.
        always: write overlays without masks, too, because their path was given.
        json: file for the answers themselves.
        image: input image, as it was typed.
    """

    overlays: tuple[Path, ...]
    always: bool
    json: Path | None
    image: str


def plan_outputs(image: str, questions: Sequence[str], out: Path | None, json_path: Path | None) -> Outputs:
    """Choose the files to write and check that they can be written, before anything slow begins.

    Raises:
        ValueError: an empty question; an image format that is not known; a file that cannot be written, that is the
            input image, or that is named twice.
    """
    if not all(question.strip() for question in questions):
        raise ValueError("expected a question, got an empty text.")
    name = image.removeprefix(EXAMPLE) if image.startswith(EXAMPLE) else Path(image).stem
    overlay = out or Path(f"{name}-answer.png")
    if overlay == STDOUT and len(questions) > 1:
        raise ValueError(f"--out -: expected one question, got {len(questions)}. Name a file: NAME-1.png, NAME-2.png …")
    if overlay != STDOUT and overlay.suffix.lower() not in IMAGE_FORMATS:
        raise ValueError(f"--out: expected a name that ends in {', '.join(IMAGE_FORMATS)}, got {overlay}.")
    overlays = [overlay]
    if len(questions) > 1:
        overlays = [overlay.with_stem(f"{overlay.stem}-{number}") for number in range(1, len(questions) + 1)]
    for path in (*overlays, json_path):
        if path is not None and path != STDOUT:
            _check_writable(path, image)
    if json_path is not None and real_path(json_path) in [real_path(path) for path in overlays]:
        raise ValueError(f"--json: expected another file than the overlay, got {json_path} for both.")
    return Outputs(tuple(overlays), out is not None, json_path, image)


def _check_writable(path: Path, image: str) -> None:
    if path.exists() and not path.is_file():
        raise ValueError(f"expected a file to write to, got {path}, which is not one. Add a file name.")
    if path.exists() and Path(image).exists() and path.samefile(image):
        raise ValueError(f"expected another file than the input image, got {path}. Choose another name.")
    if not path.parent.is_dir():
        raise ValueError(f"expected a directory to write {path.name} to, got {path.parent}, which does not exist.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"expected a directory that can be written, got {path.parent.absolute()} ({error.strerror}). "
            "Name a file elsewhere with --out or --json."
        ) from error


def save(answers: Sequence["Answer"], outputs: Outputs) -> None:
    """Write the overlays and the JSON, and print their paths."""
    for answer, path in zip(answers, outputs.overlays, strict=True):
        if not answer.targets and not outputs.always:
            continue
        with output_file(path, ".png") as final, atomic_write(final) as temporary:
            answer.overlay().save(temporary, IMAGE_FORMATS[final.suffix.lower()], compress_level=COMPRESSION)
        out_console.print(f"overlay: {path}")
    if outputs.json is not None:
        rows = [replace(answer, image_path=outputs.image).to_json() for answer in answers]
        text = json.dumps(rows if len(rows) > 1 else rows[0], ensure_ascii=False, indent=2)
        with output_file(outputs.json) as path:
            write_text(path, f"{text}\n")
        out_console.print(f"answers: {outputs.json}")
