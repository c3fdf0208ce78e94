"""Where images are, and what they are called in a format."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pixellm.export.answers import AnsweredImage
from pixellm.imaging.images import EXAMPLE, load_image


def file_names(images: Sequence[AnsweredImage]) -> list[str]:
    """Names below the folder that all images have in common; of one image, or several beside each other, no folder."""
    paths = [Path(one.image).absolute() for one in images if not one.image.startswith(EXAMPLE)]
    folder = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    return [
        one.image if one.image.startswith(EXAMPLE) else Path(one.image).absolute().relative_to(folder).as_posix()
        for one in images
    ]


def load(one: AnsweredImage) -> Image.Image:
    """The photograph, upright, in RGB.

    Raises:
        ValueError: it can't be read, or is not of its masks' size.
    """
    photograph = load_image(one.image)
    if photograph.size[::-1] != one.hw:
        height, width = one.hw
        raise ValueError(
            f"{one.image}: expected {height}×{width} pixels as its masks have, got {photograph.height}×"
            f"{photograph.width}. Give the image that was asked about."
        )
    return photograph


def place(one: AnsweredImage, folder: Path) -> str:
    """Put a copy of an image, named by its stem, into a folder; the copy's name.

    Raises:
        ValueError: see `load`.
    """
    photograph = load(one)
    if one.image.startswith(EXAMPLE):
        photograph.save(folder / f"{one.stem}.png")
        return f"{one.stem}.png"
    name = f"{one.stem}{Path(one.image).suffix}"
    shutil.copyfile(one.image, folder / name)
    return name
