"""Wording of questions and answers: names, phrases before slots, unsafe words, language (py3langid)."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pixellm.data.categories import SYNONYMS
from pixellm.data.describe import pluralize, spoken

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

ARTICLES = ("the", "a", "an", "this", "that", "these", "those", "its", "his", "her", "their", "your", "some")
# Characters that may stand between a phrase and its slot: quotes and brackets that open, a comma, emphasis.
BEFORE_SLOT = " \t\n,;:([\"'“”‘’*_–-"
# Words of questions that fit any image.
GENERIC = frozenset(Path(__file__).with_name("generic.txt").read_text(encoding="utf-8").split())
# A minimum; projects pass a list of their own.
UNSAFE = (
    *("suicide", "suicidal", "self-harm", "murder", "rape", "rapist", "molest", "torture", "behead", "genocide"),
    *("porn", "pornographic", "pornography", "nude", "nudity", "genitals", "erotic", "orgasm", "fetish"),
    *("terrorist", "terrorism", "massacre", "cocaine", "heroin", "methamphetamine", "pedophile", "paedophile"),
    *("nazi", "lynch", "lynching"),
)

# 832 English sentences (questions and COCO's captions) are each more than 0.3 likely to be English, translations of
# such sentences into ten languages less than 0.001.
LEAST_LIKELIHOOD = 0.05
LETTERS = 12  # shorter sentences are judged together with the next one
NEIGHBOURS = {"en": ("pcm", "sco")}  # dialects that the library distinguishes


def plain(text: str) -> str:
    """Normalise a text for comparison: lower case, one space between words, simple quotes, no article in front."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").lower()
    words = re.sub(r"\s+", " ", text).strip(f"{BEFORE_SLOT}.").split(" ")
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)


def ends_with(text: str, description: str) -> bool:
    """Return True if a text ends with a description, case, article and quotes aside."""
    text, wanted = plain(text), plain(description)
    before = text.removesuffix(wanted)
    return before != text and (not before or not before[-1].isalnum())


def name_in(question: str, category: str, description: str) -> str | None:
    """Return a word for the category, or the whole description of a target, that a question contains."""
    for word in filter(None, (*_names(category), plain(description))):
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", plain(question)):
            return word
    return None


@cache
def _names(category: str) -> tuple[str, ...]:
    name = spoken(category).lower()
    words = (name, *(word.lower() for word in SYNONYMS.get(category, ())))
    return tuple(dict.fromkeys(form for word in words for form in (word, pluralize(word))))


def content_words(question: str) -> list[str]:
    """Return the words that distinguish a question from any other."""
    words = re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", question.lower().replace("’", "'"))
    return [word for word in words if word not in GENERIC and len(word) > 1]


def word_list(words: Iterable[str]) -> Callable[[str], str | None]:
    """Return a rule for `QualityRules.unsafe`: none of these words, in any case, as whole words."""
    parts = [re.escape(word.strip()) for word in words if word.strip()]
    if not parts:
        raise ValueError("expected a list of words, got none. Write one a line.")
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)

    def rule(text: str) -> str | None:
        match = pattern.search(text)
        return f"it says {match.group()!r}" if match else None

    return rule


unsafe_words = word_list(UNSAFE)


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def foreign_language(wanted: str, text: str) -> str | None:
    """Return the language (ISO 639-1) of the first sentence of `text` that is surely not `wanted`."""
    for sentence in _sentences(text):
        ranked = _identifier().rank(sentence)
        likelihood = sum(share for name, share in ranked if name in (wanted, *NEIGHBOURS.get(wanted, ())))
        if likelihood < LEAST_LIKELIHOOD:
            return ranked[0][0]
    return None


def _sentences(text: str) -> Iterator[str]:
    kept = ""
    for sentence in re.findall(r"[^.!?。!?;:]+[.!?。!?;:]*", text):
        kept += sentence
        # A Chinese or Japanese character is about a word.
        letters = sum(3 if letter > "\u2e80" else 1 for letter in kept if letter.isalpha())
        if letters >= LETTERS:
            yield kept
            kept = ""
    if any(letter.isalpha() for letter in kept) and kept == text:
        yield kept
