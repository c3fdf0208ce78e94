"""From a request to the items of its answer: body → picture → ticket, within a time limit, while the client waits."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from pixellm.serve import pictures, schema
from pixellm.serve.authentication import ANONYMOUS
from pixellm.serve.dispatcher import Dispatcher, Ticket
from pixellm.serve.errors import ApiError, invalid
from pixellm.serve.image_fetcher import ImageFetcher
from pixellm.serve.messages import Finished, Item, Job, Turn
from pixellm.serve.pictures import Decoder, Picture
from pixellm.serve.settings import ServeSettings
from pixellm.types import Answer, Target, TextPiece

COLDEST = 0.01  # a temperature below has no draw left, and overflows
PARTS = 16  # of a multipart body
T = TypeVar("T")
M = TypeVar("M", bound=schema.RequestModel)


class Asking:
    """What the routes share."""

    def __init__(self, settings: ServeSettings, dispatcher: Dispatcher) -> None:
        self.settings, self.dispatcher = settings, dispatcher
        self._decoder = Decoder(settings.max_pixels, settings.max_decoded_bytes)
        self._fetcher = ImageFetcher(settings.image_hosts, settings.max_body_bytes, settings.fetch_timeout)

    async def body(self, request: Request, part: str | None = None) -> tuple[bytes, bytes | None]:
        """The JSON of a request, and the image that was uploaded with it.

        A form's JSON is in its field `part`; None: all its fields together are, each a value.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            return await request.body(), None
        if kind != "multipart/form-data":
            raise ApiError(415, "expected Content-Type application/json or multipart/form-data.")
        async with request.form(max_files=1, max_fields=PARTS, max_part_size=self.settings.max_body_bytes) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise ApiError(400, "expected a file called image in the form.", param="image")
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            if part is not None and part not in fields:
                raise ApiError(400, f"expected a field called {part} in the form.", param=part)
            text = _json(fields) if part is None else fields[part]
            # A form may name an encoding of its own, and hold what is no text; the JSON parser then says so.
            return text.encode(errors="surrogatepass"), await image.read()

    def sampling(self, choosing: schema.SamplingOptions, longest: int | None) -> dict[str, Any]:
        """Fields of `Sampling` for a request; `longest` is another name's value for max_tokens."""
        wanted = longest or choosing.max_tokens or min(self.settings.default_new_tokens, self.settings.max_new_tokens)
        if wanted > self.settings.max_new_tokens:
            raise ApiError(
                400, f"expected at most {self.settings.max_new_tokens} tokens, got {wanted}.", param="max_tokens"
            )
        temperature = choosing.temperature or 0.0
        if temperature < COLDEST:
            return {"max_new_tokens": wanted}
        seed = secrets.randbits(63) if choosing.seed is None else choosing.seed
        return {"max_new_tokens": wanted, "temperature": temperature, "top_p": choosing.top_p, "seed": seed}

    @asynccontextmanager
    async def picture(self, uploaded: bytes | None, url: str | None) -> AsyncIterator[Picture]:
        """The image of a request, decoded, for as long as it is needed."""
        if (uploaded is None) == (url is None):
            raise ApiError(400, f"expected one image, got {'none' if url is None else 'two'}.", "invalid_image")
        began = time.perf_counter()
        if uploaded is None:
            assert url is not None
            inside = url[:5].lower() == "data:"
            uploaded = await asyncio.to_thread(pictures.from_data_uri if inside else self._fetcher.fetch, url)
        async with self._decoder.decoded(uploaded) as picture:
            self.dispatcher.metrics.stage.labels("image").observe(time.perf_counter() - began)
            yield picture

    def ask(
        self,
        request: Request,
        picture: Picture,
        question: str,
        sampling: dict[str, Any],
        system: str | None = None,
        history: tuple[Turn, ...] = (),
    ) -> Ticket:
        """Queue a question."""
        tenant = request.scope.get("state", {}).get("tenant", ANONYMOUS)
        job = Job(-1, tenant, picture.digest, picture.pixels, picture.size, question, system, history, sampling)
        return self.dispatcher.submit(job)

    async def items(self, ticket: Ticket) -> AsyncGenerator[Item, None]:
        """Yield the items of an answer; whatever ends this early takes the question back.

        Raises:
            ApiError: 504, it takes too long; or what the worker says.
        """
        limit = self.settings.request_timeout
        deadline = ticket.queued + limit
        item: Item | None = None
        try:
            while not isinstance(item, Finished):
                item = await ticket.next(deadline - time.perf_counter())
                yield item
        except TimeoutError:
            raise ApiError(504, f"The answer took longer than {limit:g} s. Ask for fewer tokens.") from None
        finally:
            if not isinstance(item, Finished):
                self.dispatcher.cancel(ticket)

    async def whole(self, ticket: Ticket) -> tuple[Answer, Finished]:
        """Return the complete answer, without its image."""
        async with aclosing(self.items(ticket)) as stream:
            items = [item async for item in stream]
        text = "".join(item.text for item in items if isinstance(item, TextPiece))
        targets = tuple(item for item in items if isinstance(item, Target))
        (finished,) = (item for item in items if isinstance(item, Finished))
        width, height = ticket.job.size
        return Answer(ticket.job.question, text, targets, (height, width)), finished


def _json(fields: dict[str, str]) -> str:
    """A form's fields as JSON: numbers where they are some, but for texts."""
    texts = ("question", "image")
    return json.dumps({name: value if name in texts else _number(value) for name, value in fields.items()})


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client hangs up; its request must have been read."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def parse(model: type[M], body: bytes) -> M:
    """A request's JSON; ApiError 400 says what is wrong with it, without repeating it."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None
