"""Numbers of bytes as users write them."""

import math
import re

_UNITS = {"": 10**9, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def bytes_of(text: str) -> int:
    """Read a size like 24GB, 500 MB or 16GiB; a number alone is in GB.

    Raises:
        ValueError: it is none.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2].upper() not in _UNITS or not float(match[1]):
        raise ValueError(f"expected a size like 24GB, 500MB or 16GiB, got {text!r}.")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def rounded_up(size: int) -> str:
    """Write a size in GB, with two decimals and no smaller than it is, as `bytes_of` reads it: 1.25GB."""
    return f"{math.ceil(size / 10**7) / 100:.2f}GB"
