"""What the words of a question and an answer say, without understanding them."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from pixellm.data.categories import SYNONYMS
from pixellm.data.describe import pluralize, spoken

ARTICLES = ("the", "a", "an", "this", "that", "these", "those", "its", "his", "her", "their", "your", "some")
# May stand between the words for a target and its slot: quotes and brackets that open, a comma, emphasis.
BEFORE_SLOT = " \t\n,;:([\"'“”‘’*_–-"
# Words of questions that any image has an answer to.
GENERIC = frozenset(Path(__file__).with_name("generic.txt").read_text(encoding="utf-8").split())
# The least that nobody wants in such data; projects give a list of their own.
UNSAFE = (
    *("suicide", "suicidal", "self-harm", "murder", "rape", "rapist", "molest", "torture", "behead", "genocide"),
    *("porn", "pornographic", "pornography", "nude", "nudity", "genitals", "erotic", "orgasm", "fetish"),
    *("terrorist", "terrorism", "massacre", "cocaine", "heroin", "methamphetamine", "pedophile", "paedophile"),
    *("nazi", "lynch", "lynching"),
)


def plain(text: str) -> str:
    """For comparison: lower case, one space between words, simple quotes, no article in front."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").lower()
    words = re.sub(r"\s+", " ", text).strip(f"{BEFORE_SLOT}.").split(" ")
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)


def ends_with(text: str, description: str) -> bool:
    """Whether a text ends with the words for a target, whatever their case, article, and quotes around them."""
    text, wanted = plain(text), plain(description)
    before = text.removesuffix(wanted)
    return before != text and (not before or not before[-1].isalnum())


def name_in(question: str, category: str, description: str) -> str | None:
    """A word for the category, or the whole description of a target, that a question says."""
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
    """The words that tell a question from any other."""
    words = re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", question.lower().replace("’", "'"))
    return [word for word in words if word not in GENERIC and len(word) > 1]


def word_list(words: Iterable[str]) -> Callable[[str], str | None]:
    """A rule for `Rules.unsafe`: none of these words, in any case, as whole words."""
    parts = [re.escape(word.strip()) for word in words if word.strip()]
    if not parts:
        raise ValueError("expected a list of words, got none. Write one a line.")
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)

    def rule(text: str) -> str | None:
        found = pattern.search(text)
        return f"it says {found.group()!r}" if found else None

    return rule


unsafe_words = word_list(UNSAFE)
