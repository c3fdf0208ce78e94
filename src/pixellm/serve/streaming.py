"""Answers as server-sent events, in the chunks of OpenAI's API: text deltas, and each target as soon as it is there."""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pixellm.serve.asking import unless_gone
from pixellm.serve.errors import ApiError
from pixellm.serve.messages import Finished, Item
from pixellm.types import Target, TextPiece


class EventStream(Response):
    """A response that ends with the client's connection, whatever it is doing then.

    Args:
        chunks: JSON objects; an error before the first is an ordinary response.
        held: is closed at the end.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[dict[str, Any], None], held: AsyncExitStack) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks, self._held = chunks, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held, aclosing(self._chunks):
            with suppress(ClientDisconnect):
                await unless_gone(receive, self._send(scope, receive, send))

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            first = await anext(self._chunks)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _event(send, first)
        try:
            async for chunk in self._chunks:
                await _event(send, chunk)
        except ApiError as error:
            await _event(send, error.body())
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _event(send: Send, chunk: dict[str, Any]) -> None:
    data = json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})


async def chunks(
    items: AsyncGenerator[Item, None], head: dict[str, Any], usage: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """Items → chunks; `head` is what all have in common, `usage`: a last one says how many tokens there were."""

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        return {**head, "choices": choices, **({"usage": None} if usage else {})}

    role: dict[str, Any] = {"role": "assistant"}
    async with aclosing(items):
        async for item in items:
            if isinstance(item, TextPiece):
                yield chunk({**role, "content": item.text})
            elif isinstance(item, Target):
                yield chunk({**role, "content": "", "targets": [item.to_json()]})
            elif isinstance(item, Finished):
                yield chunk(role and {**role, "content": ""}, item.reason)
                if usage:
                    yield {**head, "choices": [], "usage": usage_of(item)}
            role = {}


def usage_of(finished: Finished) -> dict[str, int]:
    """Tokens, as OpenAI's API counts them."""
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.new_tokens,
        "total_tokens": finished.prompt_tokens + finished.new_tokens,
    }
