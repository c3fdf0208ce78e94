"""Actions of people with objects, where boxes make it likely."""

import random
from dataclasses import dataclass
from functools import cache

from pixellm.mini.scenes.lexicon import groups, noun_of
from pixellm.mini.scenes.naming import Asked
from pixellm.mini.scenes.phrasing import Said
from pixellm.mini.scenes.scene import SceneObject, SceneView
from pixellm.types import SEG_SLOT


@dataclass(frozen=True)
class Action:
    """Action of a person with one of `items`.

    Args:
        verb: as in "is riding".
        items: categories.
        close: the relation of the boxes: "ridden", "held" or "worn".
        asks: questions, with {it} for the item in a part of them.
        nobody: the answer where there is no such item; "" if others may be meant.
    """

    verb: str
    items: tuple[str, ...]
    close: str
    asks: tuple[str, ...]
    nobody: str


RIDE_ASKS = (
    *("Who is riding something, and on what?", "Is anybody riding here?", "Who is on the move, and what carries them?"),
    *("Show me the rider and what is ridden.", "Who rides what?", "Is somebody riding? Show both."),
)
ACTIONS = (
    Action(
        "riding",
        ("bicycle", "motorcycle", "horse", "scooter", "pony", "camel", "donkey"),
        "ridden",
        RIDE_ASKS,
        "There is nothing like a bicycle, a motorcycle or a horse to ride here.",
    ),
    Action(
        "riding",
        ("skateboard", "surfboard", "snowboard"),
        "ridden",
        (
            *(
                "Who is standing on a board?",
                "Who is riding a board, and which one?",
                "Is anybody keeping their balance on a board?",
            ),
            *("Who does a board sport here, and on what?", "Show me the boarder with the board."),
        ),
        "Nobody is riding a board here.",
    ),
    Action(
        "holding",
        ("tennis racket", "baseball bat", "golf club"),
        "held",
        (
            *(
                "Who is about to hit a ball, and with what?",
                "Who plays here, and with what in the hand?",
                "Is anybody ready to hit a ball?",
            ),
            *("Which player holds what?", "Show me the player and what the player hits with."),
        ),
        "Nobody is holding anything to hit a ball with.",
    ),
    Action(
        "holding",
        ("cell phone", "book", "newspaper", "magazine", "camera", "microphone"),
        "held",
        (
            *(
                "Who is holding something to read, talk or film with?",
                "Who is busy with a device or a page in the hand?",
            ),
            *(
                "What is somebody reading from, talking to or filming with, and who is it?",
                "Is anybody lost in a phone or a book?",
            ),
        ),
        "",
    ),
    Action(
        "holding",
        ("umbrella",),
        "held",
        (
            *(
                "Who is sheltered from rain or sun, and by what?",
                "Who keeps dry here, and with what?",
                "Is anybody protected from the weather?",
            ),
            *("Who need not fear the rain?", "Show me who stays dry, and why."),
        ),
        "There is no umbrella here.",
    ),
    Action(
        "carrying",
        ("backpack", "handbag", "suitcase", "briefcase", "bag"),
        "worn",
        (
            *(
                "Who is carrying luggage, and which?",
                "Who has packed something, and where is it?",
                "Is anybody carrying a load?",
            ),
            *("Who has something to carry here?", "Show me who carries what."),
        ),
        "Nobody is carrying a bag here.",
    ),
    Action(
        "wearing",
        ("tie", "hat", "helmet", "glasses", "sunglasses", "scarf", "cap", "apron"),
        "worn",
        (
            *(
                "Who is wearing something special, and what?",
                "What is somebody wearing, and who is it?",
                "Who has dressed up, and with what?",
            ),
            *("Is anybody wearing something that you can name?", "Who wears what here?"),
        ),
        "",
    ),
    Action(
        "playing",
        ("guitar", "piano", "violin", "drum", "trumpet", "saxophone", "flute"),
        "held",
        (
            *(
                "Who is making music, and on what?",
                "Who is the musician, and what is played?",
                "Is anybody playing an instrument?",
            ),
            *("Who do we hear, and which instrument?", "Show me the musician with the instrument."),
        ),
        "Nobody is making music here.",
    ),
    Action(
        "sitting on",
        ("chair", "couch", "bench", "armchair", "stool"),
        "ridden",
        (
            *("Who is sitting, and on what?", "Who has found a seat, and which one?", "Is anybody sitting down?"),
            *("Who takes a rest here, and where?", "Which seat is taken, and by whom?"),
        ),
        "There is no seat here to sit on.",
    ),
)
DOES_WITH = (
    *("Who is {verb} the {item}?", "Who is it that is {verb} the {item}?", "Show me who is {verb} the {item}."),
    *("Is anybody {verb} the {item}?", "Which person is {verb} the {item}?", "Segment whoever is {verb} the {item}."),
)


def close(person: SceneObject, item: SceneObject, how: str) -> bool | None:
    """Return whether a person's box fits the action; None where it is close to fitting."""
    shared = min(person.box[2], item.box[2]) - max(person.box[0], item.box[0])
    down = min(person.box[3], item.box[3]) - max(person.box[1], item.box[1])
    if shared <= 0 or down <= 0:
        return False if shared < -0.03 or down < -0.03 else None
    across = shared / max(min(person.width, item.width), 1e-6)
    if how == "ridden":
        sits = person.box[1] < item.box[1] + 0.2 * item.height and item.box[1] < person.box[3] <= item.box[3] + 0.05
        return True if across >= 0.7 and sits else None
    covered = shared * down / max(item.area, 1e-6)
    smaller = item.area < person.area * (0.35 if how == "worn" else 0.6)
    return True if covered >= (0.6 if how == "worn" else 0.4) and smaller else None


def pairs(view: SceneView, action: Action) -> list[tuple[int, int]] | None:
    """Return (person, item) for every item of the action, one person each; None where it is not clear."""
    people = view.members.get("person", ())
    if "person" in view.scene.uncounted:
        return None
    found: list[tuple[int, int]] = []
    for item in view.total(c for c in view.categories if c in action.items):
        answers = [close(view.objects[p], view.objects[item], action.close) for p in people]
        if None in answers or answers.count(True) > 1:
            return None
        if True in answers:
            found.append((people[answers.index(True)], item))
    taken = [person for person, _ in found]
    return found if len(set(taken)) == len(taken) else None


@cache
def _alike(action: Action) -> frozenset[str]:
    """Return names of other things that the action's questions might be about, too."""
    others = frozenset(item for other in ACTIONS if other.verb == action.verb for item in other.items)
    if action.verb == "holding":
        return frozenset()
    if action.verb == "wearing":
        others = groups()["WORN"] | groups()["TRINKET"] | groups()["HELMET"]
    return others - set(action.items)


def ask_action(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    actions = list(ACTIONS)
    rng.shuffle(actions)
    for action in actions:
        if fits == any(item in view.present for item in action.items):
            asked = (_fitting if fits else _nobody)(view, rng, action)
            if asked is not None:
                return asked
    return _no_person(view, rng) if not fits else None


def _fitting(view: SceneView, rng: random.Random, action: Action) -> Asked | None:
    found = pairs(view, action)
    if not found or len(found) > 3 or any(c in view.scene.uncounted for c in action.items):
        return None
    if len(found) == 1 and len(view.members[item := view.objects[found[0][1]].category]) == 1 and rng.random() < 0.5:
        question = rng.choice(DOES_WITH).format(verb=action.verb, item=noun_of(item).singular)
    elif view.present & _alike(action):
        return None
    else:
        question = rng.choice(action.asks)
    texts, targets = [], []
    for person, item in found:
        texts.append(f"{view.label(person)} {SEG_SLOT} is {action.verb} {view.label(item)} {SEG_SLOT}")
        targets += [(person,), (item,)]
    return question, Said("; ".join(texts), tuple(targets))


def _nobody(view: SceneView, rng: random.Random, action: Action) -> Asked | None:
    known = [item for item in action.items if item in view.scene.known]
    # Everything that the action may be done with must be known to be absent; rare animals to ride need not be.
    complete = len(known) == len(action.items) or (action.close == "ridden" and len(known) >= 3)
    if not action.nobody or "person" not in view.scene.known or not complete:
        return None
    return (rng.choice(action.asks), Said(action.nobody)) if all(item in view.absent for item in known) else None


def _no_person(view: SceneView, rng: random.Random) -> Asked | None:
    if "person" not in view.absent:
        return None
    possible = [(a, i) for a in ACTIONS for i in a.items if i in view.countable and len(view.members[i]) == 1]
    if not possible:
        return None
    action, item = rng.choice(possible)
    question = rng.choice(DOES_WITH).format(verb=action.verb, item=noun_of(item).singular)
    return question, Said("There is no person here.")
