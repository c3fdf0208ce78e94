"""PNG: masks as pictures with the answers in the format that trains from them; cut-outs of the photograph.

STEM-1_black-cat.png     the first mask of an image: 255 inside, 0 outside; or the thing itself, clear around it
answers.jsonl            (masks) questions and answers that name them, see `pixellm.data.jsonl`
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixellm.export.answers import AnsweredImage, with_slots
from pixellm.export.files import load, place
from pixellm.imaging.images import EXAMPLE
from pixellm.types import UNNAMED, Answer
from pixellm.utils.files import atomic_directory

NAME = 40  # characters of a phrase in a file's name


def write_masks(images: Sequence[AnsweredImage], out: Path) -> None:
    """Write a directory of masks, and `answers.jsonl`.

    Raises:
        ValueError: something is in `out` already.
    """
    with atomic_directory(out) as folder:
        rows = []
        for one in images:
            image = place(one, folder) if one.image.startswith(EXAMPLE) else os.path.relpath(one.image, out)
            names = _names(one)
            for answer in one.answers:
                files = [next(names) for _ in answer.targets]
                for target, name in zip(answer.targets, files, strict=True):
                    Image.fromarray(target.mask).convert("L").save(folder / name)
                rows += [_row(answer, image, files)] if answer.question and answer.text else []
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "answers.jsonl").write_text(lines, encoding="utf-8")


def write_cutouts(images: Sequence[AnsweredImage], out: Path) -> None:
    """Write a directory of things cut out of their photographs, RGBA, as large as their boxes.

    Raises:
        ValueError: something is in `out` already, or an image can't be read.
    """
    with atomic_directory(out) as folder:
        for one in images:
            photograph = load(one)
            for target, name in zip(one.targets, _names(one), strict=True):
                cut_out(photograph, target.mask).save(folder / name)


def cut_out(photograph: Image.Image, mask: np.ndarray) -> Image.Image:
    """What a mask, bool (H, W) with a pixel in it, shows of a photograph: RGBA of the mask's box."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = photograph.convert("RGB")
    cut.putalpha(Image.fromarray(mask).convert("L"))
    return cut.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def _names(one: AnsweredImage) -> Iterator[str]:
    for number, target in enumerate(one.targets, 1):
        words = re.sub(r"[\W_]+", "-", target.category)[:NAME].strip("-")  # the last _ of a name is ours
        yield f"{one.stem}-{number}_{words or UNNAMED}.png"


def _row(answer: Answer, image: str, files: Sequence[str]) -> dict[str, Any]:
    text, order = with_slots(answer)
    row = {"id": answer.id, "image": Path(image).as_posix(), "question": answer.question, "answer": text}
    return row | {"masks": [files[index] for index in order]}
