"""Which language a text is in, by py3langid (docs/decisions/muse-checks.md)."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# Short questions are hard to tell: only what is hardly the language asked for is called another.
LEAST_LIKELIHOOD = 0.02
NEIGHBOURS = {"en": ("pcm", "sco")}  # dialects that the library tells apart


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def other_than(wanted: str, text: str) -> str | None:
    """The language of `text` (ISO 639-1), if it is surely not `wanted`."""
    ranked = _identifier().rank(text)
    likelihood = sum(share for name, share in ranked if name in (wanted, *NEIGHBOURS.get(wanted, ())))
    return ranked[0][0] if likelihood < LEAST_LIKELIHOOD else None
