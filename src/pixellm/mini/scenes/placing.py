"""Questions that tell objects apart by order, place, and what is near them."""

import random
from collections.abc import Callable

from pixellm.mini.scenes import geometry
from pixellm.mini.scenes.geometry import Place
from pixellm.mini.scenes.lexicon import ORDINALS, noun_of, number
from pixellm.mini.scenes.naming import MAX_SLOTS, Asked, missing, none_here
from pixellm.mini.scenes.phrasing import Said, agree, listed, word_for
from pixellm.mini.scenes.scene import SceneObject, SceneView
from pixellm.types import SEG_SLOT

INSTANCE = (
    *("Segment {it}.", "Please segment {it}.", "Find {it}.", "Mark {it}.", "Show me {it}.", "Which one is {it}?"),
    *(
        "Where is {it}?",
        "Can you show me {it}?",
        "Could you mark {it}, please?",
        "Outline {it}.",
        "Highlight {it} for me.",
    ),
    *("I mean {it}.", "I'm looking for {it}.", "Give me the mask of {it} only.", "Point at {it}.", "Pick {it}."),
    *(
        "Would you cut out {it}?",
        "A guest asks about {it}. Show it.",
        "{it}",
        "Select just {it}.",
        "Just {it}, please.",
    ),
)
PLACES: dict[Place, tuple[str, tuple[str, ...]]] = {
    ("left", ""): (
        "on the left",
        ("on the left", "on the left side", "in the left part of the picture", "to the left"),
    ),
    ("right", ""): ("on the right", ("on the right", "on the right side", "in the right part", "to the right")),
    ("", "top"): ("at the top", ("at the top", "in the upper part", "up at the top of the picture")),
    ("", "bottom"): ("at the bottom", ("at the bottom", "in the lower part", "down at the bottom")),
    ("middle", ""): ("in the middle", ("in the middle", "in the centre", "in the middle from left to right")),
    ("left", "top"): (
        "in the top left corner",
        ("in the top left corner", "at the top left", "in the upper left corner"),
    ),
    ("right", "top"): ("in the top right corner", ("in the top right corner", "at the top right")),
    ("left", "bottom"): (
        "in the bottom left corner",
        ("in the bottom left corner", "at the bottom left", "in the lower left"),
    ),
    ("right", "bottom"): ("in the bottom right corner", ("in the bottom right corner", "at the bottom right")),
}
PLACE_CATEGORY = (
    *(
        "Segment the {noun} {place}.",
        "Show me the {noun} {place}.",
        "Find the {noun} {place}.",
        "Mark the {noun} {place}.",
    ),
    *(
        "Which {noun} is {place}?",
        "I mean the {noun} {place}.",
        "The {noun} {place}, please.",
        "Is there a {noun} {place}?",
    ),
    *(
        "Is any {noun} {place}?",
        "Give me a mask of the {noun} {place}.",
        "the {noun} {place}",
        "Outline the {noun} {place}.",
    ),
    *("Point at the {noun} {place}.", "Do you see a {noun} {place}?", "Could you mark the {noun} {place}?"),
)
PLACE_ANY = (
    *(
        "What is {place}?",
        "What do you see {place}?",
        "Which objects are {place}?",
        "Segment what is {place}.",
        "What's {place}?",
    ),
    *("Tell me what is {place}.", "What would I find {place}?", "Show me what is {place}.", "Mark everything {place}."),
    *("Is there anything {place}?", "What can be seen {place}?", "List what is {place}.", "Name the objects {place}."),
    *("What does a child see {place}?", "Have a look: what is {place}?"),
)
WHERE = (
    *(
        "Where is the {noun}?",
        "Where can I find the {noun}?",
        "On which side is the {noun}?",
        "Where do you see the {noun}?",
    ),
    *(
        "I can't see the {noun}. Where is it?",
        "Tell me where the {noun} is.",
        "Whereabouts is the {noun}?",
        "Where's the {noun}?",
    ),
    *(
        "In which part of the picture is the {noun}?",
        "Do you know where the {noun} is?",
        "Where should I look for the {noun}?",
    ),
    *("Is the {noun} on the left or on the right?", "Where exactly is the {noun}?", "My {noun} is gone. Where is it?"),
    *("Could you tell me where the {noun} is?",),
)
RELATION_TRIES = 6
Relation = Callable[[SceneObject, SceneObject], bool | None]
RELATIONS: tuple[tuple[Relation, str, tuple[str, ...]], ...] = (
    (geometry.left_of, "to the left of", ("to the left of", "left of", "on the left of", "further left than")),
    (geometry.right_of, "to the right of", ("to the right of", "right of", "on the right of", "further right than")),
    (geometry.next_to, "next to", ("next to", "beside", "right beside", "right next to")),
    (geometry.above, "above", ("above", "right above", "directly above")),
    (geometry.below, "below", ("below", "right below", "directly below")),
    (geometry.on_top, "on", ("on", "on top of")),
)
NEAR_CATEGORY = (
    *(
        "Segment the {names} {rel} {anchor}.",
        "Which {names} are {rel} {anchor}?",
        "Show me each {name} {rel} {anchor}.",
    ),
    *("Is there a {name} {rel} {anchor}?", "Find the {names} {rel} {anchor}.", "Any {names} {rel} {anchor}?"),
    *("Mark every {name} {rel} {anchor}.", "Do you see a {name} {rel} {anchor}?", "I need the {names} {rel} {anchor}."),
    *("Which {name} is {rel} {anchor}?", "Point at the {names} {rel} {anchor}.", "Is any {name} {rel} {anchor}?"),
    *(
        "Could you mark the {names} {rel} {anchor}?",
        "the {names} {rel} {anchor}",
        "Pick out the {names} {rel} {anchor}.",
    ),
)
NEAR_ANY = (
    *(
        "What is {rel} {anchor}?",
        "What do you see {rel} {anchor}?",
        "Which things are {rel} {anchor}?",
        "What's {rel} {anchor}?",
    ),
    *("Segment what is {rel} {anchor}.", "Is there anything {rel} {anchor}?", "Show me what is {rel} {anchor}."),
    *("Tell me what is {rel} {anchor}.", "What can you see {rel} {anchor}?", "Mark whatever is {rel} {anchor}."),
    *("What would I find {rel} {anchor}?", "Look at {anchor}: what is {rel} it?", "Name what is {rel} {anchor}."),
    *("What has somebody put {rel} {anchor}?", "List everything {rel} {anchor}."),
)
NEAREST = (
    *(
        "Which {name} is closest to {anchor}?",
        "Segment the {name} nearest to {anchor}.",
        "Show me the {name} closest to {anchor}.",
    ),
    *(
        "Find the {name} that is nearest to {anchor}.",
        "Which {name} is nearest {anchor}?",
        "the {name} closest to {anchor}",
    ),
    *("Which of the {names} is the closest to {anchor}?", "Mark the {name} with the shortest way to {anchor}."),
)


def ask_order(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    side = rng.choice(("left", "right"))
    if not fits:
        return _order_nothing(view, rng, side)
    possible = [c for c in view.countable if len(view.members[c]) >= 2 and view.order(c)]
    if not possible:
        return None
    category = rng.choice(possible)
    order, word = view.members[category], word_for(category, view, rng).singular
    rank = rng.randrange(min(len(order), 5))
    index = order[rank] if side == "left" else order[len(order) - 1 - rank]
    rows = [f"the {ORDINALS[rank]} {word} from the {side}"] * 2
    if rank == 0:
        rows += [f"the {side}most {word}", f"the {word} furthest to the {side}"]
        rows += [f"the {word} on the {side}"] if len(order) == 2 else []
    if rank == 1:
        rows.append(f"the second {word}, counted from the {side}")
    if len(order) in (3, 5) and rank == len(order) // 2:
        rows.append(f"the {word} in the middle of the {number(len(order))}")
    label = (
        f"the {ORDINALS[rank]} {noun_of(category).singular} from the {side}"
        if rank
        else f"the {side}most {noun_of(category).singular}"
    )
    form = rng.choice(("{0}", "{0}", "It is {0}"))
    question = rng.choice(INSTANCE).replace("{it}", rng.choice(rows))
    return question, Said(form.replace("{0}", f"{label} {SEG_SLOT}"), ((index,),))


def _order_nothing(view: SceneView, rng: random.Random, side: str) -> Asked | None:
    category = rng.choice(view.countable) if view.countable and rng.random() < 0.75 else None
    if category is None or category not in view.scene.known:
        name = missing(view, rng, countable=True)
        if name is None:
            return None
        it = f"the {ORDINALS[rng.randrange(4)]} {word_for(name, view, rng).singular} from the {side}"
        return rng.choice(INSTANCE).replace("{it}", it), Said(none_here(name))
    count, word = len(view.members[category]), noun_of(category)
    rank = count + rng.randrange(3)
    if rank >= len(ORDINALS):
        return None
    have = f"is only one {word.singular}" if count == 1 else f"are only {number(count)} {word.plural}"
    it = f"the {ORDINALS[rank]} {word_for(category, view, rng).singular} from the {side}"
    return rng.choice(INSTANCE).replace("{it}", it), Said(f"There {have}, so there is no {ORDINALS[rank]} one.")


def grouped(view: SceneView, indices: list[int], where: str = "") -> list[Said]:
    """Name objects by category: all or some of one with one mask, one of several by its place."""
    parts: list[Said] = []
    for category in dict.fromkeys(view.objects[i].category for i in indices):
        chosen = tuple(i for i in view.members[category] if i in indices)
        if len(chosen) == len(view.members[category]):
            parts.append(Said(f"{view.the(category)} {SEG_SLOT}", (chosen,)))
        elif len(chosen) == 1:
            label = f"the {noun_of(category).singular} {where}" if where else view.label(chosen[0])
            parts.append(Said(f"{label} {SEG_SLOT}", (chosen,)))
        else:
            word = noun_of(category)
            some = f"{number(len(chosen))} {word.plural}" if word.countable else f"some of the {word.plural}"
            parts.append(Said(f"{some} {SEG_SLOT}", (chosen,)))
    return parts


def ask_place(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    draw = rng.random()
    return (_place_any if draw < 0.35 else _where if draw < 0.6 else _place_category)(view, rng, fits)


def _place_category(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    place = rng.choice(tuple(PLACES))
    where, wordings = PLACES[place]
    possible = [c for c in view.countable if c in view.scene.known]
    if not possible:
        return None
    category = rng.choice(possible)
    members = view.members[category]
    answers = [geometry.in_place(view.objects[i], place) for i in members]
    if None in answers:
        return None
    chosen = [i for i, answer in zip(members, answers, strict=True) if answer]
    question = rng.choice(PLACE_CATEGORY).replace("{place}", rng.choice(wordings))
    word, asked = noun_of(category), word_for(category, view, rng)
    if not chosen:
        return None if fits else (question.format(noun=asked.singular), Said(f"There is no {word.singular} {where}."))
    if not fits:
        return None
    if len(chosen) == 1:
        return question.format(noun=asked.singular), Said(f"the {word.singular} {where} {SEG_SLOT}", ((chosen[0],),))
    if "a {noun}" in question or "any {noun}" in question or " is " in question:
        return None
    text = f"the {number(len(chosen))} {word.plural} {where} {SEG_SLOT}"
    return question.format(noun=asked.plural), Said(text, (tuple(chosen),))


def _place_any(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    place = rng.choice(tuple(PLACES))
    where, wordings = PLACES[place]
    answers = [geometry.in_place(item, place) for item in view.objects]
    if None in answers or view.scene.uncounted:
        return None
    chosen = [i for i, answer in enumerate(answers) if answer]
    question = rng.choice(PLACE_ANY).replace("{place}", rng.choice(wordings))
    if not chosen:
        return None if fits or not view.complete else (question, Said(f"There is nothing {where}."))
    parts = grouped(view, sorted(chosen, key=lambda i: -view.objects[i].area), where)
    return (question, listed(parts)) if fits and len(parts) <= MAX_SLOTS else None


def _where(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    template = rng.choice(WHERE)
    if not fits:
        name = missing(view, rng, countable=True)
        if name is None:
            return None
        return template.format(noun=word_for(name, view, rng).singular), Said(none_here(name))
    alone = [c for c in view.countable if len(view.members[c]) == 1]
    rng.shuffle(alone)
    for category in alone:
        index = view.members[category][0]
        where = spot(view.objects[index])
        if where is not None and ("left or on the right" not in template or "middle" not in where):
            subject = Said(f"the {noun_of(category).singular} {SEG_SLOT}", ((index,),))
            return template.format(noun=word_for(category, view, rng).singular), agree(
                f"{{x}} is {where}", subject, False
            )
    return None


def spot(item: SceneObject) -> str | None:
    """Return the corner, side or middle that an object is surely in."""
    places = sorted(PLACES, key=lambda place: not all(place))
    across = [place for place in places if place[0] and geometry.in_place(item, place)]
    doubtful = any(geometry.in_place(item, place) is None for place in places if all(place))
    return PLACES[across[0]][0] if across and not (doubtful and not all(across[0])) else None


def ask_neighbour(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    alone = [c for c in view.countable if len(view.members[c]) == 1 and c in view.scene.known]
    if not fits and rng.random() < 0.3:
        return _neighbour_of_nothing(view, rng)
    if not alone or len(view.members) < 2:
        return None
    if fits and rng.random() < 0.25:
        return _nearest(view, rng, alone)
    for _ in range(RELATION_TRIES):
        asked = _related(view, rng, fits, rng.choice(alone))
        if asked is not None:
            return asked
    return None


def _neighbour_of_nothing(view: SceneView, rng: random.Random) -> Asked | None:
    name = missing(view, rng, countable=True)
    if name is None:
        return None
    _, _, wordings = rng.choice(RELATIONS)
    anchor = f"the {word_for(name, view, rng).singular}"
    return rng.choice(NEAR_ANY).format(rel=rng.choice(wordings), anchor=anchor), Said(none_here(name))


def _related(view: SceneView, rng: random.Random, fits: bool, anchor: str) -> Asked | None:
    # Left and right can be told almost always, the others seldom.
    relation, says, wordings = rng.choice(RELATIONS if rng.random() < 0.5 else RELATIONS[2:])
    base = view.members[anchor][0]
    if relation is geometry.on_top and anchor not in SUPPORTS:
        return None
    the = f"the {word_for(anchor, view, rng).singular}"
    broad = relation in (geometry.left_of, geometry.right_of)
    categories = [c for c in view.countable if c != anchor and c in view.scene.known]
    if not categories or (relation is geometry.on_top and "person" in view.members):
        return None
    picked = rng.choice(categories) if broad or rng.random() < 0.4 else None
    pool = view.members[picked] if picked else tuple(i for i in range(len(view.objects)) if i != base)
    answers = [relation(view.objects[i], view.objects[base]) for i in pool]
    if None in answers or (picked is None and view.scene.uncounted):
        return None
    chosen = [i for i, answer in zip(pool, answers, strict=True) if answer]
    if bool(chosen) != fits or not (chosen or view.complete):
        return None
    if picked is None:
        return _any_related(view, rng, chosen, (rng.choice(wordings), says, the, anchor))
    word = word_for(picked, view, rng)
    template = rng.choice([t for t in NEAR_CATEGORY if len(chosen) < 2 or not ("a {name}" in t or "{name} is" in t)])
    question = template.format(names=word.plural, name=word.singular, rel=rng.choice(wordings), anchor=the)
    own = noun_of(picked)
    if not chosen:
        return question, Said(f"There is no {own.singular} {says} the {noun_of(anchor).singular}.")
    count = f"the {own.singular}" if len(chosen) == 1 else f"the {number(len(chosen))} {own.plural}"
    return question, Said(f"{count} {says} the {noun_of(anchor).singular} {SEG_SLOT}", (tuple(chosen),))


def _any_related(
    view: SceneView, rng: random.Random, chosen: list[int], words: tuple[str, str, str, str]
) -> Asked | None:
    asked, says, the, anchor = words
    question = rng.choice(NEAR_ANY).format(rel=asked, anchor=the)
    own = f"the {noun_of(anchor).singular}"
    if not chosen:
        return question, Said(f"There is nothing {says} {own}.")
    parts = grouped(view, sorted(chosen, key=lambda i: -view.objects[i].area))
    if len(parts) > 5:
        return None
    everything = listed(parts)
    plural = len(chosen) > 1 or noun_of(view.objects[chosen[0]].category).is_plural(many=False)
    return question, agree(f"{{x}} {{is}} {says} {own}", everything, plural)


def _nearest(view: SceneView, rng: random.Random, alone: list[str]) -> Asked | None:
    several = [c for c in view.countable if len(view.members[c]) >= 2]
    if not several:
        return None
    category, anchor = rng.choice(several), rng.choice(alone)
    base = view.objects[view.members[anchor][0]]
    order = sorted(view.members[category], key=lambda i: geometry.distance(view.objects[i], base))
    first, second = (geometry.distance(view.objects[i], base) for i in order[:2])
    if second < geometry.CLEAR_DISTANCE * first or second - first < 0.05:
        return None
    word, the = word_for(category, view, rng), f"the {word_for(anchor, view, rng).singular}"
    question = rng.choice(NEAREST).format(name=word.singular, names=word.plural, anchor=the)
    own, other = noun_of(category).singular, noun_of(anchor).singular
    return question, Said(f"the {own} closest to the {other} {SEG_SLOT}", ((order[0],),))


SUPPORTS = frozenset(
    ("dining table", "coffee table", "desk", "bed", "couch", "bench", "chair", "shelf", "plate", "tray")
)
