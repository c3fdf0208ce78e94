"""What may be asked about a scene: questions whose answers follow from what is annotated.

properties → all that one holds for · those in a part of the picture · the first and the last · activities · two needs
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from pixellm.data.describe import CLEAR_OFFSET, CLEAR_SIZE_RATIO, COUNT_WORDS
from pixellm.muse.quality.checks import MIN_TARGETS
from pixellm.muse.records import MuseTarget
from pixellm.muse.scene import Scene
from pixellm.muse.template.knowledge import SLOT, Activity, Property, activities, properties

MAX_TARGETS = 12
MAX_OF_PART = 4  # things for one part of an activity: with more of them, none is singled out
PART_QUESTIONS = 3  # with each condition that only some things meet
NEEDS_QUESTIONS = 3  # about each two needs
TINY = 2.0  # how much larger everything that is shown is than what a question leaves out as tiny
MIDDLE = 0.06  # of a side: what has its centre so close to the middle is in neither half
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


@dataclass(frozen=True)
class Draft:
    """A question with an answer in which `{0}`, `{1}` … stand for groups of things."""

    kind: str
    question: str
    sentence: str
    things: tuple[tuple[MuseTarget, ...], ...]


def drafts(scene: Scene, named: Sequence[MuseTarget], rng: random.Random) -> Iterator[Draft]:
    for one in properties():
        members, tiny = _members(one, scene, named)
        if members:
            yield from _about_property(one, members, scene, " " + rng.choice(NO_TINY) if tiny else "", rng)
    yield from _about_needs(scene, named, rng)
    for one in activities():
        yield from _about_activity(one, scene, named)


def _members(
    one: Property, scene: Scene, named: Sequence[MuseTarget], least: int = MIN_TARGETS
) -> tuple[tuple[MuseTarget, ...], bool]:
    """All that it holds for, and whether there are tiny ones besides; nothing where some can't be told apart."""
    everything = (*scene.things, *scene.others)
    rows = sorted((thing for thing in everything if thing.category in one.holds), key=lambda thing: -thing.area)
    present = {thing.category for thing in everything}
    if present & one.unclear or any(thing.category not in scene.complete for thing in rows):
        return (), False
    for count in range(min(len(rows), MAX_TARGETS), least - 1, -1):
        rest = rows[count:]
        if rest and rest[0].area * TINY > rows[count - 1].area:
            continue
        if all(thing in named for thing in rows[:count]):
            return tuple(rows[:count]), bool(rest)
    return (), False


def _about_property(
    one: Property, members: tuple[MuseTarget, ...], scene: Scene, tiny: str, rng: random.Random
) -> Iterator[Draft]:
    if not scene.exhaustive:
        if tiny or len(members) not in COUNT_WORDS:
            return
        tiny = " " + capital(rng.choice(EXAMPLES).format(count=COUNT_WORDS[len(members)]))
    for question in one.questions:
        yield _draft(one, question + tiny, members, rng)
    if not scene.exhaustive or len(members) == MIN_TARGETS:
        return
    for more, part in _parts(members, scene, rng):
        for question in rng.sample(one.questions, min(PART_QUESTIONS, len(one.questions))):
            yield _draft(one, f"{question} {more}{tiny}", part, rng, "part")
    for question, by in COMPARED if one.clause and not tiny else ():
        ends = _ends(by, members, scene)
        if ends:
            asked = question.format(clause=one.clause)
            yield Draft(f"compare {by}", asked, rng.choice(ENDS[by]), tuple((end,) for end in ends))


def _draft(
    one: Property, question: str, members: tuple[MuseTarget, ...], rng: random.Random, kind: str = "property"
) -> Draft:
    return Draft(f"{kind} {one.key}", question, rng.choice(one.answers).replace(SLOT, "{0}"), (members,))


def _parts(
    members: tuple[MuseTarget, ...], scene: Scene, rng: random.Random
) -> Iterator[tuple[str, tuple[MuseTarget, ...]]]:
    """Conditions that only some of the members meet, two at least, with those that do."""
    for axis, sign, words in HALVES:
        off = [sign * (_centre(thing, scene)[axis] - 0.5) for thing in members]
        part = tuple(thing for thing, value in zip(members, off, strict=True) if value > 0)
        if min(map(abs, off)) > MIDDLE and MIN_TARGETS <= len(part) < len(members):
            yield rng.choice(words), part
    for count in range(MIN_TARGETS, min(len(members), max(COUNT_WORDS) + 1)):
        rows = sorted(members, key=lambda thing: -thing.area)
        if rows[count - 1].area >= CLEAR_SIZE_RATIO * rows[count].area:
            yield rng.choice(LARGEST).format(count=COUNT_WORDS[count]), tuple(rows[:count])
    row = sorted(members, key=lambda thing: _centre(thing, scene)["x"])
    for words, end in WITHOUT:
        clear = abs(_centre(row[end], scene)["x"] - _centre(row[1 if end == 0 else -2], scene)["x"]) >= CLEAR_OFFSET
        if clear and len(row) > MIN_TARGETS:
            yield f"The one {words} is none of my business.", tuple(thing for thing in row if thing is not row[end])


def _centre(thing: MuseTarget, scene: Scene) -> dict[str, float]:
    """Of its box, as fractions of width and height."""
    x, y, width, height = thing.box
    return {"x": (x + width / 2) / scene.image.width, "y": (y + height / 2) / scene.image.height}


def _ends(by: str, members: Sequence[MuseTarget], scene: Scene) -> tuple[MuseTarget, MuseTarget] | None:
    """The first and the last, if both are clearly ahead of the next ones."""
    if by == "size":
        row = sorted(members, key=lambda thing: -thing.area)
        clear = all(row[i].area >= CLEAR_SIZE_RATIO * row[i + 1].area for i in (0, len(row) - 2))
    else:
        row = sorted(members, key=lambda thing: _centre(thing, scene)[by])
        places = [_centre(thing, scene)[by] for thing in row]
        clear = all(places[i + 1] - places[i] >= CLEAR_OFFSET for i in (0, len(row) - 2))
    return (row[0], row[-1]) if clear else None


def _about_needs(scene: Scene, named: Sequence[MuseTarget], rng: random.Random) -> Iterator[Draft]:
    """Two people who need different things: whatever there is for either, if it isn't much."""
    found = [(one, _members(one, scene, named, 1)[0]) for one in properties() if one.need]
    for (one, things), (other, others) in combinations([row for row in found if 0 < len(row[1]) <= MAX_OF_PART], 2):
        if {thing.annotation_id for thing in things} & {thing.annotation_id for thing in others}:
            continue
        if rng.random() < 0.5:
            one, things, other, others = other, others, one, things
        for question, answer in rng.sample(NEEDS, NEEDS_QUESTIONS):
            a, b = rng.choice(GETS)
            yield Draft("needs", question.format(one.need, other.need), answer.format(a=a, b=b), (things, others))


def _about_activity(one: Activity, scene: Scene, named: Sequence[MuseTarget]) -> Iterator[Draft]:
    groups: list[tuple[MuseTarget, ...]] = []
    clauses: list[str] = []
    filled: set[int] = set()
    used: set[int] = set()
    for number, (names, clause) in enumerate(one.parts):
        things = tuple(thing for thing in scene.things if thing.category in names and thing.annotation_id not in used)
        if not 0 < len(things) <= MAX_OF_PART or any(thing not in named for thing in things):
            continue
        used |= {thing.annotation_id for thing in things}
        filled.add(number)
        clauses.append(clause.replace(SLOT, f"{{{len(groups)}}}"))
        groups.append(things)
    enough = len(filled) == len(one.parts) if one.all else len(filled) >= 2 and (not one.needs or filled & {*one.needs})
    if not enough or not MIN_TARGETS <= len(used) <= MAX_TARGETS:
        return
    for question in one.questions:
        yield Draft(f"activity {one.key}", question, enumerated(clauses), tuple(groups))


def enumerated(parts: Sequence[str]) -> str:
    """As in "a, b and c"."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def capital(text: str) -> str:
    """With a capital letter."""
    return text[:1].upper() + text[1:]
