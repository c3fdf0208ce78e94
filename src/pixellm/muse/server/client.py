"""Chat requests to an OpenAI-compatible server: limited, tried again, within a budget.

messages → reserve → limits → request → (wait, again) → Call with what it took
"""

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self

from pixellm.muse.journal import Call
from pixellm.muse.scene import RefusedError
from pixellm.muse.server.answer import BrokenReplyError, received
from pixellm.muse.server.budget import Purse, Reserved
from pixellm.muse.server.dialect import Dialect
from pixellm.muse.server.pace import Pace
from pixellm.muse.server.settings import Settings
from pixellm.utils.openai_client import NO_KEY, connect_async

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds before a request is tried again, doubled each time, with jitter
LONGEST_AFTER = 3600.0  # seconds that a server may ask to wait; one that asks for more is asked another day
TOKEN_BURST = 1.0  # seconds' worth of tokens that may go at once after a rest
BROKEN = (408, 409, 429)  # and 5xx: worth another try
MESSAGE = 16  # tokens that a message's frame takes at most


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
        self._requests = Pace(settings.requests_per_minute)
        self._tokens = Pace(settings.tokens_per_minute, TOKEN_BURST)
        self._first, self._known = asyncio.Lock(), False  # whether a request was answered
        self._excess = 1.0  # the most that tokens in were, in parts of what was expected
        self._usual = 1.0  # the same for tokens in and out, lately, in parts of what was reserved
        self._dialect = Dialect(stream=settings.stream)
        self._said: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, key: str, messages: list[dict[str, Any]], schema: dict[str, Any]) -> Call:
        """The reply to chat messages, as JSON of a schema where the model keeps to it, and what it took.

        A refusal is the reply {"refusal": REASON}. The first request goes alone: what the server understands, and how
        many tokens it counts, is known to those that follow.

        Raises:
            BudgetError: a cap might be exceeded.
            RefusedError: the key, the model or the address is wrong.
            ValueError: this request is refused, or was tried in vain.
        """
        if not self._known:
            async with self._first:
                if not self._known:
                    return await self._answered(key, messages, schema)
        return await self._answered(key, messages, schema)

    async def _answered(self, key: str, messages: list[dict[str, Any]], schema: dict[str, Any]) -> Call:
        import tenacity

        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(BrokenReplyError),
            stop=tenacity.stop_after_attempt(self.settings.retries + 1),
            wait=_wait,
            before_sleep=self._count,
            reraise=True,
        )
        async with self._slots:
            try:
                reply, cost = await attempts(self._once, messages, schema)
            except BrokenReplyError as error:
                raise ValueError(f"the server gave no answer in {self.settings.retries + 1} tries: {error}") from None
        self._known = True
        return Call(key, reply.text, reply.tokens_in, reply.tokens_out, cost)

    def _count(self, state: "RetryCallState") -> None:
        self.tried_again += 1
        logger.info("again in %.1f s: %s", state.upcoming_sleep, state.outcome and state.outcome.exception())

    async def _once(self, messages: list[dict[str, Any]], schema: dict[str, Any]) -> tuple[_Reply, float]:
        """One try: the reply, and what it cost."""
        expected = _most_tokens(messages, self.settings.image_tokens)
        most = Reserved(math.ceil(expected * self._excess), self.settings.max_output)
        taken = most.tokens * self._usual
        await self._requests.take(1)
        await self._tokens.take(taken)
        await self._purse.reserve(most)
        reply = await self._adapted(messages, schema, most)
        cost = await self._purse.settle(most, reply.tokens_in, reply.tokens_out)
        tokens = reply.tokens_in + reply.tokens_out
        self._tokens.correct(tokens - taken)
        self._usual += 0.2 * (tokens / most.tokens - self._usual)
        if reply.tokens_in > most.tokens_in:
            self._excess = reply.tokens_in / expected
            self._say("the server counts more tokens than expected: raise image_tokens")
        return reply, cost

    async def _adapted(self, messages: list[dict[str, Any]], schema: dict[str, Any], most: Reserved) -> _Reply:
        """Ask in the newest way that the server understands; what is reserved is given back if there is no reply."""
        while True:
            dialect = self._dialect
            try:
                return await self._request(dialect.options(messages, schema, self.settings), most)
            except Exception as error:
                if self._adapts(dialect, error):
                    continue
                explained, lost = self._explained(error)
                await (self._purse.lose(most) if lost else self._purse.release(most))
                raise explained from None
            except BaseException:  # dropped on the way
                await self._purse.lose(most)
                raise

    async def _request(self, options: dict[str, Any], most: Reserved) -> _Reply:
        async with asyncio.timeout(self.settings.timeout):  # the library's own is between two bytes
            reply = await received(self._client, options)
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
        if isinstance(error, TimeoutError):
            return BrokenReplyError(f"no whole reply in {self.settings.timeout:g} s"), True
        if isinstance(error, openai.APIError | BrokenReplyError) or _is_transport(error):
            return BrokenReplyError(self._clean(str(error) or type(error).__name__)), True
        return error, False

    def _refused(self, error: "APIStatusError") -> Exception:
        if error.status_code in BROKEN or error.status_code >= 500:
            after = _seconds(error.response.headers.get("retry-after"))
            if after is not None and after > LONGEST_AFTER:
                return RefusedError(
                    f"the server asks to wait for {after:,.0f} s. Call it again then: answers are kept."
                )
            return BrokenReplyError(f"status {error.status_code}", after)
        said = self._clean(str(error))
        if error.status_code in (401, 403, 404):
            return RefusedError(
                f"expected an answer of {self.model} at {self.settings.url or 'the OpenAI API'}, got {said}. Check "
                "URL, model and key."
            )
        return ValueError(f"the server refuses this request: {said}")

    def _clean(self, words: str) -> str:
        """In short, and without the key: some servers repeat it."""
        key = self._client.api_key
        return (words if key == NO_KEY else words.replace(key, "[key]"))[:200]

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


def _most_tokens(messages: list[dict[str, Any]], image_tokens: int) -> int:
    """No token is shorter than a byte; photographs are as large as the settings say."""
    count = 0
    for message in messages:
        content = message["content"]
        for part in [{"text": content}] if isinstance(content, str) else content:
            count += image_tokens if "image_url" in part else len(part["text"].encode()) + MESSAGE
    return count


def _wait(state: "RetryCallState") -> float:
    """As long as the server asks and a little longer, or growing, with jitter."""
    import tenacity

    error = state.outcome.exception() if state.outcome else None
    grown = tenacity.wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)(state)
    asked = error.after if isinstance(error, BrokenReplyError) else None
    return grown if asked is None else asked + min(grown, 0.1 * asked)  # not all at the same time


def _seconds(header: str | None) -> float | None:
    """Of a Retry-After, which is a number or a date; None: it says nothing."""
    try:
        seconds = float(header or "nan")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header or "").timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
