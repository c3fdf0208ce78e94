"""The endpoints."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from pixellm.serve import conversation, formats, schema
from pixellm.serve.asking import Asking, parse, unless_gone
from pixellm.serve.errors import ApiError
from pixellm.serve.messages import Finished
from pixellm.serve.streaming import EventStream, chunks, usage_of
from pixellm.types import Answer

REFUSALS = (400, 401, 403, 408, 413, 415, 421, 429, 431, 500, 503, 504)
FORM_PART = "request"


def _errors(statuses: Sequence[int]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schema.ErrorResponse} for status in statuses}


def _body(model: type[schema.RequestModel], form: dict[str, Any], required: Sequence[str]) -> dict[str, Any]:
    """Description of a body that is JSON, or a form with an image in it."""
    image = {"type": "string", "format": "binary", "description": "PNG, JPEG, WebP, GIF or AVIF."}
    fields = {"type": "object", "properties": {"image": image, **form}, "required": ["image", *required]}
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    examples = {"example": {"value": model.model_json_schema()["examples"][0]}}
    content = {
        "application/json": {"schema": reference, "examples": examples},
        "multipart/form-data": {"schema": fields},
    }
    return {"requestBody": {"required": True, "content": content}}


CHAT_FORM = {
    FORM_PART: {"type": "string", "description": "The JSON of a ChatRequest whose messages hold no image."},
}
SEGMENT_FORM = {
    "question": {"type": "string"},
    "max_tokens": {"type": "integer", "minimum": 1},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "seed": {"type": "integer"},
}


def chat_routes(asking: Asking) -> APIRouter:
    """What OpenAI's clients call."""
    router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"])
    settings, created = asking.settings, int(time.time())
    card = schema.ModelCard(id=settings.model_name, created=created)

    @router.get("/models", responses=_errors((401, 403, 421, 429, 431)))
    async def models() -> schema.ModelList:
        """The model that is served."""
        return schema.ModelList(data=[card])

    @router.get("/models/{model:path}", responses=_errors((401, 403, 404, 421, 429, 431)))
    async def model(model: str) -> schema.ModelCard:
        """One model."""
        if model != settings.model_name:
            raise _unknown(model, settings.model_name)
        return card

    @router.post(
        "/chat/completions",
        response_model=schema.ChatCompletion,
        responses={
            200: {"content": {"text/event-stream": {}}, "description": "With `stream`: chunks as server-sent events."},
            404: {"model": schema.ErrorResponse, "description": "No such model."},
            **_errors(REFUSALS),
        },
        openapi_extra=_body(schema.ChatRequest, CHAT_FORM, [FORM_PART]),
    )
    async def chat(request: Request) -> Response:
        """Ask about an image, in one turn or several.

        The message that comes back has a field of its own, `targets`: one mask for each thing that its text names.
        """
        body, uploaded = await asking.body(request, FORM_PART)
        asked = parse(schema.ChatRequest, body)
        if asked.model != settings.model_name:
            raise _unknown(asked.model, settings.model_name)
        said = conversation.read(asked.messages, settings)
        sampling = asking.sampling(asked, asked.max_completion_tokens)
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": asked.model}
        async with AsyncExitStack() as held:
            picture = await held.enter_async_context(asking.picture(uploaded, said.image))
            ticket = asking.ask(request, picture, said.question, sampling, said.system, said.history)
            if asked.stream:
                usage = asked.stream_options is not None and asked.stream_options.include_usage
                head = {**head, "object": "chat.completion.chunk"}
                return EventStream(chunks(asking.items(ticket), head, usage), held.pop_all())
            answer, finished = await unless_gone(request.receive, asking.whole(ticket))
        return JSONResponse({**head, "object": "chat.completion", **_completion(answer, finished)})

    return router


def segment_routes(asking: Asking) -> APIRouter:
    """The plain way to ask."""
    router = APIRouter(prefix="/v1", tags=["plain"])

    @router.post(
        "/segment",
        response_model=schema.SegmentResponse,
        responses={
            200: {
                "content": {formats.PNG: {}, formats.COCO: {"schema": {"type": "object"}}},
                "description": "By `Accept`.",
            },
            **_errors((*REFUSALS, 406)),
        },
        openapi_extra=_body(schema.SegmentRequest, SEGMENT_FORM, ["question"]),
    )
    async def segment(request: Request) -> Response:
        """One question on one image → JSON, the image with its masks drawn in (PNG), or a COCO file."""
        wanted = formats.chosen(request.headers.get("accept"))
        body, uploaded = await asking.body(request)
        asked = parse(schema.SegmentRequest if uploaded is None else schema.SegmentForm, body)
        conversation.check_text(asked.question, asking.settings)
        sampling = asking.sampling(asked, None)
        url = asked.image if isinstance(asked, schema.SegmentRequest) else None
        async with asking.picture(uploaded, url) as picture:
            ticket = asking.ask(request, picture, asked.question, sampling)
            answer, _ = await unless_gone(request.receive, asking.whole(ticket))
            if wanted == formats.PNG:
                return Response(await asyncio.to_thread(formats.overlay, answer, picture), media_type=wanted)
        content = formats.coco(answer, picture) if wanted == formats.COCO else answer.to_json()
        return JSONResponse(content, media_type=wanted)

    return router


def state_routes(asking: Asking) -> APIRouter:
    """How the server is."""
    router = APIRouter(tags=["state"])
    dispatcher = asking.dispatcher

    @router.get("/healthz")
    async def healthz() -> schema.ServerStatus:
        """The server answers."""
        return schema.ServerStatus(status="ok")

    @router.get("/readyz", responses={503: {"model": schema.ServerStatus, "description": "The model is being loaded."}})
    async def readyz(response: Response) -> schema.ServerStatus:
        """The model is there."""
        response.status_code = 200 if dispatcher.ready else 503
        return schema.ServerStatus(status="ok" if dispatcher.ready else "loading")

    @router.get(
        "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **_errors((401,))}
    )
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(dispatcher.metrics.text(), media_type="text/plain; version=0.0.4")

    return router


def _completion(answer: Answer, finished: Finished) -> dict[str, Any]:
    targets = [target.to_json() for target in answer.targets]
    message = {"role": "assistant", "content": answer.text, "targets": targets}
    choice = {"index": 0, "message": message, "finish_reason": finished.reason}
    return {"choices": [choice], "usage": usage_of(finished)}


def _unknown(name: str, ours: str) -> ApiError:
    return ApiError(404, f"expected the model {ours}, got {name[:80]!r}.", "model_not_found", "model")
