"""Budget of a paid server: rate limiter, and caps that are reserved before a request and settled after its reply."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

SLICE = 0.25  # seconds: how soon a waiting request learns that earlier ones took less than estimated


class BudgetError(ValueError):
    """A cap allows no further request; replies so far are kept."""


class RateLimiter:
    """Even rate, first come, first served.

    Args:
        per_minute: amount that passes in a minute; None: unlimited.
        burst: seconds of idle time that may be made up for at once.
        clock: time in seconds.
    """

    def __init__(
        self, per_minute: float | None, burst: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = 60 / per_minute if per_minute else 0.0  # per unit
        self._burst, self._clock = burst, clock
        self._free = clock() - burst  # when all that has passed is paid off
        self._turn = asyncio.Lock()

    async def take(self, amount: float) -> None:
        """Wait until `amount` may pass. More than a minute's worth passes, too: those that follow wait for it."""
        if not self._seconds:
            return
        async with self._turn:
            while (left := self._free - self._clock()) > 0:
                await asyncio.sleep(min(left, SLICE))
            self._free = max(self._free, self._clock() - self._burst) + amount * self._seconds

    def correct(self, difference: float) -> None:
        """Add the difference between the amount that passed and the amount that was taken for it."""
        self._free += difference * self._seconds


class Price(BaseModel):
    """Price of a model per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    input: float = Field(ge=0)
    output: float = Field(ge=0)

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


FREE = Price(input=0, output=0)


@dataclass(frozen=True)
class Reservation:
    """Upper bound of the tokens of one request; `ticket` is its number in a ledger."""

    tokens_in: int
    tokens_out: int
    ticket: str = field(default_factory=lambda: uuid4().hex)

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


class BudgetProtocol(Protocol):
    """Interface of `Budget`; on a cluster, a proxy of one that all workers share."""

    async def reserve(self, most: Reservation) -> None: ...

    async def release(self, most: Reservation) -> None: ...

    async def settle(self, most: Reservation, tokens_in: int, tokens_out: int) -> float: ...

    async def lose(self, most: Reservation) -> None: ...


class Ledger(Protocol):
    """Store of requests in flight: what a killed process leaves there may have been billed."""

    def open_request(self, most: Reservation, cost: float) -> None:
        """Write a request; a process that is killed afterwards leaves it behind."""

    def drop_request(self, ticket: str) -> None:
        """Delete a request that took nothing."""

    def lose_request(self, ticket: str) -> None:
        """Count a request whose reply was lost."""


@dataclass
class Budget:
    """Hard caps on cost, tokens and calls; None: no cap.

    A lost reply may be charged for: it counts with the most that it can have taken.

    Args:
        price, currency: for costs.
        patience: seconds that a reservation waits for requests in flight.
        calls, tokens, cost: spent before.
        lost_calls, lost_tokens, lost_cost: requests whose reply broke off, and the most that they can have taken.
        ledger: gets each request before it is sent; whoever saves the reply closes it there.
    """

    max_cost: float | None = None
    max_tokens: int | None = None
    max_calls: int | None = None
    price: Price = FREE
    currency: str = "USD"
    patience: float = 120.0
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    lost_calls: int = 0
    lost_tokens: int = 0
    lost_cost: float = 0.0
    ledger: Ledger | None = None
    _reserved: int = field(default=0, init=False)
    _reserved_cost: float = field(default=0.0, init=False)
    _open: int = field(default=0, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def reserve(self, most: Reservation) -> None:
        """Reserve room for a request, as soon as there is some: requests in flight mostly take less than reserved.

        Raises:
            BudgetError: a cap might be exceeded, whatever the requests in flight take.
        """
        try:
            # A worker may have died with its reservation: nobody waits longer than a request can take.
            async with asyncio.timeout(self.patience):
                while self._open and self._exceeded(most):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        if reason := self._exceeded(most):
            raise BudgetError(reason)
        self._reserved += most.tokens
        self._reserved_cost += self._cost(most)
        self._open += 1
        if self.ledger:
            try:
                await asyncio.to_thread(self.ledger.open_request, most, self._cost(most))
            except BaseException:
                self._close(most)
                raise

    def _exceeded(self, most: Reservation) -> str | None:
        """Return what to tell where a request might exceed a cap."""
        cost, unit = self._cost(most), f" {self.currency}"
        taken = self.cost, self.lost_cost, self._reserved_cost, cost
        if self.max_cost is not None and sum(taken) > self.max_cost:
            return _reached("cost", f"{self.max_cost:g}{unit}", taken, "{:,.4f}" + unit)
        tokens = self.tokens, self.lost_tokens, self._reserved, most.tokens
        if self.max_tokens is not None and sum(tokens) > self.max_tokens:
            return _reached("tokens", f"{self.max_tokens:,} tokens", tokens, "{:,}")
        calls = self.calls, self.lost_calls, self._open, 1
        if self.max_calls is not None and sum(calls) > self.max_calls:
            return _reached("calls", f"{self.max_calls:,} calls", calls, "{:,}")
        return None

    async def release(self, most: Reservation) -> None:
        """Return the reservation of a request that took nothing."""
        self._close(most)
        if self.ledger:
            self.ledger.drop_request(most.ticket)

    async def settle(self, most: Reservation, tokens_in: int, tokens_out: int) -> float:
        """Replace the reservation by the tokens that the request took; return their cost."""
        self._close(most)
        cost = self.price.cost(tokens_in, tokens_out)
        self.calls += 1
        self.tokens += tokens_in + tokens_out
        self.cost += cost
        return cost

    async def lose(self, most: Reservation) -> None:
        """Count a lost reply with its reservation; another try needs a new one."""
        self._close(most)
        self.lost_calls += 1
        self.lost_tokens += most.tokens
        self.lost_cost += self._cost(most)
        if self.ledger:
            self.ledger.lose_request(most.ticket)

    def snapshot(self) -> Self:
        """Return a copy that can be pickled, to be read."""
        return replace(self, ledger=None)

    def _close(self, most: Reservation) -> None:
        self._open -= 1
        self._reserved -= most.tokens
        # Sums of floats drift: with nothing reserved it is zero.
        self._reserved_cost = self._reserved_cost - self._cost(most) if self._open else 0.0
        self._changed.set()

    def _cost(self, most: Reservation) -> float:
        return self.price.cost(most.tokens_in, most.tokens_out)


def _reached(name: str, cap: str, taken: Sequence[float], form: str) -> str:
    spent, lost, in_flight, more = [form.format(amount) for amount in taken]
    parts = [f"{spent} are spent"]
    parts += [f"at most {lost} may have been billed for lost replies"] if taken[1] else []
    parts += [f"at most {in_flight} may be billed for requests in flight"] if taken[2] else []
    return (
        f"the cap of {cap} is reached: {', '.join(parts)}, and the next request may take {more}. Raise --max-{name} "
        "and run it again: nothing is asked twice."
    )
