"""Templates of questions and answers, how they are filled, and the one plain wording of each kind."""

import random
import re
from collections.abc import Sequence

from pixellm.data.categories import SINGLE_PERSON_WORDS, SYNONYMS, WORD_ALSO_MEANS
from pixellm.data.describe import Noun, noun
from pixellm.types import SEG_SLOT

SYNONYM_RATE = 0.3

# {the}, {every}, {some}, {any}, {bare}: the noun in that form; {be}: is or are. The same for things present and absent,
# so that the wording never gives the answer away.
CATEGORY_QUESTIONS = (
    *("Segment {the}.", "Segment {every} in this image.", "Please segment {the} in the picture."),
    *("Could you segment {the} for me, please?", "Find {the}.", "Find {every} in the photo.", "Mark {every}."),
    *("Outline {the}.", "Highlight {the} in this photo.", "Show me {the}.", "Show {every} in this picture."),
    *("Give me a mask of {the}.", "Locate {every}.", "Select {the}, please.", "Mask {every}, please."),
    *("Where {be} {the}?", "Where {be} {the} in this picture?", "Can you find {any}?", "Can you see {any} here?"),
    *("Do you see {any}? Segment what you find.", "{Be} there {some} in this image?"),
    *("Which pixels belong to {the}?", "Which part of the image shows {the}?", "I am looking for {the}."),
    *("I would like to see {the} segmented.", "{bare}", "{the}"),
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
    *("Segment {list}.", "Segment {list} in this image.", "Please segment {list} in this picture.", "Find {list}."),
    *("Mark {list}, please.", "Show me {list}.", "Can you segment {list}?", "Give me masks of {list}."),
    "Locate {list} in the photo.",
)
# Ask for counts, which merged masks cannot answer …
ALL_QUESTIONS = (
    *("What is in this picture?", "Name and segment everything you see.", "What do you see in this image?"),
    *("Name and segment the things in this image.", "What is in this photo, and where?"),
    *("Segment everything and say what it is.", "Which objects do you see, and how many?"),
)
# … and for kinds, which they can.
KINDS_QUESTIONS = (
    "Which kinds of things are in this picture?",
    "List the kinds of things in this image and segment each kind.",
    "Label and segment each kind of thing.",
    "Which categories do you see? Segment them.",
)
CAPTION_QUESTIONS = (
    *("Describe this image.", "Describe the picture in one sentence.", "What is happening in this photo?"),
    *("Give a short caption for this image.", "Write a caption without masks."),
)
NOTHING_FITS = "Nothing here fits that."

# Templates of `chat`, whose phrases are a dataset's own: {what} phrases joined, {What} the same with a capital letter,
# {seg} a mask, {segs} one for each phrase.
_FIELD = re.compile(r"\{(what|What|segs)\}")
SHORT_QUESTIONS = (
    *("Segment {what}.", "Please segment {what} in this image.", "Could you segment {what} for me?"),
    *("Find {what} and give me the mask.", "Where is {what}? Answer with a mask.", "Which pixels show {what}?"),
    *("Mark {what} in the picture.", "Outline {what}, please.", "Show me {what} in this photo."),
    *("Give me a segmentation of {what}.", "I need the mask of {what}.", "Point out {what} with a mask."),
    *("Cut out {what}.", "{what}"),
)
SENTENCE_REQUESTS = (
    *("Please answer with segmentation masks.", "Show the answer with masks.", "Segment what you name."),
    *("Mark it in the image.", "Give a mask for each thing.", "Please point it out with masks."),
)
EXPLAIN_REQUESTS = (
    "Please segment it and explain why.",
    "Show it with a mask, and tell me the reason.",
    "Give the mask and a short explanation.",
)
ONE_ANSWERS = ("Here it is {seg}.", "It is this {seg}.", "Sure, {seg}.", "{What} {seg}.", "{seg}.")
SEPARATE_ANSWERS = ("{what} {seg}", "{what} is here {seg}", "{seg}")  # one for each target, then joined
JOINT_ANSWERS = (
    *("{What}: {segs}.", "Here are {what}: {segs}.", "Sure, {what} are {segs}, in this order."),
    *("In this order, they are {segs}.", "{segs}."),
)
ABSENT_ANSWERS = ("There is no {what} here.", "I see no {what} in this image.", "No {what} is to be seen.")
UNFIT_ANSWERS = ("Nothing in this image fits that.", "There is nothing like that here.", "I find nothing of the kind.")


def category_question(name: str) -> str:
    """Return the one plain wording to ask for all objects of a category."""
    return f"Segment {noun(name).every()} in this image."


def several_question(names: Sequence[str]) -> str:
    """Return the one plain wording to ask for two or more categories together."""
    return f"Segment {join([noun(name).every() for name in names])} in this image."


def all_question() -> str:
    """Return the one plain wording to ask for everything in the image."""
    return "Name and segment the things in this image."


def word_for(name: str, rng: random.Random, present: frozenset[str], alone: bool) -> Noun:
    """Return the noun to ask for a category with: its own, or sometimes a synonym that means nothing else present."""
    words = [w for w in SYNONYMS.get(name, ()) if not WORD_ALSO_MEANS.get(w, frozenset()) & present]
    if name == "person" and alone:
        words += SINGLE_PERSON_WORDS
    if not words or rng.random() >= SYNONYM_RATE:
        return noun(name)
    return noun(name, rng.choice(words))


def fill(template: str, word: Noun, many: bool) -> str:
    """Fill a template with the noun in its forms: those of `CATEGORY_QUESTIONS`, {name} and {names}."""
    be = word.be(many)
    return template.format(
        the=word.the(many),
        every=word.every(),
        some=word.some(many),
        any=f"any {word.plural}",
        bare=word.form(many),
        name=word.singular,
        names=word.plural,
        be=be,
        Be=be.capitalize(),
    )


def join(parts: Sequence[str]) -> str:
    """Enumerate: a · a and b · a, b and c."""
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]


def sentence(text: str) -> str:
    """Begin with a capital letter and end with a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def fill_phrase(template: str, phrase: str, segs: str = "") -> str:
    """Fill a template of `SHORT_QUESTIONS` or of an answer with somebody's words, which are not read as a template."""
    texts = {"what": phrase, "What": f"{phrase[:1].upper()}{phrase[1:]}", "segs": segs}
    return _FIELD.sub(lambda match: texts[match[1]], template)


def escape(text: str) -> str:
    """Return somebody's text with nothing in it that reads as a mask's slot."""
    return text.replace(SEG_SLOT, "{ seg }")
