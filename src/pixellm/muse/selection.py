"""Which photographs and which things in them are asked about, and why the others are not.

Source → images, those with rare categories first → usable things → Scene, or the reason why there is none
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pixellm.imaging import masks
from pixellm.muse.quality.checks import SAME_BOX_IOU, SAME_MASK_IOU, box_iou
from pixellm.muse.records import MuseImage, MuseTarget
from pixellm.muse.scene import Scene
from pixellm.muse.source import Annotated, Source

MIN_THINGS = 2


@dataclass(frozen=True)
class Rules:
    """What is usable.

    Args:
        min_area: of the image; what is smaller can hardly be seen.
        max_things: of one photograph, those of the rarest categories; MUSE has up to 34 targets a question.
        per_category: photographs that are enough of a category: others come in only for rarer ones; None: all come in.
        images: photographs at most; None: all.
    """

    min_area: float = 0.002
    max_things: int = 34
    per_category: int | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_area < 1:
            raise ValueError(f"expected a min_area of 0 to 1, a part of the image, got {self.min_area}.")
        for name in ("max_things", "per_category", "images"):
            value, least = getattr(self, name), MIN_THINGS if name == "max_things" else 1
            if value is not None and value < least:
                raise ValueError(f"expected {name} of {least} or more, got {value}.")


@dataclass(frozen=True)
class Chosen:
    """A photograph: its scene, or the reason why there is none; and why things were left out, with their number."""

    image: MuseImage
    scene: Scene | None = None
    reason: str | None = None
    left_out: Counter[str] = field(default_factory=Counter)


class Selection:
    """Goes through a source; the same rules give the same scenes in the same order.

    Args:
        source: of annotations.
        images: folder of the photographs.
        rules: what is usable.
    """

    def __init__(self, source: Source, images: Path, rules: Rules) -> None:
        self._source, self._folder, self.rules = source, images, rules
        self._images_of = source.images_by_category(rules.min_area)

    def __iter__(self) -> Iterator[Chosen]:
        """Each photograph once, until there are as many scenes as wanted."""
        shown: Counter[str] = Counter()  # photographs by category
        scenes = 0
        for image_id in self._source.rarest_first(self.rules.min_area):
            if scenes == self.rules.images:
                return
            chosen = self._choose(self._source.image(image_id), shown)
            if chosen.scene:
                shown.update({thing.category for thing in chosen.scene.things})
                scenes += 1
            yield chosen

    def scene(self, image_id: int) -> Chosen:
        """A photograph by itself, whatever other ones show."""
        return self._choose(self._source.image(image_id), None)

    def _choose(self, found: Annotated, shown: Counter[str] | None) -> Chosen:
        usable, left_out = self._usable(found)
        categories = {one.category for one in usable}
        enough = self.rules.per_category
        reason = None
        if self._source.repeated(found.image.image_id):
            reason = "the photograph is in the source twice"
        elif len(usable) < MIN_THINGS:
            reason = "fewer than 2 usable things"
        elif shown is not None and enough is not None and all(shown[name] >= enough for name in categories):
            reason = "enough photographs of its categories"
        elif not (self._folder / found.image.file_name).is_file():
            reason = MISSING
        if reason:
            return Chosen(found.image, None, reason, left_out)
        rarest = sorted(usable, key=lambda one: (self._images_of[one.category], one.annotation_id))
        kept = {one.annotation_id for one in rarest[: self.rules.max_things]}
        left_out["more than max_things"] += len(usable) - len(kept)
        things = tuple(one for one in usable if one.annotation_id in kept)
        others = tuple(one for one in (*found.things, *found.crowds) if one.annotation_id not in kept)
        scene = Scene(found.image, things, others, found.complete, found.captions, found.exhaustive)
        return Chosen(found.image, scene, None, +left_out)

    def _usable(self, found: Annotated) -> tuple[list[MuseTarget], Counter[str]]:
        """By annotation id."""
        left_out = Counter({"crowd": len(found.crowds)})
        usable: list[MuseTarget] = []
        for thing in sorted(found.things, key=lambda one: one.annotation_id):
            reason = self._fault(thing, found.image) or _repeats(thing, usable, found.image)
            if reason:
                left_out[reason] += 1
            else:
                usable.append(thing)
        return usable, left_out

    def _fault(self, thing: MuseTarget, image: MuseImage) -> str | None:
        if thing.area < self.rules.min_area * image.height * image.width:
            return "too small"
        return None if thing.segmentation and min(thing.box[2:]) > 0 else "no mask"


MISSING = "the image file is missing (is --images the right folder?)"


def _repeats(thing: MuseTarget, before: list[MuseTarget], image: MuseImage) -> str | None:
    """COCO and LVIS hold some things twice, under one category or two."""
    for other in before:
        if box_iou(thing.box, other.box) < SAME_BOX_IOU:
            continue
        try:
            one, two = (
                masks.united([masks.to_rles(each.segmentation, image.height, image.width)], image.height, image.width)
                for each in (thing, other)
            )
        except ValueError:
            return "unreadable mask"
        shared = masks.common(one, two)
        if shared >= SAME_MASK_IOU * max(1, masks.area(one) + masks.area(two) - shared):
            return "annotated twice"
    return None
