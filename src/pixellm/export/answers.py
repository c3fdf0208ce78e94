"""Answers to export: a file of answers → answers with their images → by image → a format's writer."""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from pixellm.batch.questions import FileQuestion, read_questions
from pixellm.eval.overlap import overlap
from pixellm.eval.predictions import read_predictions
from pixellm.imaging.images import EXAMPLE, load_image
from pixellm.types import SEG_SLOT, Answer, Target


def read_answers(path: Path, image: str | None = None, questions: Path | None = None) -> list[Answer]:
    """Read answers from a file, see `pixellm.eval.predictions`.

    Args:
        path: the file.
        image: file of the image that they are about, where the file does not say.
        questions: JSON lines that say which image and question an answer's id stands for.

    Raises:
        ValueError: the file can't be read; nothing says which image an answer is about.
    """
    known = {} if questions is None else {question.id: question for question in read_questions(questions)[0]}
    return [
        _with_image(answer, known.get(answer.id), image, path) for answer in read_predictions(path).answers.values()
    ]


def _with_image(answer: Answer, asked_as: FileQuestion | None, image: str | None, path: Path) -> Answer:
    source = image or answer.image_path or (str(asked_as.image) if asked_as else "")
    if not source:
        raise ValueError(
            f"{path}, answer {answer.id!r}: expected an image, got none. Name it with --image, or give --questions "
            "with the file that was answered."
        )
    hw = answer.original_hw if all(answer.original_hw) else load_image(source).size[::-1]
    if any(target.rle["size"] != list(hw) for target in answer.targets):
        raise ValueError(f"{path}, answer {answer.id!r}: expected masks of {hw[0]}×{hw[1]} pixels, got others.")
    question = answer.question or (asked_as.question if asked_as else "")
    source = source if source.startswith(EXAMPLE) else str(Path(source))
    return replace(answer, image_path=source, original_hw=hw, question=question)


@dataclass(frozen=True)
class AnsweredImage:
    """An image with all answers about it, without their empty masks.

    `stem` is a file name for it that no other image has.
    """

    image: str
    hw: tuple[int, int]
    stem: str
    answers: tuple[Answer, ...]

    @property
    def targets(self) -> list[Target]:
        """All masks."""
        return [target for answer in self.answers for target in answer.targets]

    def load(self) -> Image.Image:
        """Load the image, upright, in RGB.

        Raises:
            ValueError: it can't be read, or is not of its masks' size.
        """
        image = load_image(self.image)
        if image.size[::-1] != self.hw:
            raise ValueError(
                f"{self.image}: expected {self.hw[0]}×{self.hw[1]} pixels as its masks have, got {image.height}×"
                f"{image.width}. Give the image that was asked about."
            )
        return image

    def copy_to(self, folder: Path) -> str:
        """Put a copy, named by its stem, into a folder; return the copy's name. Errors as in `load`."""
        image = self.load()
        if self.image.startswith(EXAMPLE):
            image.save(folder / f"{self.stem}.png")
            return f"{self.stem}.png"
        name = f"{self.stem}{Path(self.image).suffix}"
        shutil.copyfile(self.image, folder / name)
        return name


def by_image(answers: Iterable[Answer]) -> list[AnsweredImage]:
    """Group answers by their images, in the order of the first ones.

    Raises:
        ValueError: answers about one image are of different sizes.
    """
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        filled = tuple(target for target in answer.targets if target.area)
        groups.setdefault(answer.image_path, []).append(replace(answer, targets=filled))
    stems = _stems(groups)
    images = []
    for image, group in groups.items():
        sizes = sorted({answer.original_hw for answer in group})
        if len(sizes) > 1:
            raise ValueError(f"{image}: expected answers of one size, got {sizes}. Export them apart.")
        images.append(AnsweredImage(image, sizes[0], next(stems), tuple(group)))
    return images


def merge(image: AnsweredImage, iou: float) -> AnsweredImage:
    """Return the image without masks that are nearly those of another target: the one with the higher score stays.

    Several questions may find the same object; `iou` is the least overlap (0..1) of two masks that are merged.
    """
    ranked = sorted(
        image.targets, key=lambda target: -(target.confidence or 0)
    )  # the first one asked for before others
    kept: list[Target] = []
    for target in ranked:
        if all(overlap(target.rle, other.rle).iou < iou for other in kept):
            kept.append(target)
    ids = set(map(id, kept))
    answers = [replace(a, targets=tuple(t for t in a.targets if id(t) in ids)) for a in image.answers]
    return replace(image, answers=tuple(answers))


def _stems(images: Iterable[str]) -> Iterator[str]:
    """Yield the images' names without folder and suffix, numbered where another one has the same in any case."""
    used: set[str] = set()
    for image in images:
        stem = Path(image.removeprefix(EXAMPLE)).stem
        name, number = stem, 1
        while name.lower() in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name.lower())
        yield name


def file_names(images: Sequence[AnsweredImage]) -> list[str]:
    """Name the images below the folder that they have in common; images beside each other have no folder."""
    paths = [Path(image.image).absolute() for image in images if not image.image.startswith(EXAMPLE)]
    folder = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    return [
        image.image if image.image.startswith(EXAMPLE) else Path(image.image).absolute().relative_to(folder).as_posix()
        for image in images
    ]


def category_ids(images: Sequence[AnsweredImage]) -> dict[str, int]:
    """Number the categories of all targets from 1, in the order in which they come."""
    names = dict.fromkeys(target.category for image in images for target in image.targets)
    return {name: number for number, name in enumerate(names, 1)}


def with_slots(answer: Answer) -> tuple[str, list[int]]:
    """Return the text with a `{seg}` behind the phrase of each mask, and the index of the target for each slot."""
    # A slot in the words themselves must not be taken for one of ours; its length stays, the spans count it.
    text = answer.text.replace(SEG_SLOT, "(seg)")
    order = sorted(range(len(answer.targets)), key=lambda index: answer.targets[index].span[1])
    pieces, end = [], 0
    for index in order:
        start, end = end, answer.targets[index].span[1]
        pieces += [text[start:end], " " if end else "", SEG_SLOT]
    return "".join((*pieces, text[end:])), order
