"""Scenes as lists of objects, questions about them, and what can be read off their boxes."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from pixellm.data.describe import spoken
from pixellm.data.knowledge import surely_absent
from pixellm.data.records import AnnotatedImage
from pixellm.mini.scenes.facts import Fact, facts
from pixellm.mini.scenes.lexicon import ORDINALS, canonical, names, noun_of, number, overlapping, unlabelled

MIN_AREA = 0.0004  # of the image: smaller boxes are hardly to be seen
READING_OFFSET = 0.03  # of the width, between the centres of objects that are counted from left to right
MAX_ORDERED = 10


@dataclass(frozen=True)
class SceneObject:
    """One object, or one region of stuff.

    Args:
        category: singular lower-case name, as it is spoken.
        box: left, top, right, bottom as fractions of the image.
    """

    category: str
    box: tuple[float, float, float, float]

    @property
    def x(self) -> float:
        return (self.box[0] + self.box[2]) / 2

    @property
    def y(self) -> float:
        return (self.box[1] + self.box[3]) / 2

    @property
    def width(self) -> float:
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]

    @property
    def area(self) -> float:
        return self.width * self.height


@dataclass(frozen=True)
class Scene:
    """The objects of an image.

    Args:
        objects: in any order.
        known: categories all of whose objects are listed: others may not be called absent.
        uncounted: categories with a box that may hold several objects: these are not told apart.
    """

    objects: tuple[SceneObject, ...]
    known: frozenset[str]
    uncounted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Args:
        question: one or two sentences.
        answer: one "{seg}" for each entry of `targets`, right after its phrase.
        targets: for each {seg}, the numbers of the scene's objects that its mask covers.
    """

    question: str
    answer: str
    targets: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class SceneQuestion:
    """One question, or one with others that follow it. `base`: the kind whose form a "nothing" question has."""

    kind: str
    turns: tuple[Turn, ...]
    base: str


@lru_cache(maxsize=64)  # a dataset has few sets of known names
def _canonical(categories: frozenset[str]) -> frozenset[str]:
    return frozenset(map(canonical, categories))


def scene_of(annotated: AnnotatedImage) -> Scene:
    """Return the objects of an annotated image by the boxes of their masks, and those known by box alone."""
    width, height = annotated.image.size
    objects = [
        SceneObject(spoken(instance.category).lower(), _mask_box(instance.mask))
        for instance in annotated.instances
        if instance.category
    ]
    for category, (x, y, w, h) in annotated.boxes:
        box = (x / width, y / height, (x + w) / width, (y + h) / height)
        objects.append(SceneObject(spoken(category).lower(), box))
    uncounted = {spoken(instance.category).lower() for instance in annotated.instances if instance.merged}
    known = {spoken(name).lower() for name in annotated.exhaustive or ()}
    return Scene(tuple(objects), frozenset(known), frozenset(uncounted))


def _mask_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


class SceneView:
    """Facts of a scene that a question may use: categories, names, order, and facts that are certain."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.objects = scene, scene.objects
        by_category: dict[str, list[int]] = {}
        for index, item in enumerate(scene.objects):
            by_category.setdefault(item.category, []).append(index)
        self.members = {
            category: tuple(sorted(indices, key=lambda i: (self.objects[i].x, i)))
            for category, indices in by_category.items()
        }

    @cached_property
    def present(self) -> frozenset[str]:
        return frozenset(self.members)

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Categories that are large enough to be asked for, the largest first."""
        area = {c: sum(self.objects[i].area for i in m) for c, m in self.members.items()}
        return tuple(sorted((c for c in area if area[c] >= MIN_AREA), key=lambda c: (-area[c], c)))

    @cached_property
    def countable(self) -> tuple[str, ...]:
        """Categories whose objects can be told apart, and are all large enough."""
        return tuple(
            category
            for category in self.categories
            if category not in self.scene.uncounted
            and noun_of(category).countable
            and all(self.objects[i].area >= MIN_AREA for i in self.members[category])
        )

    @cached_property
    def absent(self) -> tuple[str, ...]:
        """Categories that are surely not in the image, sorted."""
        maybe = self.present.union(*(overlapping(category) for category in self.present))
        maybe |= {canonical(category) for category in self.present}
        free = (name for name in surely_absent(self.present, self.scene.known) if canonical(name) not in maybe)
        return tuple(dict.fromkeys(free))

    @property
    def complete(self) -> bool:
        """Return whether a place without a listed object may be called empty."""
        return self.present <= self.scene.known

    def many(self, category: str) -> bool:
        return len(self.members[category]) > 1 or category in self.scene.uncounted

    def the(self, category: str) -> str:
        """Return the noun with article and number: "the two dogs"."""
        word, count = noun_of(category), len(self.members[category])
        if not word.countable or category in self.scene.uncounted or count == 1:
            return word.the(self.many(category))
        return f"the {number(count)} {word.plural}"

    def counted(self, category: str) -> str:
        """Return the noun with its number: "two dogs", "a cat"."""
        word, count = noun_of(category), len(self.members[category])
        if not word.countable or category in self.scene.uncounted or count == 1:
            return word.some(self.many(category))
        return f"{number(count)} {word.plural}"

    def plural(self, category: str) -> bool:
        return noun_of(category).is_plural(self.many(category))

    def order(self, category: str) -> tuple[int, ...] | None:
        """Return its objects from left to right; None where two are too close to tell, or there are too many."""
        members = self.members[category]
        across = [self.objects[i].x for i in members]
        clear = all(right - left >= READING_OFFSET for left, right in pairwise(across))
        return members if clear and len(members) <= MAX_ORDERED else None

    def label(self, index: int) -> str:
        """Return a phrase for one object that fits no other, if there is one: "the chair on the left"."""
        category = self.objects[index].category
        word, members = noun_of(category).singular, self.members[category]
        if len(members) == 1:
            return f"the {word}"
        order = self.order(category)
        if order is None:
            return f"one of {self.the(category)}"
        rank = order.index(index)
        if len(order) == 2:
            return f"the {word} on the {('left', 'right')[rank]}"
        if rank in (0, len(order) - 1):
            return f"the {word} on the far {'left' if rank == 0 else 'right'}"
        if len(order) % 2 and rank == len(order) // 2:
            return f"the {word} in the middle"
        if rank < len(order) / 2:
            return f"the {ORDINALS[rank]} {word} from the left"
        return f"the {ORDINALS[len(order) - 1 - rank]} {word} from the right"

    @cached_property
    def decided(self) -> frozenset[str] | None:
        """Canonical names of all categories, or None where one has no facts."""
        found = frozenset(canonical(category) for category in self.present)
        return found if found <= names() else None

    def fitting(self, fact: Fact) -> tuple[str, ...] | None:
        """Return the categories that a fact holds for, the largest first; None where that is not certain."""
        if self.decided is None or self.decided & fact.maybe:
            return None
        fitting = tuple(c for c in self.categories if canonical(c) in fact.members)
        if len(fitting) < sum(canonical(c) in fact.members for c in self.present):
            return None
        return fitting if fitting or self._covers(fact) else None

    def _covers(self, fact: Fact) -> bool:
        """Return whether objects that the fact holds for would be listed."""
        missing = fact.members - _canonical(self.scene.known)
        return len(missing) < len(fact.members) and not missing & unlabelled()

    @cached_property
    def fits(self) -> tuple[tuple[Fact, tuple[str, ...]], ...]:
        """Facts that are certain, with the categories that they hold for."""
        found = ((fact, self.fitting(fact)) for fact in facts())
        return tuple((fact, fitting) for fact, fitting in found if fitting is not None)

    def total(self, categories: Iterable[str]) -> tuple[int, ...]:
        return tuple(index for category in categories for index in self.members[category])
