"""Annotated images, as a dataset stores them and decoded.

    coco, semantic, refer, reasoning, dialogue, jsonl → Record
    Record → chat → Exchange → Conversation                      texts alone; image and masks are read last
    Record → AnnotatedImage → grammar → Exchange → Conversation  questions about decoded masks, after augmentation

Masks stay as they are stored until `decode`.

Shapes:  H, W image height and width
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from PIL import Image

from pixellm.imaging import masks
from pixellm.imaging.images import ImageError, load_image, read_values
from pixellm.types import Conversation

Box = tuple[float, float, float, float]  # x, y, width, height in pixels


class MaskSource(Protocol):
    """A mask as it is stored."""

    def decode(self, height: int, width: int) -> np.ndarray:
        """Return bool (H, W) for an image of `height` × `width` pixels; a ValueError if the mask is malformed."""
        ...


@dataclass(frozen=True)
class Segments:
    """The union of COCO segmentations, each a list of polygons, an RLE, or a list of RLEs."""

    parts: tuple[Any, ...]

    def decode(self, height: int, width: int) -> np.ndarray:
        rle = masks.union([self.rles(height, width)], height, width)
        return masks.decode(rle, height, width)

    def rles(self, height: int, width: int) -> list[masks.Rle]:
        """Return all polygons and RLEs of all parts as compressed RLEs, without decoding any."""
        rles = []
        for segmentation in self.parts:
            several = isinstance(segmentation, list) and any(isinstance(entry, dict) for entry in segmentation)
            for entry in segmentation if several else [segmentation]:
                rles += masks.to_rles(entry, height, width)
        return rles

    def checked(self) -> "Segments":
        """Return itself; a ValueError if it is plain without decoding that a part holds no mask."""
        for segmentation in self.parts:
            if not isinstance(segmentation, list | dict) or not segmentation:
                raise ValueError(f"expected polygons or an RLE, got the segmentation {segmentation!r}")
            polygons = [p for p in segmentation if not isinstance(p, dict)] if isinstance(segmentation, list) else []
            if polygons and not any(isinstance(polygon, list) and len(polygon) >= 6 for polygon in polygons):
                raise ValueError("expected a polygon of at least three points")
        return self


@dataclass(frozen=True)
class Labels:
    """The pixels of a label map that have one of `values`."""

    file: Path
    values: tuple[int, ...]

    def decode(self, height: int, width: int) -> np.ndarray:
        labels = read_labels(self.file)
        if labels.shape != (height, width):
            raise ValueError(
                f"expected a label map of {height}×{width} pixels, as its image, got {self.file} of "
                f"{labels.shape[0]}×{labels.shape[1]}. Fetch both again."
            )
        return np.isin(labels, self.values)


@lru_cache(maxsize=2)  # every instance of an image asks for the same map
def read_labels(file: Path) -> np.ndarray:
    """Return a label map as an integer array (H, W); a ValueError if the file is missing, broken, or no label map."""
    labels = _read_pixels(file, "a label map")
    if labels.ndim != 2:
        raise ValueError(f"expected one channel of labels in {file}, got an array of shape {labels.shape}.")
    return labels


@dataclass(frozen=True)
class MaskFile:
    """The pixels of an image file that are neither 0 nor transparent; of a palette, those whose number is not 0."""

    file: Path

    def decode(self, height: int, width: int) -> np.ndarray:
        pixels = _read_pixels(self.file, "a mask") != 0
        if pixels.ndim == 3:
            colours, alpha = (pixels[..., :-1], pixels[..., -1]) if pixels.shape[2] in (2, 4) else (pixels, True)
            pixels = colours.any(axis=2) & alpha
        if pixels.shape != (height, width):
            raise ValueError(f"expected a mask of {height}×{width} pixels, got {self.file} of {pixels.shape}.")
        return pixels


def _read_pixels(file: Path, kind: str) -> np.ndarray:
    """Return the stored values of an image file, palettes not applied."""
    try:
        return read_values(file)
    except ImageError as error:
        raise ValueError(f"expected {kind} at {file}, which can't be read ({error}). Fetch it again.") from None


M_co = TypeVar("M_co", covariant=True)  # MaskSource | None as stored, np.ndarray once decoded


@dataclass(frozen=True)
class Instance(Generic[M_co]):
    """An object, all objects of a category, or what a sentence refers to.

    Args:
        names: what it is called or how it is referred to, the best first.
        mask: as it is stored, or decoded: bool (H, W), never empty; None: nothing in the image fits the names.
        category: singular, lower case, without braces; "" where the dataset does not tell it.
        merged: the mask may unite several objects (a crowd, all of a category).
    """

    names: tuple[str, ...]
    mask: M_co
    category: str = ""
    merged: bool = False


@dataclass(frozen=True)
class Exchange(Generic[M_co]):
    """A question about an image and its answer.

    Args:
        question: as it was written, or composed.
        answer: with one `{seg}` for each target, in order; None: to be composed of the targets' names.
        targets: what it asks for.
        asks: how a question that comes with the data is put: "verbatim" as it is, "sentence" with a request for masks
            after it, "explain" with one for an explanation, too, and "phrase" where it is the name of what is wanted.
        ignored: pixels that count neither as target nor as background.
        kind: for a composed question, a key of `grammar.KIND_WEIGHTS`; for your own, as the file has it.
        where: file and line that it is from, for messages; "" where the record's id says it.
    """

    question: str
    answer: str | None
    targets: tuple[Instance[M_co], ...]
    asks: Literal["verbatim", "sentence", "explain", "phrase"] = "verbatim"
    ignored: MaskSource | None = None
    kind: str = ""
    where: str = ""

    @property
    def place(self) -> str:
        """Name of the question in messages."""
        return self.where or f"question {self.question!r}"

    def decode(self, height: int, width: int, stride: int = 1, continues: bool = False) -> Conversation:
        """Read every `stride`-th pixel of the masks; a ValueError names line or question."""

        def pixels(mask: MaskSource | np.ndarray) -> np.ndarray:
            decoded = mask if isinstance(mask, np.ndarray) else mask.decode(height, width)
            return decoded[::stride, ::stride]

        try:
            stack = [pixels(target.mask) for target in self.targets if target.mask is not None]
            ignored = None if self.ignored is None else pixels(self.ignored)
        except ValueError as error:
            raise ValueError(f"{self.place}: {error}") from error
        empty = np.zeros((0, -(-height // stride), -(-width // stride)), dtype=bool)
        targets = np.stack(stack) if stack else empty
        return Conversation(self.question, self.answer or "", targets, ignored=ignored, continues=continues)


@dataclass(frozen=True)
class Record:
    """One image of a dataset.

    Args:
        record_id: unique in its dataset.
        image: its file.
        original_hw: its size, where the annotations say for which one they were made.
        instances: what may be asked for by name, alone or together.
        absent: names of what is surely not in the image.
        exchanges: questions that come with it.
        dialogue: each exchange continues the one before it; otherwise they are independent.
        boxes: categories and boxes of objects that are known by box alone.
        exhaustive: categories of which every object in the image is annotated; None: annotations are incomplete.
        captions: sentences that describe the image.
    """

    record_id: str
    image: Path
    original_hw: tuple[int, int] | None = None
    instances: tuple[Instance[MaskSource | None], ...] = ()
    absent: tuple[str, ...] = ()
    exchanges: tuple[Exchange[MaskSource | None], ...] = ()
    dialogue: bool = False
    boxes: tuple[tuple[str, Box], ...] = ()
    exhaustive: frozenset[str] | None = None
    captions: tuple[str, ...] = ()

    def load_image(self) -> Image.Image:
        """Read the image; a ValueError if it is missing, broken, or of another size than its annotations."""
        image = load_image(self.image)
        if self.original_hw not in (None, (image.height, image.width)):
            raise ValueError(
                f"expected {self.image} to be of {self.original_hw} pixels (height, width), as it was annotated, got "
                f"{(image.height, image.width)}. Use the original."
            )
        return image

    def decode(self) -> "AnnotatedImage":
        """Read the image and all masks, and leave out empty ones; a ValueError names the record."""
        try:
            image = self.load_image()
            decoded = [(i, i.mask.decode(image.height, image.width)) for i in self.instances if i.mask is not None]
        except ValueError as error:
            raise ValueError(f"record {self.record_id}: {error}") from error
        instances = tuple(Instance(i.names, mask, i.category, i.merged) for i, mask in decoded if mask.any())
        return AnnotatedImage(image, instances, self.boxes, self.exhaustive, self.captions)


@dataclass(frozen=True)
class AnnotatedImage:
    """A record's image with its instances decoded; the other fields are as in `Record`."""

    image: Image.Image
    instances: tuple[Instance[np.ndarray], ...]
    boxes: tuple[tuple[str, Box], ...] = ()
    exhaustive: frozenset[str] | None = None
    captions: tuple[str, ...] = ()

    def category_masks(self) -> dict[str, np.ndarray]:
        """Return the union mask, bool (H, W), of each category present, in order of first appearance."""
        united: dict[str, np.ndarray] = {}
        for instance in self.instances:
            name, mask = instance.category, instance.mask
            united[name] = united[name] | mask if name in united else mask
        return united
