"""Questions that name what they ask for: category, several, all, each, count."""

import random

from pixellm.data.categories import COCO
from pixellm.data.templates import fill, join
from pixellm.mini.scenes.lexicon import ORDINALS, noun_of, number, there_is_no
from pixellm.mini.scenes.phrasing import Said, listed, one, single, word_for
from pixellm.mini.scenes.scene import SceneView
from pixellm.types import SEG_SLOT

Asked = tuple[str, Said]  # a question and what answers it
MAX_SLOTS = 8
MAX_EACH = 6
COMMON_RATE = 0.6  # of absent names: those of COCO, as often as they are present

CATEGORY = (
    *("Segment {the}.", "Please segment {the}.", "Could you segment {the} for me?", "Find {the}.", "Find {every}."),
    *("Mark {the} for me.", "Mark {every}.", "Outline {the}.", "Highlight {every}.", "Show me {the}.", "Show {every}."),
    *("Give me a mask for {the}.", "I need the mask of {the}.", "Locate {the}, please.", "Select {every}."),
    *("Can you see {any} here?", "Do you see {any}?", "Have you got {any} in this picture?", "I'm looking for {the}."),
    *(
        "Cut out {the}.",
        "Point at {the}.",
        "Point out {every} to a child.",
        "Which pixels show {the}?",
        "Where {be} {the}?",
    ),
    *("Could you please show a guest {the}?", "I can't find {the}. Help me.", "{bare}"),
    *("{the}", "Colour in {the}.", "Pick {the}.", "Let me see {the}.", "Spot {the} for me."),
)
CATEGORY_ANSWERS = ("{0}.", "Here {be} {0}.", "You can see {0} here.")
SEVERAL = (
    *("Segment {list}.", "Please segment {list}.", "Find {list}.", "Mark {list} for me.", "Show me {list}."),
    *(
        "Can you find {list}?",
        "I need masks of {list}.",
        "Where are {list}?",
        "Locate {list}, please.",
        "Outline {list}.",
    ),
    *(
        "Highlight {list}.",
        "I want to see {list}.",
        "Point out {list}.",
        "Pick out {list} for me, please.",
        "Cut out {list}.",
    ),
    *("Could you show a child {list}?", "Give me {list}, each with a mask.", "Do you see {list}?", "{list}"),
    *("Select {list}.", "I'm looking for {list}. Where are they?"),
)
ALL = (
    *(
        "What is in this picture?",
        "What do you see?",
        "What can you see here?",
        "Tell me what is here.",
        "Describe what is here.",
    ),
    *(
        "What is there to see?",
        "List what you see.",
        "Tell me what objects these are.",
        "Which objects are here?",
        "What's all this?",
    ),
    *(
        "What would a guest see here?",
        "Show me all that you recognise.",
        "Label the whole picture.",
        "What's in the photo?",
    ),
    *(
        "I can't see the picture. What is on it?",
        "Tell a blind person what is in this image.",
        "Make a list of the objects.",
    ),
    *("Take stock of this scene.", "Mark everything that you know by name."),
    *("Give me an overview.", "Which things could you point at here?", "What does this photo show?"),
)
EACH = (
    *("Segment {the} one by one.", "Give me a separate mask for each {name}.", "Mark each {name} on its own."),
    *("Show me {the}, each by itself.", "Separate {the} from each other.", "Segment each single {name}."),
    *("I want one mask for every {name}.", "Outline each {name} separately.", "Go through {the} from left to right."),
    *("List {the} individually.", "Point at each {name}, one after the other.", "Number {the} and segment them."),
    *(
        "Could you mark {the} one at a time?",
        "Tell {the} apart with masks.",
        "Don't lump {the} together: one mask each.",
    ),
    *("Pick out {the} singly.",),
)
COUNT = (
    *("How many {names} are there?", "Count {the}.", "How many {names} do you see?", "How many {names} are here?"),
    *(
        "What is the number of {names}?",
        "Please count {the} for me.",
        "How many {names} can you find?",
        "Number of {names}?",
    ),
    *("Can you tell me how many {names} there are?", "I'd like to know how many {names} are in the picture."),
    *(
        "How many {names} would a child count here?",
        "Tell me the number of {names}, and show them.",
        "Count each {name}.",
    ),
    *("Are there many {names}? How many exactly?", "How many {names} have we got here?", "How many {names} in total?"),
)


def missing(view: SceneView, rng: random.Random, countable: bool = False) -> str | None:
    """Return a name that is surely absent: mostly one of COCO's, sometimes one that sounds like what is present."""
    absent = [name for name in view.absent if not countable or noun_of(name).countable]
    if not absent:
        return None
    last = {category.split(" ")[-1] for category in view.present}
    alike = [name for name in absent if name.split(" ")[-1] in last]
    if alike and rng.random() < 0.2:
        return rng.choice(alike)
    common = [name for name in absent if name in COCO]
    return rng.choice(common if common and rng.random() < COMMON_RATE else absent)


def none_here(category: str) -> str:
    return f"T{there_is_no([category])[1:]} here."


def ask_category(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    template = rng.choice(CATEGORY)
    if not fits:
        name = missing(view, rng)
        if name is None:
            return None
        return fill(template, word_for(name, view, rng), rng.random() < 0.5), Said(none_here(name))
    if not view.categories:
        return None
    category = rng.choice(view.categories)
    part = one(view, category)
    form = rng.choice((CATEGORY_ANSWERS[0], *CATEGORY_ANSWERS))
    be = "are" if view.plural(category) else "is"
    text = form.replace("{be}", be).replace("{0}", part.text)
    return fill(template, word_for(category, view, rng), view.many(category)), Said(text, part.targets)


def ask_several(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    absent = rng.randint(1, 2) if rng.random() < 0.3 or not fits else 0
    present = rng.randint(1 if absent else 2, 3) if fits else 0
    if len(view.categories) < present or (absent and not view.absent):
        return None
    there = rng.sample(view.categories, present)
    gone = list(dict.fromkeys(name for _ in range(absent + (not fits)) if (name := missing(view, rng))))
    asked = [*there, *gone]
    rng.shuffle(asked)
    words = [
        word.the(view.many(c) if c in view.present else rng.random() < 0.3)
        for c, word in ((c, word_for(c, view, rng)) for c in asked)
    ]
    question = rng.choice(SEVERAL).format(list=join(words))
    if not gone:
        return question, listed([one(view, c) for c in there])
    nothing = there_is_no(gone) + ("" if there else " here")
    if not there:
        return question, Said(nothing)
    part = listed([one(view, c) for c in there])
    return question, Said(f"{part.text}; {nothing}", part.targets)


def ask_all(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    if not fits or not view.categories:
        return None
    parts = [Said(f"{view.counted(c)} {SEG_SLOT}", (view.members[c],)) for c in view.categories[:MAX_SLOTS]]
    everything = listed(parts)
    form = rng.choice(("{0}", "{0}", "I see {0}", "Here {be} {0}"))
    be = "are" if view.plural(view.categories[0]) else "is"
    return rng.choice(ALL), Said(form.replace("{be}", be).replace("{0}", everything.text), everything.targets)


def ask_each(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    template = rng.choice(EACH)
    if not fits:
        name = missing(view, rng, countable=True)
        return None if name is None else (fill(template, noun_of(name), True), Said(none_here(name)))
    possible = [c for c in view.countable if 2 <= len(view.members[c]) <= MAX_EACH and view.order(c)]
    if not possible:
        return None
    category = rng.choice(possible)
    word, order = noun_of(category).singular, view.members[category]
    if len(order) <= 3 and rng.random() < 0.4:
        answer = listed([single(view, i) for i in order])
    else:
        answer = listed([Said(f"the {ORDINALS[k]} {word} {SEG_SLOT}", ((i,),)) for k, i in enumerate(order)])
        if rng.random() < 0.5:
            answer = Said(f"From left to right: {answer.text}", answer.targets)
    return fill(template, word_for(category, view, rng), True), answer


def ask_count(view: SceneView, rng: random.Random, fits: bool) -> Asked | None:
    template = rng.choice(COUNT)
    if not fits:
        name = missing(view, rng, countable=True)
        return None if name is None else (fill(template, word_for(name, view, rng), True), Said(none_here(name)))
    if not view.countable:
        return None
    category = rng.choice([c for c in view.countable if view.many(c)] or view.countable)
    return fill(template, word_for(category, view, rng), True), counted(view, category)


def counted(view: SceneView, category: str) -> Said:
    """Say how many there are: each with its mask up to six that are clearly apart, else all with one."""
    members, word = view.members[category], noun_of(category)
    if len(members) == 1:
        return Said(f"There is one {word.singular} {SEG_SLOT}", (members,))
    start = f"There are {number(len(members))} {word.plural}"
    if len(members) > MAX_EACH or not view.order(category):
        return Said(f"{start} {SEG_SLOT}", (members,))
    places = {2: ("on the left", "on the right"), 3: ("on the left", "in the middle", "on the right")}
    if len(members) in places:
        parts = [f"one {place} {SEG_SLOT}" for place in places[len(members)]]
    else:
        parts = [f"the {ordinal} {SEG_SLOT}" for ordinal in ORDINALS[: len(members)]]
    return Said(f"{start}: {join(parts)}", tuple((i,) for i in members))
