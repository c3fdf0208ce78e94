"""Event streams: the wire format, and an end for clients that disconnect or do not read."""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from pixellm.serve.errors import ApiError
from pixellm.serve.responses import EventStream

SCOPE = {"type": "http", "method": "POST", "path": "/"}


def stream(send, receive=None, error=None) -> list[str]:
    """Send chunks; return what was closed on the way."""
    closed = []

    async def rest():
        try:
            for number in (1, 2):
                yield {"chunk": number, "text": "é\u2028\n"}
            if error:
                raise error
        finally:
            closed.append("chunks")

    async def connected():
        await asyncio.Event().wait()

    async def run():
        resources = AsyncExitStack()
        resources.callback(closed.append, "resources")
        generator = rest()
        first = await anext(generator)
        response = EventStream(first, generator, resources, send_timeout=0.2)
        async with asyncio.timeout(10):
            await response(SCOPE, receive or connected, send)

    asyncio.run(run())
    return closed


@pytest.mark.parametrize("error", [None, ApiError(504, "expected an answer within 1 s.")])
def test_the_wire_format(error):
    messages = []

    async def send(message):
        messages.append(message)

    assert stream(send, error=error) == ["chunks", "resources"]
    headers = dict(messages[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert b"content-length" not in headers
    *events, last, empty = b"".join(message.get("body", b"") for message in messages).decode().split("\n\n")
    expected = [{"chunk": number, "text": "é\u2028\n"} for number in (1, 2)] + ([error.body()] if error else [])
    assert [json.loads(event.removeprefix("data: ")) for event in events] == expected
    assert all(event.count("\n") == 0 for event in events)
    assert (last, empty) == ("data: [DONE]", "")


def test_a_client_that_does_not_read():
    async def send(message):
        if message.get("body"):
            await asyncio.Event().wait()

    assert sorted(stream(send)) == ["chunks", "resources"]


def test_a_client_that_disconnects():
    async def send(message):
        if message.get("body"):
            await asyncio.sleep(0.1)

    async def receive():
        return {"type": "http.disconnect"}

    assert sorted(stream(send, receive)) == ["chunks", "resources"]
