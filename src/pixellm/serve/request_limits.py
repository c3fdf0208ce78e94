"""Limits on requests: headers, requests of a tenant in flight, size and duration of the body."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive, Scope

from pixellm.serve.errors import ApiError
from pixellm.serve.settings import ServeSettings


class TenantLimiter:
    """Rate limiter: at most `max_in_flight` requests of a tenant at once."""

    def __init__(self, max_in_flight: int) -> None:
        self.max_in_flight = max_in_flight
        self._in_flight: Counter[str] = Counter()

    @contextmanager
    def admit(self, tenant: str) -> Iterator[None]:
        """Count a request of a tenant while it runs; ApiError 429 if there are too many."""
        if self._in_flight[tenant] >= self.max_in_flight:
            raise ApiError(429, f"expected at most {self.max_in_flight} requests at once. Wait until one has finished.")
        self._in_flight[tenant] += 1
        try:
            yield
        finally:
            self._in_flight[tenant] -= 1
            if not self._in_flight[tenant]:
                del self._in_flight[tenant]


def check_headers(scope: Scope, settings: ServeSettings) -> None:
    """Raise ApiError 431 for too many headers, or too large ones."""
    headers = scope["headers"]
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > settings.max_headers or size > settings.max_header_bytes:
        raise ApiError(
            431,
            f"expected at most {settings.max_headers} headers of {settings.max_header_bytes:,} bytes together, "
            f"got {len(headers)} of {size:,}.",
        )


def check_body_size(size: int, settings: ServeSettings) -> None:
    """Raise ApiError 413 for a body that is too large."""
    if size > settings.max_body_bytes:
        raise ApiError(
            413, f"expected a request of at most {settings.max_body_bytes:,} bytes, got more. Scale the image down."
        )


def limited(receive: Receive, settings: ServeSettings) -> Receive:
    """Wrap `receive` so that it raises ApiError 413 for a body that is too large, and 408 for one that is too slow."""
    size, complete = 0, False
    deadline = time.monotonic() + settings.body_timeout

    async def receive_limited() -> Message:
        nonlocal size, complete
        if complete:  # only the end of the connection is left
            return await receive()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                message = await receive()
        except TimeoutError:
            raise ApiError(408, f"expected the request within {settings.body_timeout:g} s.") from None
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
        check_body_size(size, settings)
        return message

    return receive_limited
