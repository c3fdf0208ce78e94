"""Answers as responses: chat completions, server-sent events in OpenAI's chunks, JSON, PNG, or a COCO file."""

import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from typing import Any

from sse_starlette import EventSourceResponse, JSONServerSentEvent
from sse_starlette.sse import AppStatus, SendTimeoutError
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from pixellm.serve.decoding import DecodedImage
from pixellm.serve.errors import ApiError
from pixellm.serve.messages import AnswerEvent, AnswerFinished
from pixellm.types import Answer, Target, TextPiece

JSON, PNG, COCO = "application/json", "image/png", "application/vnd.coco+json"
FORMATS = (JSON, PNG, COCO)  # the first one if the client has no preference
SEPARATOR = "\n"

# On SIGTERM uvicorn lets answers finish; sse-starlette would end event streams at once.
AppStatus.disable_automatic_graceful_drain()


def negotiate(accept: str | None) -> str:
    """Return the format that an Accept header prefers; ApiError 406 if it accepts none."""
    # Java's HttpURLConnection sends `q=.2`, which RFC 9110 does not allow.
    accepted = parse_accept_header((accept or "*/*").replace("q=.", "q=0."), MIMEAccept)
    best = accepted.best_match(FORMATS)
    if best is None:
        raise ApiError(406, f"expected an Accept header with one of {', '.join(FORMATS)}.")
    return best


def coco_file(answer: Answer, image: DecodedImage) -> dict[str, Any]:
    """Return a COCO instances file of one image, as `pixellm export` writes it."""
    from pixellm.export.answers import by_image
    from pixellm.export.coco import coco_file

    rounded = Answer.from_json(answer.to_json() | {"id": "1", "image": f"{image.digest[:16]}.png"})
    content, _ = coco_file(by_image([rounded]))
    return content | {"info": {"description": answer.text}}


def overlay_png(answer: Answer, image: DecodedImage) -> memoryview:
    """Draw the masks on the image and encode it as PNG."""
    stream = io.BytesIO()
    replace(answer, image=image.to_pil()).overlay().save(stream, "PNG", compress_level=1)
    return stream.getbuffer()


def encode(answer: Answer, image: DecodedImage, media_type: str) -> bytes | memoryview:
    """Return the body of an answer in one of FORMATS."""
    if media_type == PNG:
        return overlay_png(answer, image)
    return JSONResponse(coco_file(answer, image) if media_type == COCO else answer.to_json()).body


def chat_completion(head: dict[str, Any], answer: Answer, finished: AnswerFinished) -> dict[str, Any]:
    """Return a chat completion; `head` has its id, creation time and model."""
    targets = [target.to_json() for target in answer.targets]
    message = {"role": "assistant", "content": answer.text, "targets": targets}
    choice = {"index": 0, "message": message, "finish_reason": finished.reason}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(finished)}


async def chat_chunks(
    events: AsyncGenerator[AnswerEvent, None], head: dict[str, Any], include_usage: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the chunks of a chat completion; with `include_usage` a last chunk has the token counts."""
    head = {**head, "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        return {**head, "choices": choices, **({"usage": None} if include_usage else {})}

    role: dict[str, Any] = {"role": "assistant"}
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TextPiece):
                yield chunk({**role, "content": event.text})
            elif isinstance(event, Target):
                yield chunk({**role, "content": "", "targets": [event.to_json()]})
            elif isinstance(event, AnswerFinished):
                yield chunk(role and {**role, "content": ""}, event.reason)
                if include_usage:
                    yield {**head, "choices": [], "usage": _usage(event)}
            role = {}


def _usage(finished: AnswerFinished) -> dict[str, int]:
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.new_tokens,
        "total_tokens": finished.prompt_tokens + finished.new_tokens,
    }


class HoldingResponse(Response):
    """Response that holds its resources, such as the memory budget of its image, until the client has read it."""

    def __init__(self, content: bytes | memoryview, media_type: str, resources: AsyncExitStack) -> None:
        super().__init__(content, media_type=media_type)
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._resources:
            await super().__call__(scope, receive, send)


class EventStream(EventSourceResponse):
    """Chunks as server-sent events; a client that disconnects, or stops reading, ends it.

    Args:
        first: first chunk.
        chunks: the other chunks; an ApiError becomes the last event.
        resources: closed at the end.
        send_timeout: seconds for the client to read an event.
    """

    def __init__(
        self,
        first: dict[str, Any],
        chunks: AsyncGenerator[dict[str, Any], None],
        resources: AsyncExitStack,
        send_timeout: float,
    ) -> None:
        super().__init__(self._events(first), sep=SEPARATOR, ping=0, send_timeout=send_timeout)
        self._chunks, self._resources = chunks, resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._resources, aclosing(self._chunks):
            with suppress(SendTimeoutError):
                await super().__call__(scope, receive, send)

    async def _events(self, first: dict[str, Any]) -> AsyncIterator[JSONServerSentEvent | str]:
        yield JSONServerSentEvent(first, sep=SEPARATOR)
        try:
            async for chunk in self._chunks:
                yield JSONServerSentEvent(chunk, sep=SEPARATOR)
        except ApiError as error:
            yield JSONServerSentEvent(error.body(), sep=SEPARATOR)
        yield "[DONE]"
