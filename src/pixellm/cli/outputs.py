"""What `pixellm ask` writes: pictures and JSON, checked before the model is loaded, each complete or not at all."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pixellm.cli.common import STDOUT, output_file
from pixellm.imaging.images import EXAMPLE
from pixellm.utils.files import atomic_write, write_text

if TYPE_CHECKING:  # it would import torch
    from pixellm.types import Answer

PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


@dataclass(frozen=True)
class Outputs:
    """Where the answers go.

    Args:
        pictures: one path for each question.
        always: a picture is written even if it shows no mask, because its path was asked for.
        json: file for the answers themselves.
        image: what they are about, as it was typed.
    """

    pictures: tuple[Path, ...]
    always: bool
    json: Path | None
    image: str


def plan_outputs(image: str, questions: Sequence[str], out: Path | None, json_path: Path | None) -> Outputs:
    """Decide on the files to write and check that they can be written, before anything slow begins.

    Raises:
        ValueError: an empty question; a picture of unknown kind; a file that cannot be written, that is the photograph
            itself, or that is named twice.
    """
    if not all(question.strip() for question in questions):
        raise ValueError("expected a question, got an empty text.")
    name = image.removeprefix(EXAMPLE) if image.startswith(EXAMPLE) else Path(image).stem
    picture = out or Path(f"{name}-answer.png")
    if picture == STDOUT and len(questions) > 1:
        raise ValueError(f"--out -: expected one question, got {len(questions)}. Name a file: NAME-1.png, NAME-2.png …")
    if picture != STDOUT and picture.suffix.lower() not in PICTURE_FORMATS:
        raise ValueError(f"--out: expected a name that ends in {', '.join(PICTURE_FORMATS)}, got {picture}.")
    pictures = [picture]
    if len(questions) > 1:
        pictures = [picture.with_stem(f"{picture.stem}-{number}") for number in range(1, len(questions) + 1)]
    for path in (*pictures, json_path):
        if path is not None and path != STDOUT:
            _check_writable(path, image)
    if json_path is not None and json_path.resolve() in [path.resolve() for path in pictures]:
        raise ValueError(f"--json: expected another file than the picture, got {json_path} for both.")
    return Outputs(tuple(pictures), out is not None, json_path, image)


def _check_writable(path: Path, image: str) -> None:
    if path.exists() and not path.is_file():
        raise ValueError(f"expected a file to write to, got {path}, which is not one. Add a file name.")
    if path.exists() and Path(image).exists() and path.samefile(image):
        raise ValueError(f"expected another file than the photograph itself, got {path}. Choose another name.")
    if not path.parent.is_dir():
        raise ValueError(f"expected a directory to write {path.name} to, got {path.parent}, which is not there.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"expected a directory that can be written, got {path.parent.absolute()} ({error.strerror}). "
            "Name a file elsewhere with --out or --json."
        ) from error


def save(answers: Sequence["Answer"], outputs: Outputs, console: Console) -> None:
    """Write the pictures and the JSON, each complete or not at all, and say where."""
    for answer, path in zip(answers, outputs.pictures, strict=True):
        if not answer.targets and not outputs.always:
            continue
        with output_file(path, ".png") as final, atomic_write(final) as temporary:
            answer.overlay().save(temporary, PICTURE_FORMATS[final.suffix.lower()])
        console.print(f"picture: {path}")
    if outputs.json is not None:
        found = [replace(answer, image_path=outputs.image).to_json() for answer in answers]
        text = json.dumps(found if len(found) > 1 else found[0], ensure_ascii=False, indent=2)
        with output_file(outputs.json) as path:
            write_text(path, f"{text}\n")
        console.print(f"answers: {outputs.json}")
