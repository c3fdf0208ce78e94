"""Answers put together from phrases with masks, and the registers of questions."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pixellm.data.categories import SYNONYMS, WORD_ALSO_MEANS
from pixellm.data.describe import Noun, noun
from pixellm.data.templates import join
from pixellm.mini.scenes.lexicon import noun_of
from pixellm.mini.scenes.scene import SceneView
from pixellm.types import SEG_SLOT

SYNONYM_RATE = 0.25
CASUAL_RATE = 0.15
POLITE_RATE = 0.06
RARE_WORDS = ("cycle", "screen", "settee")  # rarely said of these alone
POLITE = (
    "Please tell me: {}",
    "Excuse me, {}",
    "Hey, {}",
    "One question: {}",
    "Can you help me? {}",
    "Look at this. {}",
)
# Words that begin a sentence and keep their capital letter within one.
_CAPITAL = ("I", "I'm", "I've", "I'd", "I'll", "Christmas")


@dataclass(frozen=True)
class Said:
    """A piece of an answer, and the objects of its masks in order."""

    text: str
    targets: tuple[tuple[int, ...], ...] = ()

    @property
    def sentence(self) -> str:
        text = self.text.strip()
        return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def lower_first(text: str) -> str:
    """Return a sentence so that it can stand within another one."""
    return text if text.split(" ", 1)[0].rstrip(",") in _CAPITAL else text[0].lower() + text[1:]


def one(view: SceneView, category: str) -> Said:
    """All objects of a category with one mask: "the two dogs {seg}"."""
    return Said(f"{view.the(category)} {SEG_SLOT}", (view.members[category],))


def single(view: SceneView, index: int) -> Said:
    """One object with its mask: "the dog on the left {seg}"."""
    return Said(f"{view.label(index)} {SEG_SLOT}", ((index,),))


def listed(parts: Sequence[Said]) -> Said:
    """Enumerate: a, b and c."""
    return Said(join([part.text for part in parts]), tuple(t for part in parts for t in part.targets))


def chain(parts: Sequence[Said]) -> Said:
    """Put whole statements into one sentence: "…; …"."""
    texts = [part.text.strip().rstrip(".") for part in parts]
    return Said("; ".join([texts[0], *map(lower_first, texts[1:])]), tuple(t for part in parts for t in part.targets))


def agree(template: str, subject: Said, plural: bool) -> Said:
    """Fill {x} with the subject, and {is}, {has}, {does}, {s} so that they agree with it."""
    words = (
        {"is": "are", "has": "have", "does": "do", "s": ""}
        if plural
        else {"is": "is", "has": "has", "does": "does", "s": "s"}
    )
    return Said(
        template.format(x=subject.text.replace(SEG_SLOT, "\0"), **words).replace("\0", SEG_SLOT), subject.targets
    )


def word_for(category: str, view: SceneView, rng: random.Random) -> Noun:
    """Return the noun to ask with: its own, or sometimes a synonym that means nothing else here."""
    others = view.present - {category}
    words = [
        word
        for word in SYNONYMS.get(category, ())
        if word not in RARE_WORDS
        and not WORD_ALSO_MEANS.get(word, frozenset()) & others
        and not any(other.split(" ")[-1] == word.split(" ")[-1] for other in others)
    ]
    return noun(category, rng.choice(words)) if words and rng.random() < SYNONYM_RATE else noun_of(category)


def register(question: str, rng: random.Random) -> str:
    """Return the question as it is, politely, or casually: in lower case without its last mark."""
    question = question[0].upper() + question[1:]
    draw = rng.random()
    if draw < CASUAL_RATE:
        return question.lower().rstrip(".?")
    if draw < CASUAL_RATE + POLITE_RATE and question[-1] == "?" and not question.startswith("First:"):
        form = rng.choice(POLITE)
        return form.format(question if form.split("{")[0].rstrip()[-1] in ".?" else lower_first(question))
    return question
