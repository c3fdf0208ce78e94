"""Questions by what is known of objects: use, parts and materials, groups, and exclusions from them."""

import random

from pixellm.data.categories import COCO
from pixellm.mini.scenes.facts import Fact
from pixellm.mini.scenes.lexicon import canonical, noun_of
from pixellm.mini.scenes.naming import COMMON_RATE, MAX_SLOTS, Asked
from pixellm.mini.scenes.phrasing import Said, agree, listed, one, word_for
from pixellm.mini.scenes.scene import SceneView

GENERIC = (
    *("What here {that}?", "Show me what {that}.", "Segment whatever {that}.", "Is there anything that {that}?"),
    *("Do you see something that {that}?", "Mark anything that {that}.", "I'm looking for something that {that}."),
    *("Can you find something that {that}?", "Point at what {that}.", "A child wants to know what here {that}."),
    *("Which object {that}?", "Which object here {that}?", "Which of these things {that}?", "Which item {that}?"),
    *("What in this image {that}?", "What in the picture {that}?", "What object in this scene {that}?"),
    *("Segment the object that {that}.", "Find the item that {that}.", "Highlight anything that {that}."),
    *("Identify what {that}.", "Name something here that {that}.", "Where is something that {that}?"),
    *("I need something that {that}.", "something that {that}", "the thing that {that}", "anything that {that}?"),
)
GENERIC_RATE = 0.2
NARROWED = (
    *("Which {name} {that}?", "Which {name} here {that}?", "Which of the {names} {that}?", "What {name} {that}?"),
    *("Is there {some} that {that}?", "Do you see {some} that {that}?", "Can you find {some} that {that}?"),
    *("Show me the {name} that {that}.", "Segment the {name} that {that}.", "Find {some} that {that}."),
    *("Mark each {name} that {that}.", "Point out the {name} that {that}.", "I need {some} that {that}."),
    *("the {name} that {that}",),
)
NARROWED_RATE = 0.12
MOST_FOUND = 6  # categories of an answer by a fact
GROUP = (
    *("Which {names} are here?", "Show me the {names}.", "Are there any {names}?", "What {names} do you see?"),
    *("Find all {names}.", "Mark the {names} for me.", "Do you see any {names}?", "Outline all the {names}."),
    *("Point at each {name}.", "List the {names}.", "Any {names} here?", "Is there a {name} in the picture?"),
    *("Could you show me every {name}, please?", "I collect {names}. Which ones are here?", "Highlight the {names}."),
)
EXCLUDE_GROUP = (
    *(
        "Segment all {names} but {the}.",
        "Which {names} are here apart from {the}?",
        "Show me the {names} except {the}.",
    ),
    *(
        "Apart from {the}, which {names} do you see?",
        "All {names} but not {the}, please.",
        "Mark every {name} except {the}.",
    ),
    *("Which {names} are not {bare}?", "Leave out {the} and show me the other {names}.", "Besides {the}, any {names}?"),
    *("Not {the}: which other {names} are there?", "What {names} other than {the} are here?"),
    *(
        "Ignore {the}. Which {names} remain?",
        "Find the {names}, but skip {the}.",
        "Other than {the}, are there any {names}?",
    ),
    *("every {name} but not {the}",),
)
EXCLUDE_FACT = (
    *(
        "What here {that}, apart from {the}?",
        "Besides {the}, what here {that}?",
        "Is there anything but {the} that {that}?",
    ),
    *(
        "Show me what {that}, but not {the}.",
        "Leave {the} aside: what else here {that}?",
        "Except for {the}, what {that}?",
    ),
    *("Segment whatever {that}, without {the}.", "Mark everything that {that} and is not {some}."),
)
EXCLUDE_ALL = (
    *("Segment everything except {the}.", "What is here besides {the}?", "Show me all objects but {the}."),
    *(
        "Apart from {the}, what do you see?",
        "Mark all that is not {bare}.",
        "What else is here, if you don't count {the}?",
    ),
    *("Everything but {the}, please.", "Leave out {the}: what else is there?"),
)


def answer_fact(view: SceneView, fact: Fact, found: tuple[str, ...]) -> Said:
    """Say which categories a fact holds for, or that it holds for none."""
    if len(found) == 0:
        return Said(fact.none)
    parts = [one(view, category) for category in found]
    plural = len(found) > 1 or view.plural(found[0])
    return agree(fact.say, listed(parts), plural)


def pick_fact(
    view: SceneView, rng: random.Random, kinds: tuple[str, ...], fits: bool
) -> tuple[Fact, tuple[str, ...]] | None:
    """Draw a fact that holds for something, or for nothing, here; preferably one that tells objects apart.

    Facts that hold for nothing are drawn by a name that they hold for, so that each is asked about as often in vain as
    not: its wording must not give the answer away.
    """
    possible = [
        (f, found) for f, found in view.fits if f.kind in kinds and bool(found) == fits and len(found) <= MOST_FOUND
    ]
    if not fits:
        members = frozenset[str]().union(*(f.members for f, _ in possible))
        common = members.intersection(map(canonical, COCO)) if rng.random() < COMMON_RATE else members
        wanted = rng.choice(sorted(common or members)) if members else None
        possible = [(f, found) for f, found in possible if wanted in f.members]
    telling = [(f, found) for f, found in possible if len(found) < len(view.categories)]
    return rng.choice(telling or possible) if possible else None


def question_of(fact: Fact, rng: random.Random) -> str:
    """Draw one of a fact's own wordings, or one made of its predicate or noun."""
    if rng.random() >= GENERIC_RATE * (2 if fact.noun else 1):
        return rng.choice(fact.asks)
    if fact.noun and rng.random() < 0.8:
        return rng.choice(GROUP).format(name=fact.noun, names=noun_of(fact.noun).plural)
    return rng.choice(GENERIC).format(that=fact.that)


def ask_fact(view: SceneView, rng: random.Random, fits: bool, kind: str) -> Asked | None:
    if rng.random() < NARROWED_RATE:
        return _narrowed(view, rng, fits, kind)
    picked = pick_fact(view, rng, (kind,), fits)
    if picked is None:
        return None
    return question_of(picked[0], rng), answer_fact(view, *picked)


def _narrowed(view: SceneView, rng: random.Random, fits: bool, kind: str) -> Asked | None:
    """Ask for the members of a group here for which another fact holds, which does for some members, not for all."""
    groups = [(group, own) for group, own in view.fits if group.noun and own]
    pairs = [
        (fact, group, tuple(c for c in found if c in own))
        for fact, found in view.fits
        for group, own in groups
        if fact.kind == kind and set() < group.members & fact.members < group.members
    ]
    pairs = [row for row in pairs if bool(row[2]) == fits and len(row[2]) <= MOST_FOUND]
    if not pairs:
        return None
    fact, group, both = rng.choice(pairs)
    word = noun_of(group.noun)
    words = {"name": group.noun, "names": word.plural, "some": word.some(False), "that": fact.that}
    question = rng.choice(NARROWED).format(**words)
    return question, answer_fact(view, fact, both) if both else Said(f"No {group.noun} here {fact.that}.")


def ask_use(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    return ask_fact(view, rng, fits, "use")


def ask_has(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    return ask_fact(view, rng, fits, "has")


def ask_group(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    return ask_fact(view, rng, fits, "group")


def ask_exclude(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    if fits and rng.random() < 0.15:
        return _all_but(view, rng)
    possible = [
        (fact, found) for fact, found in view.fits if found and (len(found) > 1) == fits and len(found) <= MOST_FOUND
    ]
    nouns = [(fact, found) for fact, found in possible if fact.noun]
    if not possible:
        return None
    fact, found = rng.choice(nouns if nouns and rng.random() < 0.6 else possible)
    out = rng.choice(found)
    # What the exclusion is about must not have a name that others here may have, too.
    word, many = word_for(out, view, rng), view.many(out)
    words = {
        "the": word.the(many),
        "bare": word.form(noun_of(out).countable),
        "some": word.some(False),
        "that": fact.that,
    }
    if fact.noun:
        question = rng.choice(EXCLUDE_GROUP).format(name=fact.noun, names=noun_of(fact.noun).plural, **words)
    else:
        question = rng.choice(EXCLUDE_FACT).format(**words)
    rest = tuple(c for c in found if c != out)
    if rest:
        return question, answer_fact(view, fact, rest)
    if fact.noun:
        return question, Said(f"Apart from {view.the(out)}, there is no other {fact.noun} here.")
    return question, Said(f"Apart from {view.the(out)}, nothing else here {fact.that}.")


def _all_but(view: SceneView, rng: random.Random) -> Asked | None:
    if not 2 <= len(view.categories) <= MAX_SLOTS or view.present != set(view.categories):
        return None
    out = rng.choice(view.categories)
    word = word_for(out, view, rng)
    question = rng.choice(EXCLUDE_ALL).format(the=word.the(view.many(out)), bare=word.some(False))
    return question, listed([one(view, c) for c in view.categories if c != out])
