"""Questions of two parts, yes or no with evidence, and questions that follow an answer."""

import random
from collections.abc import Callable

from pixellm.data.templates import fill
from pixellm.mini.scenes import comparing, geometry
from pixellm.mini.scenes.knowing import answer_fact, pick_fact
from pixellm.mini.scenes.lexicon import ORDINALS, noun_of, number
from pixellm.mini.scenes.naming import Asked, counted, missing, none_here
from pixellm.mini.scenes.phrasing import Said, agree, chain, listed, lower_first, one, single, word_for
from pixellm.mini.scenes.placing import spot
from pixellm.mini.scenes.scene import SceneView
from pixellm.types import SEG_SLOT

FAIL_RATE = 0.25  # of parts of a two-part question
JOINS = (
    "{0}, and {1}?",
    "{0}, and {1}?",
    "{0}? And {1}?",
    "{0}? {2}?",
    "First: {3}? Second: {1}?",
    "{0}, and also: {1}?",
)
PART_CATEGORY = (
    *(
        "where {be} {the}",
        "which pixels show {the}",
        "can you show me {the}",
        "do you see {some}",
        "where do you see {the}",
    ),
    *("could you mark {the}", "{be} there {some}", "where can I find {the}"),
)
IS_THERE = (
    *("Is there {some} here?", "Is there {some} in the picture?", "Do you see {some}?", "Can I see {some} here?"),
    *("Is {some} here?", "Does the picture show {some}?", "Has anyone put {some} here?", "Would I find {some} here?"),
    *(
        "Tell me whether there is {some}.",
        "Is it true that there is {some} here?",
        "There is {some} here, isn't there?",
    ),
    *("Yes or no: is there {some}?", "A child asks whether there is {some} here. Is there?", "Did you spot {some}?"),
    *("I bet there is {some}. Am I right?",),
)
ANYTHING = (
    *(
        "Is there anything here that {that}?",
        "Yes or no: is there something that {that}?",
        "Tell me whether anything {that}.",
    ),
    *("Is it true that something here {that}?", "Could I find anything here that {that}?"),
)
MORE = (
    *("Are there more {a} than {b}?", "Do you see more {a} than {b}?", "Is the number of {a} larger than that of {b}?"),
    *("Do the {a} outnumber the {b}?", "Are the {a} more numerous than the {b}?", "More {a} than {b}, yes or no?"),
)
SAME = (
    *("Are there as many {a} as {b}?", "Is the number of {a} the same as that of {b}?", "Just as many {a} as {b}?"),
    *("Have we got equally many {a} and {b}?",),
)
AT_LEAST = (
    *(
        "Are there at least {n} {a}?",
        "Do you see {n} or more {a}?",
        "Are there {n} {a} or more?",
        "I need {n} {a}. Are there enough?",
    ),
)
# First questions of a dialogue, then what may follow them.
BIGGEST_NEXT = (
    *(
        "And which of them is the {best}?",
        "Which one is the {best}?",
        "Which of these is {best}?",
        "And the {best} one?",
    ),
    *(
        "Now only the {best} of them.",
        "Show me just the {best} one.",
        "Which of them is {best}?",
        "Only the {best}, please.",
    ),
)
ORDER_NEXT = (
    *(
        "And the {nth} one from the {side}?",
        "Which of them is the {nth} from the {side}?",
        "Now only the {nth} from the {side}.",
    ),
    *(
        "Show me the {nth} of them, counted from the {side}.",
        "I mean the {nth} from the {side}.",
        "And only the {nth} from the {side}?",
    ),
)
SIDE_NEXT = (
    *("What is to the {side} of {it}?", "And what is further {side}?", "What do you see {side} of {it}?"),
    *("And to the {side} of {it}?", "Which things are to the {side} of {it}?"),
)
WHERE_NEXT = ("Where is {it}?", "And where is {it}?", "On which side is {it}?", "In which part of the picture is {it}?")
OTHERS_NEXT = (
    "And where are the others?",
    "And the other ones?",
    "Now the others, please.",
    "Show me the rest of them.",
    "What about the others?",
)
COUNT_NEXT = (
    "How many are there?",
    "And how many are they?",
    "How many of them do you see?",
    "Count them.",
    "So how many?",
    "How many is that?",
)
TOO_NEXT = (
    *(
        "And {the}?",
        "What about {the}?",
        "Is there {some}, too?",
        "And do you see {some} as well?",
        "And where {be} {the}?",
    ),
    *("Now {the}, please.", "Also {the}?", "Then show me {the}.", "And {some}?"),
)
FIRST = (
    *("Segment {the}.", "Where {be} {the}?", "Show me {the}.", "Find {the}.", "Mark {the}.", "Do you see {the}?"),
    *("Please find {the}.", "Can you show me {the}?", "Outline {the}.", "I'm looking for {the}."),
)
Step = Callable[[SceneView, random.Random, str], Asked | None]


def ask_two_part(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    parts = [_part(view, rng, fits and rng.random() >= FAIL_RATE, second) for second in (False, True)]
    first, second = parts
    if first is None or second is None or first[0] == second[0] or first[1].text == second[1].text:
        return None
    if fits and not (first[1].targets or second[1].targets):
        return None
    a, b = first[0].rstrip("?"), second[0].rstrip("?")
    upper = b[0].upper() + b[1:]
    question = rng.choice(JOINS).format(a[0].upper() + a[1:], lower_first(b), upper, lower_first(a))
    return question, chain([first[1], second[1]])


def _part(view: SceneView, rng: random.Random, fits: bool, second: bool) -> Asked | None:
    """Return one part: a question for a fact, or for a category, that is one clause where it is the second."""
    if rng.random() < 0.6:
        picked = pick_fact(view, rng, ("use", "has", "group"), fits)
        asks = [a for a in picked[0].asks if a[-1] == "?" and not (second and "." in a)] if picked else []
        if picked is not None and asks:
            return rng.choice(asks), answer_fact(view, *picked)
    template = rng.choice(PART_CATEGORY) + "?"
    if not fits:
        name = missing(view, rng)
        if name is None:
            return None
        question = fill(template, word_for(name, view, rng), False)
        return question, Said(none_here(name).replace(" here.", "." if second else " here."))
    if not view.categories:
        return None
    category = rng.choice(view.categories)
    question = fill(template, word_for(category, view, rng), view.many(category))
    return question, _shown(view, category)


def _shown(view: SceneView, category: str) -> Said:
    """Say where a lone object is, or that the objects are here."""
    members = view.members[category]
    where = spot(view.objects[members[0]]) if category in view.countable and len(members) == 1 else None
    return agree("{x} {is} " + (where or "here"), one(view, category), view.plural(category))


def ask_yes_no(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    draw = rng.random()
    if draw < 0.35:
        return _compared(view, rng) if fits else None
    if draw < 0.65:
        return _anything(view, rng, fits)
    template = rng.choice(IS_THERE)
    if not fits:
        name = missing(view, rng)
        if name is None:
            return None
        return fill(template, word_for(name, view, rng), False), Said(f"No, {lower_first(none_here(name))}")
    if not view.categories:
        return None
    category = rng.choice(view.categories)
    part = one(view, category)
    return fill(template, word_for(category, view, rng), False), Said(f"Yes, {part.text}", part.targets)


def _anything(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    picked = pick_fact(view, rng, ("use", "has", "group"), fits)
    if picked is None:
        return None
    fact, found = picked
    if fact.noun and rng.random() < 0.7:
        question = fill(rng.choice(IS_THERE), noun_of(fact.noun), False)
    else:
        question = rng.choice(ANYTHING).format(that=fact.that)
    if not found:
        return question, Said(f"No, nothing here {fact.that}.")
    part = listed([one(view, category) for category in found])
    return question, Said(f"Yes, {part.text}", part.targets)


def _compared(view: SceneView, rng: random.Random) -> Asked | None:
    if not view.countable:
        return None
    if rng.random() < 0.3:
        return _at_least(view, rng)
    if len(view.countable) < 2:
        return None
    pair = rng.sample(view.countable, 2)
    a, b = pair
    same = rng.random() < 0.2
    left, right = len(view.members[a]), len(view.members[b])
    true = left == right if same else left > right
    words = {key: word_for(c, view, rng).plural for key, c in zip("ab", pair, strict=True)}
    question = rng.choice(SAME if same else MORE).format(**words)
    parts = [Said(_number(view, c), (view.members[c],)) for c in pair]
    evidence = listed(parts)
    be = "are" if left > 1 else "is"
    return question, Said(f"{'Yes' if true else 'No'}, there {be} {evidence.text}", evidence.targets)


def _number(view: SceneView, category: str) -> str:
    count, word = len(view.members[category]), noun_of(category)
    return f"{number(count)} {word.form(count > 1)} {SEG_SLOT}"


def _at_least(view: SceneView, rng: random.Random) -> Asked | None:
    category = rng.choice(view.countable)
    count = len(view.members[category])
    wanted = max(2, count + rng.randint(-2, 2))
    if wanted > 12:
        return None
    question = rng.choice(AT_LEAST).format(n=number(wanted), a=word_for(category, view, rng).plural)
    text = f"there {'is' if count == 1 else 'are'} {'' if count >= wanted else 'only '}{_number(view, category)}"
    return question, Said(f"{'Yes' if count >= wanted else 'No'}, {text}", (view.members[category],))


def follow_up(view: SceneView, rng: random.Random) -> list[Asked] | None:
    """Return two or three questions, each about the answer before it."""
    if not view.countable:
        return None
    several = [c for c in view.countable if len(view.members[c]) > 1]
    if several and rng.random() < 0.7:
        category = rng.choice(several)
        if rng.random() < 0.2:
            return _others(view, rng, category)
        options: tuple[Step, ...] = (_best_next, _order_next, _order_next, _count_next)
    else:
        category = rng.choice(view.countable)
        options = (_side_next, _where_next, _too_next, _too_next) if len(view.members[category]) == 1 else (_too_next,)
    start = _first(view, rng, category)
    following = rng.choice(options)(view, rng, category)
    if following is None:
        return None
    turns = [start, following]
    if rng.random() < 0.2:
        last = _too_next(view, rng, category)
        turns += [last] if last is not None and last[1].text != following[1].text else []
    return turns


def _first(view: SceneView, rng: random.Random, category: str) -> Asked:
    part = one(view, category)
    return fill(rng.choice(FIRST), word_for(category, view, rng), view.many(category)), part


def _best_next(view: SceneView, rng: random.Random, category: str) -> Asked | None:
    measure = rng.choice(comparing.MEASURES)
    chosen = measure.best(view, list(view.members[category]))
    if chosen is None:
        return None
    question = rng.choice(BIGGEST_NEXT).format(best=rng.choice(measure.wordings))
    return question, Said(f"the {measure.word} {noun_of(category).singular} {SEG_SLOT}", ((chosen,),))


def _order_next(view: SceneView, rng: random.Random, category: str) -> Asked | None:
    order, word = view.order(category), noun_of(category)
    if order is None:
        return None
    side, rank = rng.choice(("left", "right")), rng.randrange(min(len(order) + 1, 6))
    question = rng.choice(ORDER_NEXT).format(nth=ORDINALS[rank], side=side)
    if rank >= len(order):
        text = f"There are only {number(len(order))} {word.plural}, so there is no {ORDINALS[rank]} one."
        return question, Said(text)
    index = order[rank] if side == "left" else order[-1 - rank]
    return question, Said(f"the {ORDINALS[rank]} {word.singular} from the {side} {SEG_SLOT}", ((index,),))


def _count_next(view: SceneView, rng: random.Random, category: str) -> Asked | None:
    return rng.choice(COUNT_NEXT), counted(view, category)


def _others(view: SceneView, rng: random.Random, category: str) -> list[Asked] | None:
    """Ask for one of several first, then for the rest."""
    order, word = view.order(category), noun_of(category)
    if order is None:
        return None
    side = rng.choice(("left", "right"))
    index = order[0] if side == "left" else order[-1]
    rest = tuple(i for i in order if i != index)
    asked = word_for(category, view, rng).singular
    first = fill(rng.choice(FIRST), noun_of(category), False).replace(f"the {word.singular}", f"the {side}most {asked}")
    other = f"the other {word.singular}" if len(rest) == 1 else f"the other {number(len(rest))} {word.plural}"
    start = (first, Said(f"the {side}most {word.singular} {SEG_SLOT}", ((index,),)))
    question = rng.choice(OTHERS_NEXT)
    if len(rest) == 1:
        question = question.replace("are the others", "is the other one").replace("the other ones", "the other one")
        question = question.replace("the others", "the other one").replace("rest of them", "other one")
    return [start, (question, Said(f"{other} {SEG_SLOT}", (rest,)))]


def _side_next(view: SceneView, rng: random.Random, category: str) -> Asked | None:
    side = rng.choice(("left", "right"))
    relation = geometry.left_of if side == "left" else geometry.right_of
    base = view.members[category][0]
    pool = [i for i in range(len(view.objects)) if i != base]
    answers = [relation(view.objects[i], view.objects[base]) for i in pool]
    if None in answers or view.scene.uncounted or not pool:
        return None
    it = "them" if view.plural(category) else "it"
    question = rng.choice(SIDE_NEXT).format(side=side, it=it)
    chosen = [i for i, answer in zip(pool, answers, strict=True) if answer]
    own = f"the {noun_of(category).singular}"
    if not chosen:
        if not view.complete:
            return None
        return question, Said(f"There is nothing to the {side} of {own}.")
    parts = [single(view, i) for i in sorted(chosen, key=lambda i: -view.objects[i].area)]
    if len(parts) > 5 or any(len(view.members[view.objects[i].category]) > 1 for i in chosen):
        return None
    plural = len(chosen) > 1 or noun_of(view.objects[chosen[0]].category).is_plural(many=False)
    return question, agree(f"{{x}} {{is}} to the {side} of {own}", listed(parts), plural)


def _where_next(view: SceneView, rng: random.Random, category: str) -> Asked | None:
    where = spot(view.objects[view.members[category][0]])
    if where is None:
        return None
    it = "that person" if category == "person" else "it"
    return rng.choice(WHERE_NEXT).format(it=it), agree(f"{{x}} {{is}} {where}", one(view, category), False)


def _too_next(view: SceneView, rng: random.Random, category: str) -> Asked | None:
    template = rng.choice(TOO_NEXT)
    others = [c for c in view.categories if c != category]
    if others and rng.random() < 0.6:
        other = rng.choice(others)
        return fill(template, word_for(other, view, rng), view.many(other)), one(view, other)
    name = missing(view, rng)
    return None if name is None else (fill(template, word_for(name, view, rng), False), Said(none_here(name)))
