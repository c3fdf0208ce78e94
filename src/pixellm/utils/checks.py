"""Checks of values that were read from files."""

import json
import re
from typing import Any


def expect(value: Any, kind: type, what: str) -> Any:
    """Return `value` if it is a `kind`; otherwise a ValueError says `what` was expected."""
    if not isinstance(value, kind):
        got = "null" if value is None else repr(str(value)[:60])
        raise ValueError(f"expected {what}, got {got}")
    return value


def clause(error: object) -> str:
    """Return a message without its full stop, for one that goes on."""
    return str(error).rstrip(". ")


def read_object(line: bytes) -> dict[str, Any]:
    """Return the JSON object of a line; a ValueError if it is none."""
    try:
        return expect(json.loads(line.decode()), dict, "a JSON object")
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        reason = f": {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        got = line[:60].decode(errors="replace")
        raise ValueError(f"expected a JSON object in UTF-8, got {got!r}{reason}") from None


def check_text(text: str, max_chars: int | None = None) -> str:
    """Return a user's text; a ValueError if it is empty, no Unicode, or longer than `max_chars`."""
    if not text.strip():
        raise ValueError("expected a question, got an empty text")
    if max_chars is not None and len(text) > max_chars:
        raise ValueError(f"expected a text of at most {max_chars:,} characters, got {len(text):,}")
    return check_unicode(text)


def check_unicode(text: str) -> str:
    """Return a text; a ValueError if it has half a surrogate pair: no encoding can write it."""
    if lone := re.search("[\ud800-\udfff]", text):
        raise ValueError(f"expected Unicode text, got half a surrogate pair, {lone[0]!r}, at character {lone.start()}")
    return text


def shown(value: object) -> str:
    """Return a value of a file as text that can be printed: half a surrogate pair, which can't, by its number."""
    return str(value).encode(errors="backslashreplace").decode()


def check_span(span: Any, text: str) -> tuple[int, int]:
    """Return `[start, end]` as a tuple; a ValueError if it is no span in the text."""
    pair = isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)
    if not pair or not 0 <= span[0] <= span[1] <= len(text):
        raise ValueError(f"expected a span [start, end] in the text of {len(text)} characters, got {span!r}")
    return span[0], span[1]


def check_score(score: Any, what: str = "a score") -> float | None:
    """Return a score, or None for none; a ValueError if it is not a number in 0..1."""
    return None if score is None else _check_share(score, what)


def check_min_score(min_score: Any) -> float:
    """Return the least score of targets that are given out; a ValueError if it is not a number in 0..1."""
    return _check_share(min_score, "a min_score", ". 0 leaves no target out")


def _check_share(value: Any, what: str, advice: str = "") -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"expected {what} in 0..1, got {value!r}{advice}")
    return float(value)
