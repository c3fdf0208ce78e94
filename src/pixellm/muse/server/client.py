"""Chat requests to an OpenAI-compatible server: limited, tried again, within a budget.

messages → reserve → limits → request → (wait, again) → Call with what it took
"""

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pixellm.muse.journal import Call
from pixellm.muse.scene import RefusedError
from pixellm.muse.server.budget import Purse, Reserved
from pixellm.muse.server.dialect import Dialect
from pixellm.muse.server.settings import Settings
from pixellm.openai_server import connect_async

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter
    from openai import APIStatusError, AsyncOpenAI
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds before a request is tried again, doubled each time, with jitter
TOKEN_WINDOW = 10.0  # seconds over which tokens per minute are spread
BROKEN = (408, 409, 429)  # and 5xx: worth another try
MESSAGE = 16  # tokens that a message's frame takes at most


class BrokenReplyError(Exception):
    """A reply that did not come, or not whole; `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True)
class _Reply:
    text: str
    tokens_in: int
    tokens_out: int


class Client:
    """Asks the model of `settings`; use it as an asynchronous context.

    Args:
        settings: see there.
        purse: who gives leave to spend.
    """

    def __init__(self, settings: Settings, purse: Purse) -> None:
        self.model, self.settings = settings.model, settings
        self._purse = purse
        self.tried_again = 0
        self._client: AsyncOpenAI = connect_async(settings.url, settings.key_file, settings.timeout)
        self._slots = asyncio.Semaphore(settings.in_flight)
        self._requests, self._tokens = _limiters(settings)
        self._dialect = Dialect(stream=settings.stream)
        self._said: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, key: str, messages: list[dict[str, Any]], schema: dict[str, Any]) -> Call:
        """The reply to chat messages, as JSON of a schema where the model keeps to it, and what it took.

        A refusal is the reply {"refusal": REASON}.

        Raises:
            BudgetError: a cap might be exceeded.
            RefusedError: the key, the model or the address is wrong.
            ValueError: this request is refused, or was tried in vain.
        """
        most = Reserved(_most_tokens(messages, self.settings.image_tokens), self.settings.max_output)
        async with self._slots:
            await self._purse.reserve(most)
            try:
                reply = await self._tried(messages, schema, most)
            except BaseException:
                await self._purse.release(most)
                raise
        cost = await self._purse.settle(most, reply.tokens_in, reply.tokens_out)
        if reply.tokens_in > most.tokens_in:
            self._say("the server counts more tokens than expected: raise image_tokens, or caps may be exceeded")
        return Call(key, reply.text, reply.tokens_in, reply.tokens_out, cost)

    async def _tried(self, messages: list[dict[str, Any]], schema: dict[str, Any], most: Reserved) -> _Reply:
        import tenacity

        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(BrokenReplyError),
            stop=tenacity.stop_after_attempt(self.settings.retries + 1),
            wait=_wait,
            before_sleep=self._count,
            reraise=True,
        )
        try:
            return await attempts(self._once, messages, schema, most)
        except BrokenReplyError as error:
            raise ValueError(f"the server gave no answer in {self.settings.retries + 1} tries: {error}") from None

    def _count(self, state: "RetryCallState") -> None:
        self.tried_again += 1
        logger.info("again in %.1f s: %s", state.upcoming_sleep, state.outcome and state.outcome.exception())

    async def _once(self, messages: list[dict[str, Any]], schema: dict[str, Any], most: Reserved) -> _Reply:
        if self._requests:
            await self._requests.acquire()
        if self._tokens:
            await self._tokens.acquire(min(most.tokens, self._tokens.max_rate))
        while True:
            dialect = self._dialect
            try:
                return await self._request(dialect.options(messages, schema, self.settings), most)
            except Exception as error:
                if not self._adapts(dialect, error):
                    explained, lost = self._explained(error)
                    if lost:
                        await self._purse.lose(most)
                    raise explained from None

    async def _request(self, options: dict[str, Any], most: Reserved) -> _Reply:
        answer = await self._client.chat.completions.create(**options)
        reply = await _streamed(answer) if options.get("stream") else _whole(answer)
        if reply.cut:
            self._say(f"replies are cut off at {self.settings.max_output} tokens: raise max_output")
        if reply.tokens_in is None or reply.tokens_out is None:
            self._say("the server doesn't count tokens: costs are estimates, as high as they may be")
            return _Reply(reply.text, most.tokens_in, min(most.tokens_out, len(reply.text.encode())))
        return _Reply(reply.text, reply.tokens_in, reply.tokens_out)

    def _adapts(self, used: Dialect, error: Exception) -> bool:
        """Whether the request should be made in another way, which an older server understands."""
        import openai

        if not isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
            return False
        simpler = used.simpler(str(error))
        if simpler is None:
            return False
        self._say(f"the server is asked in an older way: {simpler}")
        self._dialect = simpler
        return True

    def _explained(self, error: Exception) -> tuple[Exception, bool]:
        """What an error means for the run (`BrokenReplyError` is worth another try); whether a reply was lost."""
        import openai

        if isinstance(error, openai.APIStatusError):
            return self._refused(error), False
        where = self.settings.url or "the OpenAI API"
        if isinstance(error, openai.APIConnectionError) and _never_sent(error):
            return BrokenReplyError(f"no connection to {where}"), False
        if isinstance(error, openai.APIError | json.JSONDecodeError | BrokenReplyError) or _is_transport(error):
            return BrokenReplyError(str(error) or type(error).__name__), True
        return error, False

    def _refused(self, error: "APIStatusError") -> Exception:
        if error.status_code in BROKEN or error.status_code >= 500:
            after = _seconds(error.response.headers.get("retry-after"))
            return BrokenReplyError(f"status {error.status_code}", after)
        said = str(error)[:200]
        if error.status_code in (401, 403, 404):
            return RefusedError(
                f"expected an answer of {self.model} at {self.settings.url or 'the OpenAI API'}, got {said}. Check "
                "URL, model and key."
            )
        return ValueError(f"the server refuses this request: {said}")

    def _say(self, words: str) -> None:
        """Once."""
        if words not in self._said:
            self._said.add(words)
            logger.warning("%s: %s", self.model, words)


def _never_sent(error: BaseException | None) -> bool:
    """Whether there was no connection: then no server can have answered."""
    import aiohttp

    while error is not None and not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        error = error.__cause__
    return error is not None


def _is_transport(error: Exception) -> bool:
    """A connection that broke while the reply came; by name: `openai` may use one HTTP library or another."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


@dataclass(frozen=True)
class _Raw:
    """A reply as it came: tokens as the server counts them, if it does; `cut` at the limit."""

    text: str
    tokens_in: int | None
    tokens_out: int | None
    cut: bool


async def _streamed(chunks: Any) -> _Raw:
    text, refusal, reason, usage = "", "", None, None
    async for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices[:1]:
            text += choice.delta.content or ""
            refusal += choice.delta.refusal or ""
            reason = choice.finish_reason or reason
    if reason is None:
        raise BrokenReplyError("the reply broke off")
    return _raw(text, refusal, reason, usage)


def _whole(answer: Any) -> _Raw:
    if not answer.choices:
        raise BrokenReplyError("a reply without a choice")
    message = answer.choices[0].message
    return _raw(message.content or "", message.refusal or "", answer.choices[0].finish_reason, answer.usage)


def _raw(text: str, refusal: str, reason: str | None, usage: Any) -> _Raw:
    if refusal or reason == "content_filter":
        text = json.dumps({"refusal": refusal or "content filter"})
    counted = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
    return _Raw(text, *counted, cut=reason == "length")


def _most_tokens(messages: list[dict[str, Any]], image_tokens: int) -> int:
    """No token is shorter than a byte; photographs are as large as the settings say."""
    count = 0
    for message in messages:
        content = message["content"]
        for part in [{"text": content}] if isinstance(content, str) else content:
            count += image_tokens if "image_url" in part else len(part["text"].encode()) + MESSAGE
    return count


def _wait(state: "RetryCallState") -> float:
    """As long as the server asks, or growing with jitter."""
    import tenacity

    error = state.outcome.exception() if state.outcome else None
    grown = tenacity.wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)(state)
    return max(grown, min(error.after, LONGEST_WAIT)) if isinstance(error, BrokenReplyError) and error.after else grown


def _seconds(header: str | None) -> float | None:
    try:
        return float(header) if header else None
    except ValueError:
        return None  # a date: our own waits do


def _limiters(settings: Settings) -> "tuple[AsyncLimiter | None, AsyncLimiter | None]":
    """Requests evenly; tokens within a short window."""
    from aiolimiter import AsyncLimiter

    requests, tokens = settings.requests_per_minute, settings.tokens_per_minute
    return (
        AsyncLimiter(1, 60 / requests) if requests else None,
        AsyncLimiter(tokens * TOKEN_WINDOW / 60, TOKEN_WINDOW) if tokens else None,
    )
