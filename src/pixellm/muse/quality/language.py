"""Which language a text is in, by py3langid (docs/decisions/muse-checks.md)."""

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# Of 832 English sentences (questions and COCO's captions), each is more than 0.3 likely to be English; translations of
# such sentences into ten languages are less than 0.001.
LEAST_LIKELIHOOD = 0.05
LETTERS = 12  # of a sentence: what is shorter is judged with the next one
NEIGHBOURS = {"en": ("pcm", "sco")}  # dialects that the library tells apart


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def other_than(wanted: str, text: str) -> str | None:
    """The language (ISO 639-1) of the first sentence of `text` that is surely not `wanted`."""
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
        # A sign of Chinese or Japanese is about a word.
        letters = sum(3 if letter > "\u2e80" else 1 for letter in kept if letter.isalpha())
        if letters >= LETTERS:
            yield kept
            kept = ""
    if any(letter.isalpha() for letter in kept) and kept == text:
        yield kept
