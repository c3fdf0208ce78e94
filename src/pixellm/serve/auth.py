"""API keys: read from the environment or a file, compared in constant time, known elsewhere only by a short digest."""

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path

ENVIRONMENT = "PIXELLM_API_KEYS"
SHORTEST = 16  # characters; what can't be guessed
ANYBODY = "anybody"  # the tenant where no keys are wanted


def read_keys(file: Path | None) -> list[str]:
    """Keys of PIXELLM_API_KEYS (separated by commas) and of a file (one a line, `#` begins a comment).

    Raises:
        ValueError: a key that is too short, or a file that holds none.
    """
    keys = [key.strip() for key in os.environ.get(ENVIRONMENT, "").split(",")]
    if file is not None:
        lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
        if not any(lines):
            raise ValueError(f"expected API keys in {file}, one a line, got none.")
        keys += lines
    keys = [key for key in keys if key]
    short = sum(len(key) < SHORTEST for key in keys)
    if short:
        raise ValueError(
            f"expected API keys of at least {SHORTEST} characters, got {short} shorter ones. Make one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return keys


class Keys:
    """Who may ask."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def tenant(self, authorization: str | None) -> str | None:
        """Name of who sends this header; None: nobody that is known. Takes as long for every key."""
        if not self._digests:
            return ANYBODY
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip())
        found = [hmac.compare_digest(given, digest) for digest in self._digests]
        return given.hex()[:12] if any(found) and scheme.lower() == "bearer" else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
