"""Augmentation of annotated images: random scale and crop, flip, colour, and copy-paste between images.

Questions are phrased after augmentation, from the masks that are left: left and right are then right by construction.

Shapes:  H, W before · h, w after
"""

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance

from pixellm.data.coco import AnnotatedImage
from pixellm.data.records import Instance


@dataclass(frozen=True)
class Augmentation:
    """How much is changed.

    Args:
        min_crop: smallest side of the crop, as a share of the image's side.
        max_stretch: largest change of the aspect ratio.
        flip: probability of a horizontal flip.
        colour: largest relative change of brightness, contrast and saturation.
        paste: probability that instances of a second image are pasted in.
        keep: a instance stays if the crop leaves at least this share of its area.
    """

    min_crop: float = 0.45
    max_stretch: float = 1.2
    flip: float = 0.5
    colour: float = 0.35
    paste: float = 0.25
    keep: float = 0.1


def augment(
    annotated: AnnotatedImage, other: AnnotatedImage | None, how: Augmentation, rng: random.Random
) -> AnnotatedImage:
    """Crop, paste instances of `other` (if given), flip and recolour."""
    annotated = crop(annotated, how, rng)
    if other is not None and rng.random() < how.paste:
        annotated = paste(annotated, crop(other, how, rng), rng)
    if rng.random() < how.flip:
        annotated = flip(annotated)
    return recolour(annotated, how.colour, rng)


def crop(annotated: AnnotatedImage, how: Augmentation, rng: random.Random) -> AnnotatedImage:
    """A random window, stretched a little; instances of which less than `keep` is left are dropped."""
    width, height = annotated.image.size
    share = rng.uniform(how.min_crop, 1.0)
    crop_h, crop_w = max(1, round(height * share)), max(1, round(width * share))
    top, left = rng.randint(0, height - crop_h), rng.randint(0, width - crop_w)
    stretch = how.max_stretch ** rng.uniform(-1, 1)
    size = max(1, round(crop_w * stretch)), crop_h
    return window(annotated, (left, top, left + crop_w, top + crop_h), size, how.keep)


def window(
    annotated: AnnotatedImage, box: tuple[int, int, int, int], size: tuple[int, int], keep: float = 0.0
) -> AnnotatedImage:
    """The part inside box (left, top, right, bottom) resized to size (width, height), all in pixels."""
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
    known = _still_known(annotated, instances)
    whole = box == (0, 0, *annotated.image.size)
    captions = annotated.captions if whole else ()
    return replace(
        annotated, image=image, instances=tuple(instances), boxes=tuple(boxes), known=known, captions=captions
    )


def _still_known(annotated: AnnotatedImage, left: list[Instance[np.ndarray]]) -> frozenset[str]:
    """A name whose instances were dropped may still show: whether it is in the picture is then no longer known."""
    return annotated.known - ({t.category for t in annotated.instances} - {t.category for t in left})


def flip(annotated: AnnotatedImage) -> AnnotatedImage:
    """Mirror left and right."""
    width = annotated.image.width
    return replace(
        annotated,
        image=annotated.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        instances=tuple(replace(t, mask=np.ascontiguousarray(t.mask[:, ::-1])) for t in annotated.instances),
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
    candidates = [t for t in other.instances if 0.005 < t.mask.mean() < 0.5]
    if not candidates:
        return annotated
    width, height = annotated.image.size
    fit = min(width / other.image.width, height / other.image.height) * rng.uniform(0.5, 1.0)
    size = max(1, round(other.image.width * fit)), max(1, round(other.image.height * fit))
    source = window(other, (0, 0, *other.image.size), size)
    candidates = [t for t in source.instances if t.mask.mean() > 0.005]
    if not candidates:
        return annotated
    chosen = rng.sample(candidates, min(len(candidates), rng.randint(1, 3)))
    left, top = rng.randint(0, width - size[0]), rng.randint(0, height - size[1])
    placed: list[Instance[np.ndarray]] = []
    for instance in chosen:
        mask = np.zeros((height, width), dtype=bool)
        mask[top : top + size[1], left : left + size[0]] = instance.mask
        placed.append(replace(instance, mask=mask))
    covered = np.any([t.mask for t in placed], axis=0)
    canvas = Image.new("RGB", (width, height))
    canvas.paste(source.image, (left, top))
    image = Image.composite(canvas, annotated.image, Image.fromarray(covered))
    remaining = [replace(t, mask=t.mask & ~covered) for t in annotated.instances]
    visible = [
        new for old, new in zip(annotated.instances, remaining, strict=True) if new.mask.sum() > 0.2 * old.mask.sum()
    ]
    known = _still_known(annotated, visible) | (annotated.known & {t.category for t in placed})
    return replace(annotated, image=image, instances=(*visible, *placed), known=known, captions=())
