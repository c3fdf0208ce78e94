"""Selection of images and instances to ask about, with the reason why others are left out.

AnnotationIndex → images, rare categories first → usable instances → ImageAnnotations, or a reason
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pixellm.imaging import masks
from pixellm.muse.annotation_index import AnnotationIndex
from pixellm.muse.quality.checks import SAME_BOX_IOU, SAME_MASK_IOU, box_iou
from pixellm.muse.records import ImageAnnotations, MuseImage, MuseTarget

MIN_INSTANCES = 2
MISSING = "the image file is missing (is --images the right folder?)"


@dataclass(frozen=True)
class SelectionRules:
    """Limits of a selection.

    Args:
        min_area: smallest instance, as a fraction of the image: smaller ones are hardly visible.
        max_instances: instances of one image, those of the rarest categories; MUSE has up to 34 targets a question.
        per_category: images that are enough of a category: others are used only for rarer ones; None: no limit.
        images: images at most; None: no limit.
    """

    min_area: float = 0.002
    max_instances: int = 34
    per_category: int | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_area < 1:
            raise ValueError(f"expected a min_area of 0 to 1, a fraction of the image, got {self.min_area}.")
        for name in ("max_instances", "per_category", "images"):
            value, least = getattr(self, name), MIN_INSTANCES if name == "max_instances" else 1
            if value is not None and value < least:
                raise ValueError(f"expected {name} of {least} or more, got {value}.")


@dataclass(frozen=True)
class Candidate:
    """Image with what to ask about, or the `reason` for nothing; `left_out`: instances by reason."""

    image: MuseImage
    annotated: ImageAnnotations | None = None
    reason: str | None = None
    left_out: Counter[str] = field(default_factory=Counter)


class Selection:
    """Iterable of all images; the same rules give the same candidates in the same order.

    Args:
        index: annotations.
        images: folder of the images.
        rules: limits.
    """

    def __init__(self, index: AnnotationIndex, images: Path, rules: SelectionRules) -> None:
        self._index, self._folder, self.rules = index, images, rules
        self._images_of = index.images_by_category(rules.min_area)

    def __iter__(self) -> Iterator[Candidate]:
        """Yield each image once, until as many are selected as wanted."""
        counts: Counter[str] = Counter()  # images by category
        selected = 0
        for image_id in self._index.rarest_first(self.rules.min_area):
            if selected == self.rules.images:
                return
            candidate = self._select(self._index.image(image_id), counts)
            if candidate.annotated:
                counts.update({target.category for target in candidate.annotated.instances})
                selected += 1
            yield candidate

    def candidate(self, image_id: int) -> Candidate:
        """Select from one image, whatever other ones hold."""
        return self._select(self._index.image(image_id), None)

    def _select(self, annotated: ImageAnnotations, counts: Counter[str] | None) -> Candidate:
        image = annotated.image
        usable, left_out = self._usable(annotated)
        enough = self.rules.per_category
        reason = None
        if self._index.repeated(image.image_id):
            reason = "the image is in the annotations twice"
        elif len(usable) < MIN_INSTANCES:
            reason = "fewer than 2 usable instances"
        elif counts is not None and enough is not None and all(counts[row.category] >= enough for row in usable):
            reason = "enough images of its categories"
        elif not (self._folder / image.file_name).is_file():
            reason = MISSING
        if reason:
            return Candidate(image, None, reason, left_out)
        rarest = sorted(usable, key=lambda target: (self._images_of[target.category], target.annotation_id))
        kept = {target.annotation_id for target in rarest[: self.rules.max_instances]}
        left_out["more than max_instances"] += len(usable) - len(kept)
        instances = tuple(target for target in usable if target.annotation_id in kept)
        everything = (*annotated.instances, *annotated.others)
        others = tuple(target for target in everything if target.annotation_id not in kept)
        return Candidate(image, replace(annotated, instances=instances, others=others), None, +left_out)

    def _usable(self, annotated: ImageAnnotations) -> tuple[list[MuseTarget], Counter[str]]:
        left_out = Counter({"crowd": len(annotated.others)})
        usable: list[MuseTarget] = []
        for target in sorted(annotated.instances, key=lambda target: target.annotation_id):
            reason = self._unusable(target, annotated.image) or _repeats(target, usable, annotated.image)
            if reason:
                left_out[reason] += 1
            else:
                usable.append(target)
        return usable, left_out

    def _unusable(self, target: MuseTarget, image: MuseImage) -> str | None:
        if target.area < self.rules.min_area * image.height * image.width:
            return "too small"
        return None if target.segmentation and min(target.box[2:]) > 0 else "no mask"


def _repeats(target: MuseTarget, before: list[MuseTarget], image: MuseImage) -> str | None:
    """Compare with earlier instances: COCO and LVIS hold some objects twice, under one category or two."""
    size = (image.height, image.width)
    near = [other for other in before if box_iou(target.box, other.box) >= SAME_BOX_IOU]
    for other in near:
        try:
            first = masks.union([masks.to_rles(target.segmentation, *size)], *size)
        except ValueError:
            return "unreadable mask"
        try:
            second = masks.union([masks.to_rles(other.segmentation, *size)], *size)
        except ValueError:
            continue  # the other's fault
        shared = masks.intersection_area(first, second)
        if shared >= SAME_MASK_IOU * max(1, masks.area(first) + masks.area(second) - shared):
            return "annotated twice"
    return None
