"""How questions are worded: templates, the noun to ask with, and the one plain wording of each kind."""

import random
from collections.abc import Sequence

from pixellm.data.categories import SINGLE_PERSON_WORDS, SYNONYMS, WORD_ALSO_MEANS
from pixellm.data.describe import Noun, noun

SYNONYM_RATE = 0.3

# {the}, {every}, {some}, {any}, {bare}: the noun in that form; {be}: is or are. The same for things present and absent,
# so that the wording never gives the answer away.
CATEGORY_QUESTIONS = (
    "Segment {the}.",
    "Segment {every} in this image.",
    "Please segment {the} in the picture.",
    "Could you segment {the} for me, please?",
    "Find {the}.",
    "Find {every} in the photo.",
    "Mark {every}.",
    "Outline {the}.",
    "Highlight {the} in this photo.",
    "Show me {the}.",
    "Show {every} in this picture.",
    "Give me a mask of {the}.",
    "Locate {every}.",
    "Select {the}, please.",
    "Mask {every}, please.",
    "Where {be} {the}?",
    "Where {be} {the} in this picture?",
    "Can you find {any}?",
    "Can you see {any} here?",
    "Do you see {any}? Segment what you find.",
    "{Be} there {some} in this image?",
    "Which pixels belong to {the}?",
    "Which part of the image shows {the}?",
    "I am looking for {the}.",
    "I would like to see {the} segmented.",
    "{bare}",
    "{the}",
)
# Those that fit a description, such as "the leftmost dog", as well.
INSTANCE_QUESTIONS = tuple(text for text in CATEGORY_QUESTIONS if "{the}" in text)
SEPARATE_QUESTIONS = (
    "Segment each {name} separately.",
    "Segment the {names} one by one.",
    "Give me a separate mask of each {name}.",
    "Mark every {name} on its own.",
)
SEVERAL_QUESTIONS = (
    "Segment {list}.",
    "Segment {list} in this image.",
    "Please segment {list} in this picture.",
    "Find {list}.",
    "Mark {list}, please.",
    "Show me {list}.",
    "Can you segment {list}?",
    "Give me masks of {list}.",
    "Locate {list} in the photo.",
)
# Ask for counts, which merged masks cannot answer …
ALL_QUESTIONS = (
    "What is in this picture?",
    "Name and segment everything you see.",
    "What do you see in this image?",
    "Name and segment the things in this image.",
    "What is in this photo, and where?",
    "Segment everything and say what it is.",
    "Which objects do you see, and how many?",
)
# … and for kinds, which they can.
KINDS_QUESTIONS = (
    "Which kinds of things are in this picture?",
    "List the kinds of things in this image and segment each kind.",
    "Label and segment each kind of thing.",
    "Which categories do you see? Segment them.",
)
CAPTION_QUESTIONS = (
    "Describe this image.",
    "Describe the picture in one sentence.",
    "What is happening in this photo?",
    "Give a short caption for this image.",
    "Write a caption without masks.",
)
NOTHING_FITS = "Nothing here fits that."


def category_question(name: str) -> str:
    """The one plain wording to ask for all things called `name`."""
    return f"Segment {noun(name).every()} in this image."


def several_question(names: Sequence[str]) -> str:
    """The one plain wording to ask for two or more categories together."""
    return f"Segment {join([noun(name).every() for name in names])} in this image."


def all_question() -> str:
    """The one plain wording to ask for everything in the image."""
    return "Name and segment the things in this image."


def word_for(name: str, rng: random.Random, present: frozenset[str], alone: bool) -> Noun:
    """The noun to ask for `name` with: its own, or sometimes a synonym that means nothing else that is present."""
    words = [w for w in SYNONYMS.get(name, ()) if not WORD_ALSO_MEANS.get(w, frozenset()) & present]
    if name == "person" and alone:
        words += SINGLE_PERSON_WORDS
    if not words or rng.random() >= SYNONYM_RATE:
        return noun(name)
    return noun(name, rng.choice(words))


def fill(template: str, word: Noun, many: bool) -> str:
    """A template of `CATEGORY_QUESTIONS` with the noun in its forms."""
    be = word.be(many)
    return template.format(
        the=word.the(many),
        every=word.every(),
        some=word.some(many),
        any=f"any {word.plural}",
        bare=word.form(many),
        be=be,
        Be=be.capitalize(),
    )


def join(parts: Sequence[str]) -> str:
    """Enumerate: a · a and b · a, b and c."""
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."
