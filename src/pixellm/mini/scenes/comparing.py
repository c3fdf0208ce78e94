"""Comparisons and superlatives by the size and place of boxes."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from pixellm.mini.scenes import geometry
from pixellm.mini.scenes.lexicon import noun_of
from pixellm.mini.scenes.naming import Asked, missing, none_here
from pixellm.mini.scenes.phrasing import Said, word_for
from pixellm.mini.scenes.placing import INSTANCE
from pixellm.mini.scenes.scene import SceneView
from pixellm.types import SEG_SLOT


@dataclass(frozen=True)
class Measure:
    """Measure by which objects are compared: the answer's superlative, wordings for all objects and for two."""

    word: str
    wordings: tuple[str, ...]
    better: tuple[str, ...]
    best: Callable[[SceneView, list[int]], int | None]


def _area(view: SceneView, items: list[int]) -> int | None:
    return geometry.best(items, lambda i: view.objects[i].area, geometry.CLEAR_SIZE)


def _smallest(view: SceneView, items: list[int]) -> int | None:
    return geometry.best(items, lambda i: 1 / view.objects[i].area, geometry.CLEAR_SIZE)


def _width(view: SceneView, items: list[int]) -> int | None:
    return geometry.best(items, lambda i: view.objects[i].width, geometry.CLEAR_LENGTH)


def _height(view: SceneView, items: list[int]) -> int | None:
    return geometry.best(items, lambda i: view.objects[i].height, geometry.CLEAR_LENGTH)


def _highest(view: SceneView, items: list[int]) -> int | None:
    order = sorted(items, key=lambda i: view.objects[i].y)
    clear = view.objects[order[1]].y - view.objects[order[0]].y >= geometry.OFFSET
    return order[0] if clear else None


def _lowest(view: SceneView, items: list[int]) -> int | None:
    order = sorted(items, key=lambda i: -view.objects[i].y)
    clear = view.objects[order[0]].y - view.objects[order[1]].y >= geometry.OFFSET
    return order[0] if clear else None


def _nearest(view: SceneView, items: list[int]) -> int | None:
    largest = _area(view, items)
    lowest = max(items, key=lambda i: view.objects[i].box[3])
    return largest if largest == lowest else None


MEASURES = (
    Measure("largest", ("largest", "biggest", "largest visible"), ("larger", "bigger"), _area),
    Measure("smallest", ("smallest", "tiniest"), ("smaller",), _smallest),
    Measure("nearest", ("nearest", "closest", "frontmost"), ("nearer", "closer"), _nearest),
    Measure("widest", ("widest", "broadest"), ("wider", "broader"), _width),
    Measure("tallest", ("tallest",), ("taller",), _height),
    Measure("highest", ("highest", "topmost", "uppermost"), ("higher up",), _highest),
    Measure("lowest", ("lowest", "bottommost"), ("lower down",), _lowest),
)
SUPERLATIVE = (
    *("Which {name} is the {best} one?", "Which of the {names} is the {best}?", "Which {name} is {best}?"),
    *("Of all the {names}, which is the {best}?", "Look at the {names}: which one is {best}?"),
)
OF_TWO = (
    *("Which is {better}, {a} or {b}?", "Is {a} or {b} {better}?", "Which one is {better} in the picture: {a} or {b}?"),
    *(
        "Compare {a} with {b}: which is {better}?",
        "{a} or {b}, which is {better}?",
        "Mark the {better} one: {a} or {b}?",
    ),
    *("Which of the two is {better}, {a} or {b}?", "What is {better} here, {a} or {b}?"),
    *("Segment whichever is {better}, {a} or {b}.", "Show me which is {better}: {a} or {b}?"),
)
NEAREST_WORDINGS = (
    *(
        "Which {name} is nearest to the camera?",
        "Which {name} stands closest to the viewer?",
        "Which {name} is nearest to us?",
    ),
    *("Segment the {name} in front, nearest to me.", "Which of the {names} is closest to the photographer?"),
)


def ask_compare(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    measure = rng.choice(MEASURES)
    if not fits:
        return _nothing(view, rng, measure)
    draw = rng.random()
    if measure.word != "nearest" and draw < 0.3:
        return _of_two(view, rng, measure)
    if measure.word != "nearest" and draw < 0.55:
        return _of_group(view, rng, measure)
    possible = [c for c in view.countable if len(view.members[c]) >= 2]
    if not possible:
        return None
    category = rng.choice(possible)
    chosen = measure.best(view, list(view.members[category]))
    if chosen is None:
        return None
    word = word_for(category, view, rng)
    question = superlative(rng, measure, word.singular, word.plural)
    return question, Said(f"the {measure.word} {noun_of(category).singular} {SEG_SLOT}", ((chosen,),))


def superlative(rng: random.Random, measure: Measure, name: str, names: str) -> str:
    if measure.word == "nearest" and rng.random() < 0.5:
        return rng.choice(NEAREST_WORDINGS).format(name=name, names=names)
    best = rng.choice(measure.wordings)
    if rng.random() < 0.5:
        return rng.choice(SUPERLATIVE).format(name=name, names=names, best=best)
    return rng.choice(INSTANCE).replace("{it}", f"the {best} {name}")


def _of_two(view: SceneView, rng: random.Random, measure: Measure) -> Asked | None:
    alone = [c for c in view.countable if len(view.members[c]) == 1]
    if len(alone) < 2:
        return None
    pair = rng.sample(alone, 2)
    items = [view.members[c][0] for c in pair]
    chosen = measure.best(view, items)
    if chosen is None:
        return None
    a, b = (f"the {word_for(c, view, rng).singular}" for c in pair)
    better = rng.choice(measure.better)
    question = rng.choice(OF_TWO).format(a=a, b=b, better=better)
    return question, Said(f"the {noun_of(view.objects[chosen].category).singular} {SEG_SLOT} is {better}", ((chosen,),))


def _of_group(view: SceneView, rng: random.Random, measure: Measure) -> Asked | None:
    possible = [(fact, found) for fact, found in view.fits if fact.noun and len(view.total(found)) >= 2]
    if not possible:
        return None
    fact, found = rng.choice(possible)
    if not set(found) <= set(view.countable):
        return None
    chosen = measure.best(view, list(view.total(found)))
    if chosen is None:
        return None
    question = superlative(rng, measure, fact.noun, noun_of(fact.noun).plural)
    rank = f"the {measure.word} {fact.noun}"
    return question, Said(f"{view.label(chosen)} {SEG_SLOT} is {rank}", ((chosen,),))


def _nothing(view: SceneView, rng: random.Random, measure: Measure) -> Asked | None:
    empty = [fact for fact, found in view.fits if fact.noun and not found]
    if empty and rng.random() < 0.5:
        fact = rng.choice(empty)
        names = noun_of(fact.noun).plural
        return superlative(rng, measure, fact.noun, names), Said(f"There is no {fact.noun} here.")
    name = missing(view, rng, countable=True)
    if name is None:
        return None
    word = word_for(name, view, rng)
    return superlative(rng, measure, word.singular, word.plural), Said(none_here(name))
