"""Questions and answers about decoded masks, composed by rules: one of the two conversation builders (see `chat`).

Answers are short and regular; each object named is followed by the slot `{seg}`, which stands for its mask:

    Segment the cat and every chair.  →  The cat {seg} and the chairs {seg}.

Everything random comes from the `random.Random` passed in. Answers are true of the masks as they are passed in, after
augmentation; a category is called absent only where all its objects would be annotated (`AnnotatedImage.exhaustive`).
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pixellm.data import templates
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
from pixellm.data.records import AnnotatedImage, Exchange, Instance
from pixellm.data.templates import fill, join, sentence, word_for
from pixellm.types import SEG_SLOT

MIN_CATEGORY_AREA = 0.0002  # of the image: what covers less is neither asked for nor called absent
MAX_SLOTS = 8
MAX_FAILURES = 4  # attempts at a kind without a new question before it is given up for this image
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

DecodedInstance = Instance[np.ndarray]
DecodedExchange = Exchange[np.ndarray]


@dataclass(frozen=True)
class Grammar:
    """Conversation builder for decoded images.

    Args:
        questions: exchanges of mixed kinds for an image; fewer come back where it does not offer as many.
    """

    questions: int

    def build(self, annotated: AnnotatedImage, rng: random.Random) -> tuple[DecodedExchange, ...]:
        """Return exchanges whose targets are decoded, no question twice.

        Where annotations are incomplete, nothing is said to be absent, and neither all objects nor all with an
        attribute are asked for.

        Raises:
            ValueError: a mask is empty or not of the image's size, or a category has braces.
        """
        scene = _Scene(annotated)
        weights = dict(KIND_WEIGHTS)
        failures = dict.fromkeys(weights, 0)
        exchanges: dict[str, DecodedExchange] = {}
        while len(exchanges) < self.questions and weights:
            kind = rng.choices(tuple(weights), tuple(weights.values()))[0]
            exchange = _BUILDERS[kind](scene, rng)
            if exchange is None or exchange.question.lower() in exchanges:
                failures[kind] += 1
                if failures[kind] >= MAX_FAILURES:
                    del weights[kind]
                continue
            exchanges[exchange.question.lower()] = exchange
        return tuple(exchanges.values())


def knowledge_exchanges(annotated: AnnotatedImage) -> dict[str, DecodedExchange]:
    """Return a question for each attribute that can be asked with certainty, in its first wording, by attribute."""
    scene = _Scene(annotated)
    fitting = {attribute: scene.fitting(attribute) for attribute in attributes().values()}
    return {a.key: _knowledge_exchange(a.questions[0], groups) for a, groups in fitting.items() if groups is not None}


@dataclass(frozen=True)
class _Group:
    """All instances of one category, and their union as a target."""

    members: tuple[DecodedInstance, ...]
    target: DecodedInstance
    area: float  # of the union, as a fraction of the image

    @property
    def category(self) -> str:
        return self.target.category

    @property
    def merged(self) -> bool:
        return any(member.merged for member in self.members)

    @property
    def noun(self) -> Noun:
        return noun(self.category)

    @property
    def many(self) -> bool:
        return len(self.members) > 1 or (self.merged and self.category in PAIRED)

    @property
    def the(self) -> str:
        return f"{self.noun.the(self.many)} {SEG_SLOT}"

    @property
    def counted(self) -> str:
        """The noun with its number; a mask of many instances as "many"."""
        if self.merged and self.noun.countable:
            return f"many {self.noun.plural}"
        return self.noun.counted(len(self.members))


class _Scene:
    """An image's categories: all that are present, and those large enough to be asked for, the largest first."""

    def __init__(self, annotated: AnnotatedImage) -> None:
        self.annotated = annotated
        self.image_rgb = np.asarray(annotated.image)
        by_category: dict[str, list[DecodedInstance]] = {}
        for index, instance in enumerate(annotated.instances):
            self._check(index, instance)
            by_category.setdefault(instance.category, []).append(instance)
        self.present = frozenset(by_category)
        groups = [_group(category, members) for category, members in by_category.items()]
        self.groups = sorted((g for g in groups if g.area >= MIN_CATEGORY_AREA), key=lambda g: (-g.area, g.category))

    def _check(self, index: int, instance: DecodedInstance) -> None:
        name, expected = f"instance {index} ({instance.category})", self.image_rgb.shape[:2]
        if instance.mask.shape != expected:
            raise ValueError(
                f"{name}: expected a mask of the image's size {expected}, got {instance.mask.shape}. "
                "Augment image and masks together."
            )
        if not instance.mask.any():
            raise ValueError(f"{name}: expected a mask with pixels, got none. Drop it.")
        if "{" in instance.category or "}" in instance.category:
            raise ValueError(f"{name}: expected a category without braces. Rename it.")

    @property
    def exhaustive(self) -> frozenset[str] | None:
        return self.annotated.exhaustive

    def absent(self) -> list[str]:
        """Return the categories that are surely not in the image, in alphabetical order."""
        return [] if self.exhaustive is None else surely_absent(self.present, self.exhaustive)

    def fitting(self, attribute: Attribute) -> list[_Group] | None:
        """Return the groups that the attribute holds for, or None where that is not certain."""
        if self.exhaustive is None or self.present & attribute.ambiguous or not self.present <= CATEGORIES:
            return None
        fitting = [group for group in self.groups if group.category in attribute.members]
        if len(fitting) < len(self.present & attribute.members) or len(fitting) > MAX_SLOTS:
            return None
        missing = attribute.missing(self.exhaustive)
        certain = missing <= CONSPICUOUS if fitting else not missing and not self.present & attribute.hints
        return fitting if certain else None


def _group(category: str, members: Sequence[DecodedInstance]) -> _Group:
    union = np.logical_or.reduce([member.mask for member in members])
    target = Instance((category,), union, category, len(members) > 1 or members[0].merged)
    return _Group(tuple(members), target, float(union.mean()))


def _targets(groups: Sequence[_Group]) -> tuple[DecodedInstance, ...]:
    return tuple(group.target for group in groups)


def _category(scene: _Scene, rng: random.Random) -> DecodedExchange | None:
    if not scene.groups:
        return None
    group = rng.choice(scene.groups)
    many = group.many
    word = word_for(group.category, rng, scene.present, alone=len(group.members) == 1 and not group.merged)
    question = fill(rng.choice(templates.CATEGORY_QUESTIONS), word, many)
    return Exchange(question, sentence(group.the), (group.target,), kind="category")


def _several(scene: _Scene, rng: random.Random) -> DecodedExchange | None:
    absent = scene.absent()
    with_absent = bool(absent) and rng.random() < ABSENT_AMONG_SEVERAL_RATE
    most = min(4 - with_absent, len(scene.groups))
    least = 1 if with_absent else 2
    if most < least:
        return None
    groups = rng.sample(scene.groups, rng.randint(least, most))
    names = [rng.choice((g.noun.the(g.many), g.noun.every() if g.many else g.noun.the(False))) for g in groups]
    answer = join([group.the for group in groups])
    if with_absent:
        missing = noun(_pick_absent(scene, absent, rng))
        names.insert(rng.randint(0, len(names)), rng.choice((missing.the(rng.random() < 0.5), missing.every())))
        answer += f"; {missing.there_is_no()}"
    question = rng.choice(templates.SEVERAL_QUESTIONS).format(list=join(names))
    return Exchange(question, sentence(answer), _targets(groups), kind="several")


def _all(scene: _Scene, rng: random.Random) -> DecodedExchange | None:
    groups = scene.groups[:MAX_SLOTS]
    if not groups or scene.exhaustive is None:
        return None
    # A merged mask can't be counted: then kinds are asked for, and named without a number.
    uncounted = any(group.merged and len(group.members) == 1 for group in groups)
    kinds = uncounted or rng.random() < 0.25
    question = rng.choice(templates.KINDS_QUESTIONS if kinds else templates.ALL_QUESTIONS)
    names = [group.noun.singular if kinds else group.counted for group in groups]
    answer = join([f"{name} {SEG_SLOT}" for name in names])
    return Exchange(question, sentence(answer), _targets(groups), kind="all")


def _instance(scene: _Scene, rng: random.Random) -> DecodedExchange | None:
    groups = [group for group in scene.groups if not group.merged and group.noun.countable]
    for group in rng.sample(groups, len(groups)):
        certain = scene.exhaustive is not None and group.category in scene.exhaustive
        if certain and rng.random() < SEPARATE_RATE:
            exchange = _separate(group, rng)
            if exchange is not None:
                return exchange
        masks = [member.mask for member in group.members]
        options = describe_instances(group.category, masks, scene.image_rgb, group.category in COLOURED, certain)
        if options:
            description = rng.choice(options)
            phrase = rng.choice(description.phrases)
            question = rng.choice(templates.INSTANCE_QUESTIONS).format(the=phrase, be="is")
            answer = sentence(f"{description.answer} {SEG_SLOT}")
            return Exchange(question, answer, (group.members[description.index],), kind="instance")
    return None


def _separate(group: _Group, rng: random.Random) -> DecodedExchange | None:
    """Ask for each instance with a slot of its own, from left to right."""
    masks = [member.mask for member in group.members]
    if not 2 <= len(masks) <= len(ORDINALS) or any(mask.mean() < MIN_INSTANCE_AREA for mask in masks):
        return None
    order = left_to_right(masks)
    if order is None:
        return None
    word = group.noun
    question = rng.choice(templates.SEPARATE_QUESTIONS).format(name=word.singular, names=word.plural)
    answer = join([f"the {ordinal} {word.singular} {SEG_SLOT}" for ordinal in ORDINALS[: len(order)]])
    return Exchange(question, sentence(answer), tuple(group.members[i] for i in order), kind="instance")


def _knowledge(scene: _Scene, rng: random.Random, fits: bool = True) -> DecodedExchange | None:
    """Ask by attribute; with `fits` off, for one that holds for nothing here."""
    fitting = [(attribute, scene.fitting(attribute)) for attribute in attributes().values()]
    possible = [(attribute, groups) for attribute, groups in fitting if groups is not None and bool(groups) == fits]
    if not possible:
        return None
    attribute, groups = rng.choice(possible)
    return _knowledge_exchange(rng.choice(attribute.questions), groups)


def _knowledge_exchange(question: str, fitting: Sequence[_Group]) -> DecodedExchange:
    if not fitting:
        return Exchange(question, templates.NOTHING_FITS, (), kind="nothing")
    answer = join([group.the for group in fitting])
    return Exchange(question, sentence(answer), _targets(fitting), kind="knowledge")


def _nothing(scene: _Scene, rng: random.Random) -> DecodedExchange | None:
    absent = scene.absent()
    if not absent:
        return None
    if rng.random() < KNOWLEDGE_AMONG_NOTHING_RATE:
        exchange = _knowledge(scene, rng, fits=False)
        if exchange is not None:
            return exchange
    name = _pick_absent(scene, absent, rng)
    word = word_for(name, rng, scene.present, alone=rng.random() < 0.5)
    many = word.singular not in SINGLE_PERSON_WORDS and rng.random() < 0.5
    question = fill(rng.choice(templates.CATEGORY_QUESTIONS), word, many)
    return Exchange(question, sentence(f"{noun(name).there_is_no()} here"), (), kind="nothing")


def _pick_absent(scene: _Scene, absent: Sequence[str], rng: random.Random) -> str:
    """Return, half of the time, what might be mistaken for something present, if there is such a category."""
    alike = frozenset().union(*(related(name) for name in scene.present))
    likely = [name for name in absent if name in alike]
    return rng.choice(likely if likely and rng.random() < 0.5 else absent)


def _caption(scene: _Scene, rng: random.Random) -> DecodedExchange | None:
    # Braces would be read as slots.
    captions = [re.sub(r"\s+", " ", re.sub(r"[{}]", "", text)).strip() for text in scene.annotated.captions]
    captions = [text for text in captions if text]
    if not captions:
        return None
    text = rng.choice(captions)
    text = text[0].upper() + text[1:]
    answer = text if text[-1] in ".!?" else f"{text}."
    return Exchange(rng.choice(templates.CAPTION_QUESTIONS), answer, (), kind="caption")


_BUILDERS: dict[str, Callable[[_Scene, random.Random], DecodedExchange | None]] = {
    "category": _category,
    "several": _several,
    "all": _all,
    "instance": _instance,
    "knowledge": _knowledge,
    "nothing": _nothing,
    "caption": _caption,
}
