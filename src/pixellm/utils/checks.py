"""Checks of values that were read from files."""

import math
from typing import Any


def expect(value: Any, kind: type, what: str) -> Any:
    """Return `value` if it is a `kind`; otherwise a ValueError says `what` was expected."""
    if not isinstance(value, kind):
        raise ValueError(f"expected {what}, got {str(value)[:60]!r}")
    return value


def check_span(span: Any, text: str) -> tuple[int, int]:
    """Return `[start, end]` as a tuple; a ValueError if it is no span in the text."""
    pair = isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)
    if not pair or not 0 <= span[0] <= span[1] <= len(text):
        raise ValueError(f"expected a span [start, end] in the text of {len(text)} characters, got {span!r}")
    return span[0], span[1]


def check_score(score: Any) -> float | None:
    """Return a score, or None for none; a ValueError if it is not a finite number."""
    if score is None:
        return None
    if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
        raise ValueError(f"expected a number as score, got {score!r}")
    return float(score)
