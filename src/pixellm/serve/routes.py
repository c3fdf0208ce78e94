"""HTTP endpoints."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from pixellm.data.corrections import CorrectionStore
from pixellm.imaging import masks
from pixellm.imaging.visual_prompts import Marks
from pixellm.serve import responses, schema
from pixellm.serve.chat import check_text, parse_chat
from pixellm.serve.corrections import Origin, check_correction, keep
from pixellm.serve.errors import ApiError
from pixellm.serve.request_handler import RequestHandler, parse, until_disconnect
from pixellm.types import Target

ERROR_STATUSES = (400, 401, 403, 408, 413, 415, 421, 429, 431, 500, 503, 504)
FORM_FIELD = "request"  # of a chat's form, with the JSON of the request


def _errors(statuses: Sequence[int]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schema.ErrorResponse} for status in statuses}


def _body(model: type[schema.RequestModel], form: dict[str, Any], required: Sequence[str]) -> dict[str, Any]:
    """Describe a body that is JSON, or a form with an image."""
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
    FORM_FIELD: {"type": "string", "description": "JSON of a ChatRequest whose messages have no image."},
}
REFINE_FORM = {
    FORM_FIELD: {"type": "string", "description": "JSON of a RefineRequest without its image."},
}
CORRECTION_FORM = {
    FORM_FIELD: {"type": "string", "description": "JSON of a CorrectionRequest without its image."},
}
SEGMENT_FORM = {
    "question": {"type": "string"},
    "max_tokens": {"type": "integer", "minimum": 1},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "seed": {"type": "integer"},
    "min_score": {"type": "number", "minimum": 0, "maximum": 1},
}


def chat_routes(handler: RequestHandler) -> APIRouter:
    """Build the endpoints of OpenAI's API."""
    router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"])
    settings, created = handler.settings, int(time.time())

    def card() -> schema.ModelCard:
        return schema.ModelCard(id=settings.model_name, created=created, takes_prompts=handler.dispatcher.takes_prompts)

    @router.get("/models", responses=_errors((401, 403, 421, 429, 431)))
    async def models() -> schema.ModelList:
        """List the served model."""
        return schema.ModelList(data=[card()])

    @router.get("/models/{model:path}", responses=_errors((401, 403, 404, 421, 429, 431)))
    async def model(model: str) -> schema.ModelCard:
        """Return one model."""
        _check_model(model, settings.model_name)
        return card()

    @router.post(
        "/chat/completions",
        response_model=schema.ChatCompletion,
        responses={
            200: {"content": {"text/event-stream": {}}, "description": "With `stream`: chunks as server-sent events."},
            404: {"model": schema.ErrorResponse, "description": "No such model."},
            **_errors(ERROR_STATUSES),
        },
        openapi_extra=_body(schema.ChatRequest, CHAT_FORM, [FORM_FIELD]),
    )
    async def chat(request: Request) -> Response:
        """Ask about an image, in one turn or several.

        The answer's message has an additional field, `targets`: one mask for each target that its text names.
        """
        body, uploaded = await handler.read_body(request, FORM_FIELD)
        chat_request = parse(schema.ChatRequest, body)
        _check_model(chat_request.model, settings.model_name)
        question = parse_chat(chat_request.messages, settings)
        sampling = handler.sampling(chat_request, chat_request.max_completion_tokens)
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": chat_request.model}
        async with AsyncExitStack() as resources:
            image = await resources.enter_async_context(handler.image(request, uploaded, question.image_url))
            asked = (question.question, sampling, chat_request.min_score, question.system, question.history)
            pending = handler.submit(request, image, *asked)
            if not chat_request.stream:
                answer, finished = await until_disconnect(request.receive, handler.complete(pending))
                body = JSONResponse(responses.chat_completion(head, answer, finished)).body
                return responses.HoldingResponse(body, responses.JSON, resources.pop_all())
            options = chat_request.stream_options
            chunks = responses.chat_chunks(handler.events(pending), head, options is not None and options.include_usage)
            first = await until_disconnect(request.receive, anext(chunks))  # its error has a status of its own
            return responses.EventStream(first, chunks, resources.pop_all(), settings.request_timeout)

    return router


def segment_routes(handler: RequestHandler) -> APIRouter:
    """Build the plain endpoint."""
    router = APIRouter(prefix="/v1", tags=["plain"])
    drawing = ThreadPoolExecutor(1)  # an overlay takes several times the memory of its image while it is drawn

    @router.post(
        "/segment",
        response_model=schema.SegmentResponse,
        responses={
            200: {
                "content": {responses.PNG: {}, responses.COCO: {"schema": {"type": "object"}}},
                "description": "By `Accept`.",
            },
            **_errors((*ERROR_STATUSES, 406)),
        },
        openapi_extra=_body(schema.SegmentRequest, SEGMENT_FORM, ["question"]),
    )
    async def segment(request: Request) -> Response:
        """Ask one question about one image → JSON, the image with its masks (PNG), or a COCO file."""
        media_type = responses.negotiate(request.headers.get("accept"))
        body, uploaded = await handler.read_body(request)
        query = parse(schema.SegmentRequest if uploaded is None else schema.SegmentForm, body)
        check_text(query.question, handler.settings)
        sampling = handler.sampling(query)
        url = query.image if isinstance(query, schema.SegmentRequest) else None
        async with AsyncExitStack() as resources:
            image = await resources.enter_async_context(handler.image(request, uploaded, url))
            pending = handler.submit(request, image, query.question, sampling, query.min_score)
            answer, _ = await until_disconnect(request.receive, handler.complete(pending))
            encoding = asyncio.get_running_loop().run_in_executor(drawing, responses.encode, answer, image, media_type)
            body = await until_disconnect(request.receive, encoding)
            return responses.HoldingResponse(body, media_type, resources.pop_all())

    return router


def refine_routes(handler: RequestHandler) -> APIRouter:
    """Build the endpoint that corrects masks."""
    router = APIRouter(prefix="/v1", tags=["plain"])

    @router.post(
        "/refine",
        response_model=schema.TargetModel,
        responses=_errors(ERROR_STATUSES),
        openapi_extra=_body(schema.RefineRequest, REFINE_FORM, [FORM_FIELD]),
    )
    async def refine(request: Request) -> Response:
        """Correct the mask of one target by points, a box or strokes → the target with its new mask and score."""
        body, uploaded = await handler.read_body(request, FORM_FIELD)
        query = parse(schema.RefineRequest if uploaded is None else schema.RefineForm, body)
        handler.check_takes_prompts()
        url = query.image if isinstance(query, schema.RefineRequest) else None
        marks = Marks(query.points, query.box, [(stroke.points, stroke.positive) for stroke in query.strokes])
        async with AsyncExitStack() as resources:
            image = await resources.enter_async_context(handler.image(request, uploaded, url))
            reading = asyncio.to_thread(_marked_target, query.target, image.size)
            target = await until_disconnect(request.receive, reading)
            pending = handler.submit_refinement(request, image, target, marks)
            refined = await until_disconnect(request.receive, handler.refined(pending))
            body = JSONResponse(refined.to_json()).body
            return responses.HoldingResponse(body, responses.JSON, resources.pop_all())

    return router


def correction_routes(handler: RequestHandler, store: CorrectionStore) -> APIRouter:
    """Build the endpoint that keeps corrected masks."""
    router = APIRouter(prefix="/v1", tags=["corrections"])
    writing = ThreadPoolExecutor(1)  # one at a time: each copies its image, and waits for the others' lock anyway

    @router.post(
        "/corrections",
        responses=_errors((*ERROR_STATUSES, 507)),
        openapi_extra=_body(schema.CorrectionRequest, CORRECTION_FORM, [FORM_FIELD]),
    )
    async def correct(request: Request) -> schema.CorrectionResponse:
        """Keep a corrected mask as training data; the latest of an image and phrase takes the place of earlier ones."""
        body, uploaded = await handler.read_body(request, FORM_FIELD)
        sent = parse(schema.CorrectionRequest if uploaded is None else schema.CorrectionForm, body)
        check_correction(sent, handler.settings)
        url = sent.image if isinstance(sent, schema.CorrectionRequest) else None
        origin = Origin(handler.settings.model_name, handler.dispatcher.worker_settings.model, handler.owner(request))
        async with handler.image(request, uploaded, url) as image:
            keeping = asyncio.get_running_loop().run_in_executor(writing, keep, store, image, sent, origin)
            try:
                async with asyncio.timeout(handler.remaining(request)):
                    stored = await until_disconnect(request.receive, keeping)
            except TimeoutError:
                raise ApiError(504, "The correction could not be kept in time. Try again later.") from None
        path = stored.image.relative_to(store.folder).as_posix()
        return schema.CorrectionResponse(id=stored.id, image=path, replaced=stored.replaced)

    return router


def _marked_target(row: schema.MarkedTarget | None, size: tuple[int, int]) -> Target:
    """Return the target of a refinement on an image of `size` (W, H); ApiError 400 for a malformed mask."""
    width, height = size
    if row is None:
        return Target("", (0, 0), masks.as_text(masks.empty(height, width)), 0.0)
    try:
        rle = masks.read_rle(row.segmentation.model_dump(), height, width)
    except ValueError as error:
        raise ApiError(400, f"{error}.", param="target.segmentation") from None
    return Target(row.phrase, (row.span[0], row.span[1]), rle, presence=row.presence)


def status_routes(handler: RequestHandler) -> APIRouter:
    """Build the endpoints for health checks and metrics."""
    router = APIRouter(tags=["status"])
    dispatcher = handler.dispatcher

    @router.get("/healthz")
    async def healthz() -> schema.ServerStatus:
        """Check that the server responds."""
        return schema.ServerStatus(status="ok")

    @router.get("/readyz", responses={503: {"model": schema.ServerStatus, "description": "The model is loading."}})
    async def readyz(response: Response) -> schema.ServerStatus:
        """Check that the model is loaded."""
        response.status_code = 200 if dispatcher.ready else 503
        return schema.ServerStatus(status="ok" if dispatcher.ready else "loading")

    @router.get(
        "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **_errors((401,))}
    )
    async def metrics() -> Response:
        """Return metrics in Prometheus' text format."""
        return Response(dispatcher.metrics.text(), media_type="text/plain; version=0.0.4")

    return router


def _check_model(name: str, served: str) -> None:
    if name != served:
        raise ApiError(404, f"expected the model {served}, got {name[:80]!r}.", "model_not_found", "model")
