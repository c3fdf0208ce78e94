"""Limits on requests and responses: headers, requests of a tenant in flight, sizes and durations of bodies."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive, Scope, Send

from pixellm.serve.errors import ApiError
from pixellm.serve.settings import ServeSettings
from pixellm.utils import limits


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


def has_two_lengths(scope: Scope) -> bool:
    """Return True for Content-Length with Transfer-Encoding: a proxy may see another end of the request.

    RFC 9112, section 6.1: the connection must be closed after the response.
    """
    return {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}


def check_body_size(size: int, settings: ServeSettings) -> None:
    """Raise ApiError 413 for a body that is too large."""
    if size > settings.max_body_bytes:
        raise ApiError(
            413, f"expected a request of at most {settings.max_body_bytes:,} bytes, got more. Scale the image down."
        )


def check_json_size(body: bytes) -> None:
    """Raise ApiError 413 for JSON of too many values: parsed, they would take a hundred times the memory of the body.

    The bytes between the strings bound the number of values, so that images and masks, which are strings, stay cheap.
    """
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in body else body
    too_many = unescaped.count(b'"') > 2 * limits.MAX_JSON_STRINGS
    if too_many or sum(map(len, unescaped.split(b'"')[::2])) > limits.MAX_JSON_BYTES:
        raise ApiError(
            413,
            f"expected JSON of at most {limits.MAX_JSON_STRINGS:,} strings and {limits.MAX_JSON_BYTES:,} bytes besides "
            "them, got more. Leave out what is not part of the request.",
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


async def send_in_pieces(send: Send, message: Message) -> None:
    """Send a message; each piece of a long body waits until the client has read the piece before it.

    The server would otherwise copy the whole body, and the request would count as answered while it is unread.
    """
    body = memoryview(message.get("body", b""))
    if len(body) > limits.WRITE_BYTES:
        for start in range(0, len(body), limits.WRITE_BYTES):
            piece = bytes(body[start : start + limits.WRITE_BYTES])
            await send({**message, "body": piece, "more_body": True})
        message = {**message, "body": b""}
    await send(message)
