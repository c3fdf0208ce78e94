"""Drafts of questions about an image, whose answers follow from what is annotated.

properties → all that have one · those in a part of the image · the first and the last · activities · two needs
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from pixellm.data.describe import CLEAR_OFFSET, CLEAR_SIZE_RATIO, COUNT_WORDS
from pixellm.muse.quality.checks import MIN_TARGETS
from pixellm.muse.records import ImageAnnotations, MuseTarget
from pixellm.muse.template.knowledge import SLOT, Activity, Property, activities, properties

MAX_TARGETS = 12
MAX_OF_PART = 4  # instances for one part of an activity: with more of them, none is singled out
PART_QUESTIONS = 3  # with each condition that only some instances meet
NEEDS_QUESTIONS = 3  # about each two needs
TINY = 2.0  # least ratio of the areas of targets to those that a question leaves out as tiny
MIDDLE = 0.06  # fraction of a side: a centre so close to the middle is in neither half
HALVES = (
    ("x", -1, ("Look at the left half of the picture only.", "Suppose that the right half of the picture is covered.")),
    ("x", 1, ("Look at the right half of the picture only.", "Suppose that the left half of the picture is covered.")),
    ("y", 1, ("Only the lower half of the picture matters.",)),
    ("y", -1, ("Only the upper half of the picture matters.",)),
)
LARGEST = ("Only the {count} that take up most of the picture matter.", "I care for the {count} largest ones alone.")
WITHOUT = (("furthest to the left", 0), ("furthest to the right", -1))
NO_TINY = ("Leave out what is tiny.", "Never mind what is tiny.", "Small ones in the distance don't count.")
EXAMPLES = ("{count} examples will do.", "It is enough to name {count}.", "Show me {count}.")
COMPARED = (
    ("Think of all that {clause}. Which of it is furthest to the left, and which furthest to the right?", "x"),
    (
        "Look for the two ends: of all that {clause}, what has its middle furthest left, what furthest right?",
        "x",
    ),
    ("Among all that {clause}, which takes up most of the picture, and which takes up least?", "size"),
    ("Compare all that {clause}: what is highest up in the picture, and what is lowest?", "y"),
)
NEEDS = (
    (
        "Two friends come along. One {0}, the other {1}. What would you show them?",
        "The first one {a}, the second one {b}.",
    ),
    ("Anna {0}, and Maria {1}. What do you point out to them?", "Anna {a}, Maria {b}."),
    ("There are two guests to look after: one {0}, and one {1}. What fits?", "The first guest {a}, the other one {b}."),
    ("Somebody {0}. Her sister, however, {1}. How could both be helped?", "Somebody {a}, her sister {b}."),
)
GETS = (("gets {0}", "{1}"), ("would be glad about {0}", "about {1}"), ("should turn to {0}", "to {1}"))
ENDS = {
    "x": ("Furthest to the left: {0}. Furthest to the right: {1}.", "On the left end I see {0}, on the right end {1}."),
    "y": ("Highest up: {0}. Lowest down: {1}.", "{0} at the upper end, {1} at the lower one."),
    "size": (
        "Most of the picture: {0}. Least of it: {1}.",
        "The largest part is taken up by {0}, the smallest by {1}.",
    ),
}
Targets = tuple[MuseTarget, ...]


@dataclass(frozen=True)
class TemplateDraft:
    """Question with an answer in which `{0}`, `{1}` … stand for groups of instances."""

    kind: str
    question: str
    sentence: str
    groups: tuple[Targets, ...]


def drafts(image: ImageAnnotations, named: Sequence[MuseTarget], rng: random.Random) -> Iterator[TemplateDraft]:
    """Yield all drafts about an image; `named`: instances that have a phrase."""
    for row in properties():
        members, tiny = _members(row, image, named)
        if members:
            yield from _about_property(row, members, image, " " + rng.choice(NO_TINY) if tiny else "", rng)
    yield from _about_needs(image, named, rng)
    for row in activities():
        yield from _about_activity(row, image, named)


def _members(
    row: Property, image: ImageAnnotations, named: Sequence[MuseTarget], least: int = MIN_TARGETS
) -> tuple[Targets, bool]:
    """Return all instances with a property, and True if there are tiny ones besides; none if some have no phrase."""
    everything = (*image.instances, *image.others)
    rows = sorted((target for target in everything if target.category in row.holds), key=lambda target: -target.area)
    present = {target.category for target in everything}
    if present & row.unclear or any(target.category not in image.complete for target in rows):
        return (), False
    for count in range(min(len(rows), MAX_TARGETS), least - 1, -1):
        rest = rows[count:]
        if rest and rest[0].area * TINY > rows[count - 1].area:
            continue
        if all(target in named for target in rows[:count]):
            return tuple(rows[:count]), bool(rest)
    return (), False


def _about_property(
    row: Property, members: Targets, image: ImageAnnotations, tiny: str, rng: random.Random
) -> Iterator[TemplateDraft]:
    if not image.exhaustive:
        if tiny or len(members) not in COUNT_WORDS:
            return
        tiny = " " + capital(rng.choice(EXAMPLES).format(count=COUNT_WORDS[len(members)]))
    for question in row.questions:
        yield _draft(row, question + tiny, members, rng)
    if not image.exhaustive or len(members) == MIN_TARGETS:
        return
    for condition, some in _conditions(members, image, rng):
        for question in rng.sample(row.questions, min(PART_QUESTIONS, len(row.questions))):
            yield _draft(row, f"{question} {condition}{tiny}", some, rng, "part")
    for question, order in COMPARED if row.clause and not tiny else ():
        ends = _ends(order, members, image)
        if ends:
            text = question.format(clause=row.clause)
            yield TemplateDraft(f"compare {order}", text, rng.choice(ENDS[order]), tuple((end,) for end in ends))


def _draft(row: Property, question: str, members: Targets, rng: random.Random, kind: str = "property") -> TemplateDraft:
    return TemplateDraft(f"{kind} {row.key}", question, rng.choice(row.answers).replace(SLOT, "{0}"), (members,))


def _conditions(members: Targets, image: ImageAnnotations, rng: random.Random) -> Iterator[tuple[str, Targets]]:
    """Yield conditions that only some of the members meet, two at least, with those that do."""
    for axis, sign, wordings in HALVES:
        offsets = [sign * (_centre(target, image)[axis] - 0.5) for target in members]
        some = tuple(target for target, offset in zip(members, offsets, strict=True) if offset > 0)
        if min(map(abs, offsets)) > MIDDLE and MIN_TARGETS <= len(some) < len(members):
            yield rng.choice(wordings), some
    rows = sorted(members, key=lambda target: -target.area)
    for count in range(MIN_TARGETS, min(len(members), max(COUNT_WORDS) + 1)):
        if rows[count - 1].area >= CLEAR_SIZE_RATIO * rows[count].area:
            yield rng.choice(LARGEST).format(count=COUNT_WORDS[count]), tuple(rows[:count])
    row = sorted(members, key=lambda target: _centre(target, image)["x"])
    for wording, end in WITHOUT:
        clear = abs(_centre(row[end], image)["x"] - _centre(row[1 if end == 0 else -2], image)["x"]) >= CLEAR_OFFSET
        if clear and len(row) > MIN_TARGETS:
            others = tuple(target for target in row if target is not row[end])
            yield f"The one {wording} is none of my business.", others


def _centre(target: MuseTarget, image: ImageAnnotations) -> dict[str, float]:
    """Return the centre of the box, in fractions of width and height."""
    x, y, width, height = target.box
    return {"x": (x + width / 2) / image.image.width, "y": (y + height / 2) / image.image.height}


def _ends(order: str, members: Targets, image: ImageAnnotations) -> tuple[MuseTarget, MuseTarget] | None:
    """Return the first and the last member, if both are clearly ahead of the next ones."""
    if order == "size":
        row = sorted(members, key=lambda target: -target.area)
        clear = all(row[i].area >= CLEAR_SIZE_RATIO * row[i + 1].area for i in (0, len(row) - 2))
    else:
        row = sorted(members, key=lambda target: _centre(target, image)[order])
        places = [_centre(target, image)[order] for target in row]
        clear = all(places[i + 1] - places[i] >= CLEAR_OFFSET for i in (0, len(row) - 2))
    return (row[0], row[-1]) if clear else None


def _about_needs(image: ImageAnnotations, named: Sequence[MuseTarget], rng: random.Random) -> Iterator[TemplateDraft]:
    """Yield questions about two people with different needs: whatever there is for either, if it isn't much."""
    rows = [(row, _members(row, image, named, 1)[0]) for row in properties() if row.need]
    for pair in combinations([row for row in rows if 0 < len(row[1]) <= MAX_OF_PART], 2):
        (_, members), (_, others) = pair
        if {target.annotation_id for target in members} & {target.annotation_id for target in others}:
            continue
        (first, members), (second, others) = pair[::-1] if rng.random() < 0.5 else pair
        for question, answer in rng.sample(NEEDS, NEEDS_QUESTIONS):
            a, b = rng.choice(GETS)
            text = question.format(first.need, second.need)
            yield TemplateDraft("needs", text, answer.format(a=a, b=b), (members, others))


def _about_activity(row: Activity, image: ImageAnnotations, named: Sequence[MuseTarget]) -> Iterator[TemplateDraft]:
    groups: list[Targets] = []
    clauses: list[str] = []
    filled: set[int] = set()
    used: set[int] = set()
    for number, (names, clause) in enumerate(row.parts):
        group = tuple(
            target for target in image.instances if target.category in names and target.annotation_id not in used
        )
        if not 0 < len(group) <= MAX_OF_PART or any(target not in named for target in group):
            continue
        used |= {target.annotation_id for target in group}
        filled.add(number)
        clauses.append(clause.replace(SLOT, f"{{{len(groups)}}}"))
        groups.append(group)
    enough = len(filled) == len(row.parts) if row.all else len(filled) >= 2 and (not row.needs or filled & {*row.needs})
    if not enough or not MIN_TARGETS <= len(used) <= MAX_TARGETS:
        return
    for question in row.questions:
        yield TemplateDraft(f"activity {row.key}", question, enumerated(clauses), tuple(groups))


def enumerated(items: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def capital(text: str) -> str:
    """Capitalise the first letter, and leave the others."""
    return text[:1].upper() + text[1:]
