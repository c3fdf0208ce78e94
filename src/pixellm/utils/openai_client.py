"""Client of an OpenAI-compatible server (a hosted one, vLLM, SGLang …): rate-limited, retried, within a budget.

messages → rate limiter → reservation → request → (wait, retry) → Completion with its tokens and cost
"""

import asyncio
import logging
import math
import os
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pixellm.utils.budget import BudgetProtocol, RateLimiter, Reservation
from pixellm.utils.chat_protocol import BrokenReplyError, Messages, RequestFormat, Schema, request
from pixellm.utils.checks import clause
from pixellm.utils.server_settings import ServerSettings

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

KEY = "OPENAI_API_KEY"
NO_KEY = "none"  # for servers that want none: the library wants one
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds before a request is tried again, doubled each time, with jitter
LONGEST_AFTER = 3600.0  # seconds that a server may ask to wait; one that asks for more ends the run
TOKEN_BURST = 1.0  # seconds' worth of tokens that may go at once after a rest
RETRIED = (408, 409, 429)  # and 5xx
TIMED_OUT = (504, 524)  # of a proxy: the server behind it may have answered, and bill that
MESSAGE_TOKENS = 16  # upper bound for a message's frame


class RefusedError(ValueError):
    """Every request is refused: wrong key, model or address."""


class UnreachableError(ValueError):
    """No connection in all tries of a request, and no reply to another one meanwhile."""


@dataclass(frozen=True)
class Completion:
    """Reply of a model, with its tokens and cost (in the currency of the prices); `ticket`: see `Reservation`."""

    text: str
    tokens_in: int
    tokens_out: int
    cost: float
    ticket: str = field(default="", compare=False)


class ChatClient:
    """Asynchronous client; use it as a context.

    Args:
        settings: server, limits and prices.
        budget: reserves each request before it is sent.

    Raises:
        ValueError: the key file can't be read, or holds something else.
    """

    def __init__(self, settings: ServerSettings, budget: BudgetProtocol) -> None:
        self.model, self.settings = settings.model, settings
        self._budget = budget
        self.retries = 0
        self._client = _connect(settings)
        self._slots = asyncio.Semaphore(settings.in_flight)
        self._requests = RateLimiter(settings.requests_per_minute)
        self._tokens = RateLimiter(settings.tokens_per_minute, TOKEN_BURST)
        self._first, self._answered = asyncio.Lock(), 0
        self._unreachable: UnreachableError | None = None  # the latest
        self._excess = 1.0  # largest ratio of tokens in to their estimate
        self._usual = 1.0  # recent ratio of tokens to those reserved
        self._format = RequestFormat(stream=settings.stream)
        self._warned: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, messages: Messages, schema: Schema | None = None) -> Completion:
        """Send chat messages, and return the reply: JSON of a schema, if there is one and the model keeps to it.

        A refusal is the text {"refusal": REASON}. The first request goes alone: what it learns about the server's
        protocol and token counts, those that follow know.

        Raises:
            BudgetError: a cap might be exceeded.
            RefusedError: the key, the model or the address is wrong.
            UnreachableError: nobody is there.
            ValueError: this request is refused, or failed in all its tries.
        """
        if not self._answered:
            unreachable = self._unreachable
            async with self._first:
                if self._unreachable is not None and self._unreachable is not unreachable:
                    raise self._unreachable  # found out while this one waited
                if not self._answered:
                    return await self._retried(messages, schema)
        return await self._retried(messages, schema)

    async def _retried(self, messages: Messages, schema: Schema | None) -> Completion:
        import tenacity

        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(BrokenReplyError),
            stop=tenacity.stop_after_attempt(self.settings.retries + 1),
            wait=_wait,
            before_sleep=self._count_retry,
            reraise=True,
        )
        async with self._slots:
            answered = self._answered
            try:
                completion = await attempts(self._try, messages, schema)
            except BrokenReplyError as error:
                nobody = not error.sent and self._answered == answered
                reason = f"the server gave no answer in {self.settings.retries + 1} tries: {error}"
                if not nobody:
                    raise ValueError(reason) from None
                self._unreachable = UnreachableError(reason)
                raise self._unreachable from None
        self._answered += 1
        return completion

    def _count_retry(self, state: "RetryCallState") -> None:
        self.retries += 1
        logger.info("retry in %.1f s: %s", state.upcoming_sleep, state.outcome and state.outcome.exception())

    async def _try(self, messages: Messages, schema: Schema | None) -> Completion:
        expected = _most_tokens(messages, self.settings.image_tokens)
        most = Reservation(math.ceil(expected * self._excess), self.settings.max_output or 0)
        taken = most.tokens * self._usual
        await self._requests.take(1)
        await self._tokens.take(taken)
        await self._budget.reserve(most)
        text, tokens_in, tokens_out = await self._send(messages, schema, most)
        cost = await self._budget.settle(most, tokens_in, tokens_out)
        tokens = tokens_in + tokens_out
        self._tokens.correct(tokens - taken)
        self._usual += 0.2 * (tokens / most.tokens - self._usual)
        if tokens_in > most.tokens_in:
            self._excess = tokens_in / expected
            self._warn("the server counts more tokens than expected: raise image_tokens")
        return Completion(text, tokens_in, tokens_out, cost, most.ticket)

    async def _send(self, messages: Messages, schema: Schema | None, most: Reservation) -> tuple[str, int, int]:
        """Send in the newest format that the server understands; return text, tokens in and tokens out."""
        while True:
            form = self._format
            try:
                return await self._receive(form.options(messages, schema, self.settings), most)
            except Exception as error:
                if self._simplified(form, error):
                    continue
                explained, lost = self._explained(error)
                await (self._budget.lose(most) if lost else self._budget.release(most))
                raise explained from None
            except BaseException:  # cancelled
                await self._budget.lose(most)
                raise

    async def _receive(self, options: dict[str, Any], most: Reservation) -> tuple[str, int, int]:
        async with asyncio.timeout(self.settings.timeout):  # the library's own is between two bytes
            reply = await request(self._client, options)
        if reply.truncated:
            self._warn(f"replies are cut off at {self.settings.max_output} tokens: raise max_output")
        if reply.usage is None:
            self._warn("the server doesn't count tokens: costs are estimates, as high as they may be")
            return reply.text, most.tokens_in, min(most.tokens_out, len(reply.text.encode()))
        return reply.text, *reply.usage

    def _simplified(self, used: RequestFormat, error: Exception) -> bool:
        import openai

        if not isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
            return False
        simpler = used.simpler(str(error))
        if simpler is None:
            return False
        self._warn(f"the server is sent an older format: {simpler}")
        self._format = simpler
        return True

    def _explained(self, error: Exception) -> tuple[Exception, bool]:
        """Return what to raise (`BrokenReplyError`: retry), and True if a reply was lost."""
        import openai

        if isinstance(error, openai.APIStatusError):
            return self._refused(error), error.status_code in TIMED_OUT
        if isinstance(error, openai.APIConnectionError) and _never_sent(error):
            return BrokenReplyError(f"no connection to {self.settings.where}", sent=False), False
        if isinstance(error, TimeoutError):
            return BrokenReplyError(f"no whole reply in {self.settings.timeout:g} s"), True
        if isinstance(error, openai.APIError | BrokenReplyError) or _is_transport(error):
            return BrokenReplyError(self._redacted(str(error) or type(error).__name__)), True
        return error, False

    def _refused(self, error: "APIStatusError") -> Exception:
        if error.status_code in RETRIED or error.status_code >= 500:
            after = _seconds(error.response.headers.get("retry-after"))
            if after is not None and after > LONGEST_AFTER:
                return RefusedError(f"the server asks to wait for {after:,.0f} s. Run it again then: answers are kept.")
            return BrokenReplyError(f"status {error.status_code}", after)
        reason = clause(self._redacted(str(error)))
        if error.status_code in (401, 403, 404):
            return RefusedError(
                f"expected an answer of {self.model} at {self.settings.where}, got {reason}. Check URL, model and key."
            )
        return ValueError(f"the server refuses this request: {reason}")

    def _redacted(self, text: str) -> str:
        """Shorten a server's message, and remove the key: some servers repeat it."""
        key = self._client.api_key
        return (text if key == NO_KEY else text.replace(key, "[key]"))[:200]

    def _warn(self, text: str) -> None:
        """Log a warning once."""
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s: %s", self.model, text)


def _connect(settings: ServerSettings) -> "AsyncOpenAI":
    from openai import AsyncOpenAI, DefaultAioHttpClient

    return AsyncOpenAI(
        base_url=settings.url,
        api_key=_key(settings.key_file),
        max_retries=0,  # of its own: it knows no budget
        timeout=settings.timeout,
        http_client=DefaultAioHttpClient(timeout=settings.timeout),
    )


def _key(file: Path | None) -> str:
    if file is None:
        return os.environ.get(KEY, "").strip() or NO_KEY
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a file that holds a key, got {file} ({type(error).__name__}).") from None
    if not key or len(key.split()) > 1:
        raise ValueError(f"expected a file that holds one key and nothing else, got another content in {file}.")
    return key


def _never_sent(error: BaseException | None) -> bool:
    """Return True where there was no connection: then no server can have answered."""
    import aiohttp

    while error is not None and not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        error = error.__cause__
    return error is not None


def _is_transport(error: Exception) -> bool:
    """Recognise a connection that broke during the reply; by name, since `openai` uses one of two HTTP libraries."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _most_tokens(messages: Messages, image_tokens: int) -> int:
    """Return an upper bound: no token is shorter than a byte, images are as large as the settings say."""
    count = 0
    for message in messages:
        content = message["content"]
        for item in [{"text": content}] if isinstance(content, str) else content:
            count += image_tokens if "image_url" in item else len(item["text"].encode()) + MESSAGE_TOKENS
    return count


def _wait(state: "RetryCallState") -> float:
    """Return the seconds that the server asks for and a little more, or growing ones, with jitter."""
    import tenacity

    error = state.outcome.exception() if state.outcome else None
    grown = tenacity.wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)(state)
    after = error.after if isinstance(error, BrokenReplyError) else None
    return grown if after is None else after + min(grown, 0.1 * after)  # not all at the same time


def _seconds(header: str | None) -> float | None:
    """Parse a Retry-After, which is a number or a date; None: there is none."""
    try:
        seconds = float(header or "nan")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header or "").timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
