"""Questions and answers about an annotated image.

Answers are short and regular; each object named is followed by the slot `{seg}`, which stands for its mask:

    Segment the cat and every chair.  →  The cat {seg} and the chairs {seg}.

Everything random comes from the `random.Random` passed in. What is said is true of the masks as they are passed in,
after augmentation; a name is called absent only where the source annotates it, everywhere (`known`, `complete`).
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pixellm.data.categories import CATEGORIES, COLOURED, CONSPICUOUS, SINGLE_PERSON_WORDS
from pixellm.data.describe import (
    MIN_INSTANCE_AREA,
    ORDINALS,
    PAIRED,
    Noun,
    describe_instances,
    left_to_right,
    noun,
)
from pixellm.data.knowledge import Attribute, attributes, related, surely_absent
from pixellm.data.records import Instance
from pixellm.data.templates import (
    ALL_QUESTIONS,
    CAPTION_QUESTIONS,
    CATEGORY_QUESTIONS,
    INSTANCE_QUESTIONS,
    KINDS_QUESTIONS,
    NOTHING_FITS,
    SEPARATE_QUESTIONS,
    SEVERAL_QUESTIONS,
    fill,
    join,
    sentence,
    word_for,
)
from pixellm.types import SEG_SLOT

MIN_CATEGORY_AREA = 0.0002  # of the image: what covers less is neither asked for nor called absent
MAX_SLOTS = 8
MAX_FAILURES = 4  # draws of a kind without a new question before the kind is given up for this image
ABSENT_AMONG_SEVERAL_RATE = 0.25
SEPARATE_RATE = 0.2  # of instance questions
KNOWLEDGE_AMONG_NOTHING_RATE = 0.3

KIND_WEIGHTS = {
    "category": 0.30,
    "several": 0.12,
    "all": 0.10,
    "instance": 0.15,
    "knowledge": 0.15,
    "nothing": 0.15,
    "caption": 0.03,
}


@dataclass(frozen=True)
class Turn:
    """One question and its answer.

    `answer` has one `{seg}` for each entry of `targets`, in the same order; an entry lists the indexes of the instances
    whose masks are united. `kind`: a key of `KIND_WEIGHTS`.
    """

    question: str
    answer: str
    targets: tuple[tuple[int, ...], ...]
    kind: str


@dataclass(frozen=True)
class _Group:
    """All instances of one category: their indexes, and how they are spoken of."""

    category: str
    members: tuple[int, ...]
    area: float  # of the union, as a fraction of the image
    merged: bool  # some member stands for more than one instance, or may

    @property
    def noun(self) -> Noun:
        return noun(self.category)

    @property
    def many(self) -> bool:
        return len(self.members) > 1 or (self.merged and self.category in PAIRED)

    @property
    def uncounted(self) -> bool:
        return self.merged and len(self.members) == 1

    @property
    def the(self) -> str:
        return f"{self.noun.the(self.many)} {SEG_SLOT}"


@dataclass(frozen=True)
class _Scene:
    instances: Sequence[Instance[np.ndarray]]
    image_rgb: np.ndarray
    known: frozenset[str]
    complete: bool
    captions: Sequence[str]
    present: frozenset[str]  # every category that has an instance
    groups: tuple[_Group, ...]  # those large enough to be asked for, the largest first

    def absent(self) -> list[str]:
        """The names that are surely not in the picture, in alphabetical order."""
        return surely_absent(self.present, self.known) if self.complete else []


def build_turns(
    instances: Sequence[Instance[np.ndarray]],
    image_rgb: np.ndarray,
    known: frozenset[str],
    complete: bool,
    rng: random.Random,
    count: int,
    captions: Sequence[str] = (),
) -> list[Turn]:
    """Up to `count` questions of mixed kinds with their answers, no question twice.

    Args:
        instances: what is annotated in the image.
        image_rgb: uint8 (H, W, 3), for colours.
        known: the categories that the image's source annotates.
        complete: whether it annotates every instance of them. If not, nothing is said to be absent, and neither all
            instances nor all with an attribute are asked for.
        rng: the only source of randomness.
        count: how many are wanted; fewer come back where the image does not offer as many.
        captions: sentences that describe the image.

    Raises:
        ValueError: a mask is empty or not of the image's size, or a name has braces.
    """
    scene = _scene(instances, image_rgb, known, complete, captions)
    weights = dict(KIND_WEIGHTS)
    failures = dict.fromkeys(weights, 0)
    turns: list[Turn] = []
    asked: set[str] = set()
    while len(turns) < count and weights:
        kind = rng.choices(tuple(weights), tuple(weights.values()))[0]
        turn = _BUILDERS[kind](scene, rng)
        if turn is None or turn.question.lower() in asked:
            failures[kind] += 1
            if failures[kind] >= MAX_FAILURES:
                del weights[kind]
            continue
        asked.add(turn.question.lower())
        turns.append(turn)
    return turns


def askable_attributes(instances: Sequence[Instance[np.ndarray]], known: frozenset[str]) -> list[str]:
    """Keys of the attributes that can be asked of a completely annotated image with certainty, in the table's order."""
    groups = _groups(instances)
    present = frozenset(instance.category for instance in instances)
    return [key for key, attribute in attributes().items() if _fitting(attribute, groups, present, known) is not None]


def knowledge_turn(key: str, instances: Sequence[Instance[np.ndarray]]) -> Turn:
    """Ask in the first wording for everything that attribute `key` holds for.

    Whether the answer is certain depends on what the image's source annotates: see `askable_attributes`.

    Raises:
        ValueError: there is no such attribute.
    """
    known = attributes()
    if key not in known:
        raise ValueError(f"expected an attribute of attributes.yaml, got {key!r}. Known: {', '.join(known)}.")
    attribute = known[key]
    fitting = [group for group in _groups(instances) if group.category in attribute.members]
    return _knowledge_answer(attribute.questions[0], fitting)


def _scene(
    instances: Sequence[Instance[np.ndarray]],
    image_rgb: np.ndarray,
    known: frozenset[str],
    complete: bool,
    captions: Sequence[str],
) -> _Scene:
    for index, instance in enumerate(instances):
        if instance.mask.shape != image_rgb.shape[:2]:
            raise ValueError(
                f"instance {index} ({instance.category}): expected a mask of the image's size {image_rgb.shape[:2]}, "
                f"got {instance.mask.shape}. Augment image and masks together."
            )
        if "{" in instance.category or "}" in instance.category:
            raise ValueError(f"instance {index}: expected a name without braces, got {instance.category!r}. Rename it.")
    present = frozenset(instance.category for instance in instances)
    return _Scene(instances, image_rgb, known, complete, captions, present, tuple(_groups(instances)))


def _groups(instances: Sequence[Instance[np.ndarray]]) -> list[_Group]:
    """The categories that are large enough to be asked for, the largest first."""
    by_name: dict[str, list[int]] = {}
    for index, instance in enumerate(instances):
        if not instance.mask.any():
            raise ValueError(f"instance {index} ({instance.category}): expected a mask with pixels, got none. Drop it.")
        by_name.setdefault(instance.category, []).append(index)
    groups = []
    for name, members in by_name.items():
        union = np.logical_or.reduce([instances[index].mask for index in members])
        merged = any(instances[index].merged for index in members)
        groups.append(_Group(name, tuple(members), float(union.mean()), merged))
    return sorted((g for g in groups if g.area >= MIN_CATEGORY_AREA), key=lambda g: (-g.area, g.category))


def _category(scene: _Scene, rng: random.Random) -> Turn | None:
    if not scene.groups:
        return None
    group = rng.choice(scene.groups)
    many = group.many
    word = word_for(group.category, rng, scene.present, alone=len(group.members) == 1 and not group.merged)
    question = fill(rng.choice(CATEGORY_QUESTIONS), word, many)
    return Turn(question, sentence(group.the), (group.members,), "category")


def _several(scene: _Scene, rng: random.Random) -> Turn | None:
    absent = scene.absent()
    with_absent = bool(absent) and rng.random() < ABSENT_AMONG_SEVERAL_RATE
    most = min(4 - with_absent, len(scene.groups))
    least = 1 if with_absent else 2
    if most < least:
        return None
    chosen = rng.sample(scene.groups, rng.randint(least, most))
    asked = [rng.choice((g.noun.the(g.many), g.noun.every() if g.many else g.noun.the(False))) for g in chosen]
    answer = join([group.the for group in chosen])
    if with_absent:
        missing = noun(_pick_absent(scene, absent, rng))
        asked.insert(rng.randint(0, len(asked)), rng.choice((missing.the(rng.random() < 0.5), missing.every())))
        answer += f"; {missing.there_is_no()}"
    question = rng.choice(SEVERAL_QUESTIONS).format(list=join(asked))
    return Turn(question, sentence(answer), tuple(group.members for group in chosen), "several")


def _all(scene: _Scene, rng: random.Random) -> Turn | None:
    groups = scene.groups[:MAX_SLOTS]
    if not groups or not scene.complete:
        return None
    kinds = any(group.uncounted for group in groups) or rng.random() < 0.25
    question = rng.choice(KINDS_QUESTIONS if kinds else ALL_QUESTIONS)
    # Who asks for kinds gets names alone; who asks for objects gets them counted, a mask of many instances as "many".
    said = [group.noun.singular if kinds else _counted(group) for group in groups]
    answer = join([f"{name} {SEG_SLOT}" for name in said])
    return Turn(question, sentence(answer), tuple(group.members for group in groups), "all")


def _counted(group: _Group) -> str:
    if group.merged and group.noun.countable:
        return f"many {group.noun.plural}"
    return group.noun.counted(len(group.members))


def _instance(scene: _Scene, rng: random.Random) -> Turn | None:
    groups = [group for group in scene.groups if not group.merged and group.noun.countable]
    for group in rng.sample(groups, len(groups)):
        certain = scene.complete and group.category in scene.known
        if certain and rng.random() < SEPARATE_RATE:
            turn = _separate(scene, group, rng)
            if turn is not None:
                return turn
        masks = [scene.instances[index].mask for index in group.members]
        found = describe_instances(group.category, masks, scene.image_rgb, group.category in COLOURED, certain)
        if found:
            chosen = rng.choice(found)
            the = rng.choice(chosen.asked)
            question = rng.choice(INSTANCE_QUESTIONS).format(the=the, be="is")
            return Turn(
                question, sentence(f"{chosen.answer} {SEG_SLOT}"), ((group.members[chosen.index],),), "instance"
            )
    return None


def _separate(scene: _Scene, group: _Group, rng: random.Random) -> Turn | None:
    """Each instance with a slot of its own, from left to right."""
    masks = [scene.instances[index].mask for index in group.members]
    if not 2 <= len(masks) <= len(ORDINALS) or any(mask.mean() < MIN_INSTANCE_AREA for mask in masks):
        return None
    order = left_to_right(masks)
    if order is None:
        return None
    word = group.noun
    question = rng.choice(SEPARATE_QUESTIONS).format(name=word.singular, names=word.plural)
    answer = join([f"the {ordinal} {word.singular} {SEG_SLOT}" for ordinal in ORDINALS[: len(order)]])
    return Turn(question, sentence(answer), tuple((group.members[i],) for i in order), "instance")


def _knowledge(scene: _Scene, rng: random.Random, fits: bool = True) -> Turn | None:
    """A question by attribute; with `fits` off, one that nothing here fits."""
    if not scene.complete:
        return None
    possible = []
    for attribute in attributes().values():
        fitting = _fitting(attribute, scene.groups, scene.present, scene.known)
        if fitting is not None and bool(fitting) == fits:
            possible.append((attribute, fitting))
    if not possible:
        return None
    attribute, fitting = rng.choice(possible)
    return _knowledge_answer(rng.choice(attribute.questions), fitting)


def _fitting(
    attribute: Attribute, groups: Sequence[_Group], present: frozenset[str], known: frozenset[str]
) -> list[_Group] | None:
    """The groups that the attribute holds for, or None where that can't be told."""
    if present & attribute.ambiguous or not present <= CATEGORIES:
        return None
    fitting = [group for group in groups if group.category in attribute.members]
    if len(fitting) < len(present & attribute.members) or len(fitting) > MAX_SLOTS:
        return None
    missing = attribute.missing(known)
    certain = missing <= CONSPICUOUS if fitting else not missing and not present & attribute.hints
    return fitting if certain else None


def _knowledge_answer(question: str, fitting: Sequence[_Group]) -> Turn:
    if not fitting:
        return Turn(question, NOTHING_FITS, (), "nothing")
    answer = join([group.the for group in fitting])
    return Turn(question, sentence(answer), tuple(group.members for group in fitting), "knowledge")


def _nothing(scene: _Scene, rng: random.Random) -> Turn | None:
    absent = scene.absent()
    if not absent:
        return None
    if rng.random() < KNOWLEDGE_AMONG_NOTHING_RATE:
        turn = _knowledge(scene, rng, fits=False)
        if turn is not None:
            return turn
    name = _pick_absent(scene, absent, rng)
    word = word_for(name, rng, scene.present, alone=rng.random() < 0.5)
    many = word.singular not in SINGLE_PERSON_WORDS and rng.random() < 0.5
    question = fill(rng.choice(CATEGORY_QUESTIONS), word, many)
    return Turn(question, sentence(f"{noun(name).there_is_no()} here"), (), "nothing")


def _pick_absent(scene: _Scene, absent: Sequence[str], rng: random.Random) -> str:
    """Half of the time what might be mistaken for something present, if there is such a name."""
    alike = frozenset().union(*(related(name) for name in scene.present))
    likely = [name for name in absent if name in alike]
    return rng.choice(likely if likely and rng.random() < 0.5 else absent)


def _caption(scene: _Scene, rng: random.Random) -> Turn | None:
    # Braces would be read as slots.
    captions = [re.sub(r"\s+", " ", re.sub(r"[{}]", "", text)).strip() for text in scene.captions]
    captions = [text for text in captions if text]
    if not captions:
        return None
    text = rng.choice(captions)
    text = text[0].upper() + text[1:]
    return Turn(rng.choice(CAPTION_QUESTIONS), text if text[-1] in ".!?" else f"{text}.", (), "caption")


_BUILDERS: dict[str, Callable[[_Scene, random.Random], Turn | None]] = {
    "category": _category,
    "several": _several,
    "all": _all,
    "instance": _instance,
    "knowledge": _knowledge,
    "nothing": _nothing,
    "caption": _caption,
}
