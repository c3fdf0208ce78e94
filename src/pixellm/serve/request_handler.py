"""Handle a request: body → decoded image → queued question → events of its answer, within a time limit."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from pixellm.imaging.visual_prompts import Marks
from pixellm.serve.authentication import ANONYMOUS
from pixellm.serve.decoding import DecodedImage
from pixellm.serve.dispatcher import Dispatcher, PendingAnswer
from pixellm.serve.errors import ApiError, invalid
from pixellm.serve.image_decoder import ImageDecoder, decode_data_uri
from pixellm.serve.image_fetcher import ImageFetcher
from pixellm.serve.messages import AnswerEvent, AnswerFinished, Job, PastTurn, RefineJob
from pixellm.serve.request_limits import check_json_size
from pixellm.serve.schema import AnswerOptions, RequestModel
from pixellm.serve.settings import ServeSettings
from pixellm.types import Answer, Target, TextPiece
from pixellm.utils import limits

MIN_TEMPERATURE = 0.01  # lower temperatures overflow, and sample the likeliest token anyway
CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1")  # some of Python's others fail in odd ways
T = TypeVar("T")
M = TypeVar("M", bound=RequestModel)


class RequestHandler:
    """Steps that all routes share."""

    def __init__(self, settings: ServeSettings, dispatcher: Dispatcher) -> None:
        self.settings, self.dispatcher = settings, dispatcher
        self.decoder = ImageDecoder(settings.max_pixels, settings.max_decoded_bytes, dispatcher.metrics)
        self._fetcher = ImageFetcher(settings.image_hosts, settings.max_body_bytes, settings.fetch_timeout)

    async def read_body(self, request: Request, json_field: str | None = None) -> tuple[bytes, bytes | None]:
        """Return the JSON of a request, and the uploaded image of a form.

        A form has its JSON in `json_field`; if that is None, all its fields together make the JSON object.
        """
        content_type, parameters = parse_options_header(request.headers.get("content-type"))
        if content_type == b"application/json":
            return await request.body(), None
        if content_type != b"multipart/form-data":
            raise ApiError(415, "expected Content-Type application/json or multipart/form-data.")
        if parameters.get(b"charset", b"utf-8").lower() not in CHARSETS:
            raise ApiError(400, "expected a form in UTF-8, got another charset in its Content-Type.")
        limit = self.settings.max_body_bytes
        async with request.form(max_files=1, max_fields=limits.MAX_FORM_FIELDS, max_part_size=limit) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise ApiError(400, "expected a file named image in the form.", param="image")
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            if json_field is not None and json_field not in fields:
                raise ApiError(400, f"expected a field named {json_field} in the form.", param=json_field)
            text = json.dumps(fields) if json_field is None else fields[json_field]
            # A form may name any encoding and hold invalid text; the JSON parser reports it.
            return text.encode(errors="surrogatepass"), await image.read()

    def sampling(self, options: AnswerOptions, max_completion_tokens: int | None = None) -> dict[str, Any]:
        """Return the fields of `Sampling` for a request; `max_completion_tokens` takes precedence over max_tokens."""
        limit = self.settings.max_new_tokens
        tokens = max_completion_tokens or options.max_tokens or min(self.settings.default_new_tokens, limit)
        if tokens > limit:
            raise ApiError(400, f"expected at most {limit} tokens, got {tokens}.", param="max_tokens")
        temperature = options.temperature or 0.0
        if temperature < MIN_TEMPERATURE:
            return {"max_new_tokens": tokens}
        seed = secrets.randbits(63) if options.seed is None else options.seed
        return {"max_new_tokens": tokens, "temperature": temperature, "top_p": options.top_p, "seed": seed}

    @asynccontextmanager
    async def image(self, request: Request, uploaded: bytes | None, url: str | None) -> AsyncIterator[DecodedImage]:
        """Yield the decoded image of a request: uploaded, in a data URI, or behind a URL.

        Raises:
            ApiError: 400, 413, a bad image; 504, it took too long.
            ClientDisconnect: the client left; its image is no longer fetched or decoded.
        """
        if (uploaded is None) == (url is None):
            raise ApiError(400, f"expected one image, got {'none' if url is None else 'two'}.", "invalid_image")
        async with AsyncExitStack() as resources:
            opening = self._open(resources, uploaded, url, _tenant(request))
            try:
                async with asyncio.timeout(self.remaining(request)):
                    image = await until_disconnect(request.receive, opening)
            except TimeoutError:
                raise ApiError(504, "The image could not be read in time. Try again later, or scale it down.") from None
            yield image

    async def _open(
        self, resources: AsyncExitStack, uploaded: bytes | None, url: str | None, tenant: str
    ) -> DecodedImage:
        """Fetch and decode an image; `resources` hold its memory."""
        start = time.perf_counter()
        if url is not None:
            is_inline = url[:5].lower() == "data:"
            uploaded = await (
                asyncio.to_thread(decode_data_uri, url) if is_inline else self._fetcher.fetch(url, tenant)
            )
        assert uploaded is not None
        image = await resources.enter_async_context(self.decoder.decode(uploaded, tenant))
        self.dispatcher.metrics.stage.labels("image").observe(time.perf_counter() - start)
        return image

    def _due(self, request: Request) -> float:
        """Return when the answer is due, by `time.perf_counter`: the clock runs from the request's arrival."""
        return request.state.arrived + self.settings.request_timeout

    def remaining(self, request: Request) -> float:
        """Return the seconds until the answer is due."""
        return self._due(request) - time.perf_counter()

    def owner(self, request: Request) -> str:
        """Return the digest of the request's API key; "" where none is needed."""
        tenant = _tenant(request)
        return "" if tenant == ANONYMOUS else tenant

    def submit(
        self,
        request: Request,
        image: DecodedImage,
        question: str,
        sampling: dict[str, Any],
        min_score: float | None,
        system: str | None = None,
        history: tuple[PastTurn, ...] = (),
    ) -> PendingAnswer:
        """Queue a question of the request's tenant; `min_score` None: the server's own."""
        least = self.settings.min_score if min_score is None else min_score
        pixels = (image.digest, image.pixels, image.size)
        job = Job(-1, _tenant(request), *pixels, question, system, history, sampling, least)
        return self.dispatcher.submit(job, self._due(request))

    def check_takes_prompts(self) -> None:
        """Raise ApiError 400 if the model is known not to refine targets; an engine that is loading says so itself."""
        if self.dispatcher.takes_prompts is False:
            raise ApiError(
                400,
                "expected a model that was trained with visual prompts (points, boxes, strokes), got "
                f"{self.settings.model_name}. Ask a further question that says what is wrong.",
                "prompts_not_supported",
            )

    def submit_refinement(self, request: Request, image: DecodedImage, target: Target, marks: Marks) -> PendingAnswer:
        """Queue the correction of a target of the request's tenant."""
        job = RefineJob(-1, _tenant(request), image.digest, image.pixels, image.size, target, marks)
        return self.dispatcher.submit(job, self._due(request))

    async def events(self, pending: PendingAnswer) -> AsyncGenerator[AnswerEvent, None]:
        """Yield the events of an answer; cancel the question if the caller stops early.

        Raises:
            ApiError: 504, the answer takes too long; or the worker's error.
        """
        event: AnswerEvent | None = None
        try:
            while not isinstance(event, AnswerFinished):
                event = await pending.next_event(pending.due - time.perf_counter())
                yield event
        except TimeoutError:
            limit = self.settings.request_timeout
            raise ApiError(504, f"expected an answer within {limit:g} s. Ask for fewer tokens.") from None
        finally:
            if not isinstance(event, AnswerFinished):
                self.dispatcher.cancel(pending)

    async def complete(self, pending: PendingAnswer) -> tuple[Answer, AnswerFinished]:
        """Return the complete answer to a question, without its image, and its last event."""
        assert isinstance(pending.job, Job)
        events = await self._all_events(pending)
        text = "".join(event.text for event in events if isinstance(event, TextPiece))
        targets = tuple(event for event in events if isinstance(event, Target))
        (finished,) = (event for event in events if isinstance(event, AnswerFinished))
        width, height = pending.job.size
        return Answer(pending.job.question, text, targets, (height, width)), finished

    async def refined(self, pending: PendingAnswer) -> Target:
        """Return the target of a refinement."""
        (target,) = (event for event in await self._all_events(pending) if isinstance(event, Target))
        return target

    async def _all_events(self, pending: PendingAnswer) -> list[AnswerEvent]:
        async with aclosing(self.events(pending)) as stream:
            return [event async for event in stream]


def _tenant(request: Request) -> str:
    return request.scope.get("state", {}).get("tenant", ANONYMOUS)


async def until_disconnect(receive: Receive, work: Awaitable[T]) -> T:
    """Return the result of `work`, or cancel it when the client disconnects; the request must have been read.

    Raises:
        ClientDisconnect: the client closed the connection first.
    """
    working, disconnect = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait([working, disconnect], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        disconnect.cancel()
        await asyncio.gather(working, disconnect, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def parse(model: type[M], body: bytes) -> M:
    """Validate a request's JSON; ApiError 400 describes the first error without the client's data, 413 a size."""
    check_json_size(body)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None
