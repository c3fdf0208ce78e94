"""API keys: authenticate a request and name its tenant.

Keys come from the environment or a file, are compared in constant time, and appear elsewhere only as a short digest.
"""

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path

from pixellm.serve.errors import ApiError

ENVIRONMENT = "PIXELLM_API_KEYS"
MIN_CHARS = 16  # shorter keys can be guessed
ANONYMOUS = "anonymous"  # the tenant of requests that need no key


def load_api_keys(file: Path | None) -> "ApiKeys":
    """Read keys from PIXELLM_API_KEYS (comma-separated) and from a file (one per line, `#` starts a comment).

    Raises:
        ValueError: a key that is too short or cannot be sent in a header, or a file without keys.
    """
    keys = [key.strip() for key in os.environ.get(ENVIRONMENT, "").split(",")]
    if file is not None:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        if not any(lines):
            raise ValueError(f"expected API keys in {file}, one per line, got none.")
        keys += lines
    keys = [key for key in keys if key]
    short = sum(len(key) < MIN_CHARS for key in keys)
    if short:
        raise ValueError(
            f"expected API keys of at least {MIN_CHARS} characters, got {short} shorter ones. Create one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    odd = sum(not (key.isascii() and key.isprintable()) for key in keys)
    if odd:
        raise ValueError(
            f"expected API keys of printable ASCII characters, which HTTP headers can carry, got {odd} with others. "
            "Replace them."
        )
    return ApiKeys(keys)


class ApiKeys:
    """Accepted API keys; an empty set accepts every request."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def authenticate(self, authorization: str | None) -> str:
        """Return the tenant of an Authorization header; the time it takes does not depend on the key.

        Raises:
            ApiError: 401, no accepted key.
        """
        if not self._digests:
            return ANONYMOUS
        scheme, _, key = (authorization or "").partition(" ")
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, accepted) for accepted in self._digests]
        if not any(matches) or scheme.lower() != "bearer":
            raise ApiError(401, "expected Authorization: Bearer KEY with an API key of this server.")
        return digest.hex()[:12]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
