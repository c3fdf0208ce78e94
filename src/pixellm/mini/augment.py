"""Augmentation of decoded images: random scale and crop, flip, colour, and copy-paste between images.

Questions are composed after augmentation, from the masks that are left: left and right are then right by construction.

Shapes:  H, W before · h, w after
"""

import random
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageEnhance

from pixellm.data.mixture import Mixture
from pixellm.data.records import AnnotatedImage, Instance, Record
from pixellm.imaging.geometry import resized_hw


@dataclass(frozen=True)
class Augmentation:
    """Strength of each change.

    Args:
        min_crop: smallest side of the crop, as a share of the image's side.
        max_stretch: largest change of the aspect ratio.
        flip: probability of a horizontal flip.
        colour: largest relative change of brightness, contrast and saturation.
        paste: probability that instances of a second image are pasted in.
        keep: an instance stays if the crop leaves at least this share of its area.
    """

    min_crop: float = 0.45
    max_stretch: float = 1.2
    flip: float = 0.5
    colour: float = 0.35
    paste: float = 0.25
    keep: float = 0.1


@dataclass(frozen=True)
class AugmentedImages:
    """Augmented images of a mixture; augmentation None leaves them as they are."""

    mixture: Mixture
    augmentation: Augmentation | None = field(default_factory=Augmentation)

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, index: int) -> tuple[AnnotatedImage, random.Random]:
        """Return image number `index`, and the generator for whatever else is random about the sample."""
        record, rng = self.mixture[index]
        if self.augmentation is None:
            return record.decode(), rng
        other = rng.choices(self.mixture.datasets, self.mixture.plan.weights)[0]
        return augment(record.decode(), other[rng.randrange(len(other))], self.augmentation, rng), rng


def augment(annotated: AnnotatedImage, other: Record, how: Augmentation, rng: random.Random) -> AnnotatedImage:
    """Crop, paste instances of `other`, flip and recolour."""
    annotated = crop(annotated, how, rng)
    if rng.random() < how.paste:
        annotated = paste(annotated, crop(other.decode(), how, rng), rng)
    if rng.random() < how.flip:
        annotated = flip(annotated)
    return recolour(annotated, how.colour, rng)


def crop(annotated: AnnotatedImage, how: Augmentation, rng: random.Random) -> AnnotatedImage:
    """Take a random window, stretched a little; instances of which less than `keep` is left are dropped."""
    width, height = annotated.image.size
    share = rng.uniform(how.min_crop, 1.0)
    crop_h, crop_w = max(1, round(height * share)), max(1, round(width * share))
    top, left = rng.randint(0, height - crop_h), rng.randint(0, width - crop_w)
    stretch = how.max_stretch ** rng.uniform(-1, 1)
    size = max(1, round(crop_w * stretch)), crop_h
    return window(annotated, (left, top, left + crop_w, top + crop_h), size, how.keep)


def fit(annotated: AnnotatedImage, size: int) -> AnnotatedImage:
    """Resize image, masks and boxes so that the longest side is `size` pixels."""
    width, height = annotated.image.size
    h, w = resized_hw(height, width, size)
    return window(annotated, (0, 0, width, height), (w, h))


def on_square(image: Image.Image, size: int, mean: float, std: float) -> np.ndarray:
    """Return normalised pixels, float32 (S, S, 3), of an image in the top-left corner of a square of `size` pixels."""
    square = np.zeros((size, size, 3), dtype=np.float32)
    square[: image.height, : image.width] = (np.asarray(image, dtype=np.float32) / 255 - mean) / std
    return square


def window(
    annotated: AnnotatedImage, box: tuple[int, int, int, int], size: tuple[int, int], keep: float = 0.0
) -> AnnotatedImage:
    """Take the part inside box (left, top, right, bottom), resized to size (width, height), all in pixels."""
    left, top, right, bottom = box
    rows = top + ((np.arange(size[1]) + 0.5) * (bottom - top) / size[1]).astype(int)
    columns = left + ((np.arange(size[0]) + 0.5) * (right - left) / size[0]).astype(int)
    scale = size[0] * size[1] / ((right - left) * (bottom - top))
    instances = []
    for instance in annotated.instances:
        mask = instance.mask[rows[:, None], columns]
        if mask.sum() > max(1.0, keep * scale * instance.mask.sum()):
            instances.append(replace(instance, mask=mask))
    sx, sy = size[0] / (right - left), size[1] / (bottom - top)
    boxes = []
    for name, (x, y, w, h) in annotated.boxes:
        x0, y0, x1, y1 = max(x, left), max(y, top), min(x + w, right), min(y + h, bottom)
        if x1 > x0 and y1 > y0 and (x1 - x0) * (y1 - y0) > 0.6 * w * h:
            boxes.append((name, ((x0 - left) * sx, (y0 - top) * sy, (x1 - x0) * sx, (y1 - y0) * sy)))
    image = annotated.image.resize(size, Image.Resampling.BILINEAR, box=box)
    whole = box == (0, 0, *annotated.image.size)
    captions = annotated.captions if whole else ()
    exhaustive = _still_exhaustive(annotated, instances)
    return AnnotatedImage(image, tuple(instances), tuple(boxes), exhaustive, captions)


def _still_exhaustive(annotated: AnnotatedImage, left: list[Instance[np.ndarray]]) -> frozenset[str] | None:
    """Leave out categories whose instances were dropped: they may still show."""
    if annotated.exhaustive is None:
        return None
    return annotated.exhaustive - ({i.category for i in annotated.instances} - {i.category for i in left})


def flip(annotated: AnnotatedImage) -> AnnotatedImage:
    """Mirror left and right."""
    width = annotated.image.width
    return replace(
        annotated,
        image=annotated.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        instances=tuple(replace(i, mask=np.ascontiguousarray(i.mask[:, ::-1])) for i in annotated.instances),
        boxes=tuple((name, (width - x - w, y, w, h)) for name, (x, y, w, h) in annotated.boxes),
        captions=(),  # they may tell left from right
    )


def recolour(annotated: AnnotatedImage, amount: float, rng: random.Random) -> AnnotatedImage:
    """Change brightness, contrast and saturation, each by a factor in 1 ± amount."""
    image = annotated.image
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(1 - amount, 1 + amount))
    return replace(annotated, image=image)


def paste(annotated: AnnotatedImage, other: AnnotatedImage, rng: random.Random) -> AnnotatedImage:
    """Copy one to three instances of `other`; what they cover loses those pixels (arXiv 2012.07177)."""
    if not any(0.005 < i.mask.mean() < 0.5 for i in other.instances):
        return annotated
    width, height = annotated.image.size
    share = min(width / other.image.width, height / other.image.height) * rng.uniform(0.5, 1.0)
    size = max(1, round(other.image.width * share)), max(1, round(other.image.height * share))
    source = window(other, (0, 0, *other.image.size), size)
    candidates = [i for i in source.instances if i.mask.mean() > 0.005]
    if not candidates:
        return annotated
    copied = rng.sample(candidates, min(len(candidates), rng.randint(1, 3)))
    left, top = rng.randint(0, width - size[0]), rng.randint(0, height - size[1])
    placed: list[Instance[np.ndarray]] = []
    for instance in copied:
        mask = np.zeros((height, width), dtype=bool)
        mask[top : top + size[1], left : left + size[0]] = instance.mask
        placed.append(replace(instance, mask=mask))
    covered = np.any([i.mask for i in placed], axis=0)
    canvas = Image.new("RGB", (width, height))
    canvas.paste(source.image, (left, top))
    image = Image.composite(canvas, annotated.image, Image.fromarray(covered))
    remaining = [replace(i, mask=i.mask & ~covered) for i in annotated.instances]
    pairs = zip(annotated.instances, remaining, strict=True)
    visible = [new for old, new in pairs if new.mask.sum() > 0.2 * old.mask.sum()]
    exhaustive = _still_exhaustive(annotated, [*visible, *placed])
    return replace(annotated, image=image, instances=(*visible, *placed), exhaustive=exhaustive, captions=())
