"""What may be spent: reserved before a request, settled once its reply is there."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from pixellm.muse.journal import Journal
from pixellm.muse.scene import BudgetError
from pixellm.muse.server.settings import Settings


@dataclass(frozen=True)
class Reserved:
    """The most that a request may take."""

    tokens_in: int
    tokens_out: int

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


class Purse(Protocol):
    """Where a client gets leave to spend; see `Budget`, which is one."""

    async def reserve(self, most: Reserved) -> None: ...

    async def release(self, most: Reserved) -> None: ...

    async def settle(self, most: Reserved, tokens_in: int, tokens_out: int) -> float: ...

    async def lose(self, most: Reserved) -> None: ...


@dataclass
class Budget:
    """Caps on cost and tokens.

    A reply that was lost may be on the bill: it counts with the most that it can have taken.

    Args:
        settings: with the caps and the price.
        tokens, cost: what was spent before.
        lost_calls, lost_tokens, lost_cost: requests whose reply broke off, and what they may have taken.
        keep: called with the tokens in, the tokens out and the cost of each reply that is lost.
    """

    settings: Settings
    tokens: int = 0
    cost: float = 0.0
    lost_calls: int = 0
    lost_tokens: int = 0
    lost_cost: float = 0.0
    keep: Callable[[int, int, float], None] | None = None
    _reserved: int = field(default=0, init=False)
    _reserved_cost: float = field(default=0.0, init=False)
    _open: int = field(default=0, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def reserve(self, most: Reserved) -> None:
        """Keep room for a request, as soon as there is some: those under way mostly take less than is kept for them.

        Raises:
            BudgetError: a cap might be exceeded, whatever those under way take.
        """
        try:
            # Whoever reserved may have died: nobody waits longer than a request can take.
            async with asyncio.timeout(self.settings.timeout):
                while self._open and self._full(most):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        if reason := self._full(most):
            raise BudgetError(reason)
        self._reserved += most.tokens
        self._reserved_cost += self._cost(most)
        self._open += 1

    def _full(self, most: Reserved) -> str | None:
        """Which cap is in the way, in words."""
        cost = self._cost(most)
        spent, tokens = self.cost + self.lost_cost, self.tokens + self.lost_tokens
        max_cost, max_tokens = self.settings.max_cost, self.settings.max_tokens
        if max_cost is not None and spent + self._reserved_cost + cost > max_cost:
            return (
                f"the cap of {max_cost:g} {self.settings.currency} is reached: {spent:.4f} are spent, and the next "
                f"request may take {cost:.4f}. Call it again with a larger --max-cost: nothing is asked twice."
            )
        if max_tokens is not None and tokens + self._reserved + most.tokens > max_tokens:
            return (
                f"the cap of {max_tokens:,} tokens is reached: {tokens:,} are spent, and the next request may take "
                f"{most.tokens:,}. Call it again with a larger --max-tokens: nothing is asked twice."
            )
        return None

    async def release(self, most: Reserved) -> None:
        """The request took nothing."""
        self._close(most)

    async def settle(self, most: Reserved, tokens_in: int, tokens_out: int) -> float:
        """The request took so many tokens; what they cost."""
        self._close(most)
        cost = self.settings.price.cost(tokens_in, tokens_out)
        self.tokens += tokens_in + tokens_out
        self.cost += cost
        return cost

    async def lose(self, most: Reserved) -> None:
        """The reply broke off, and may be on the bill: another try has to be reserved for anew."""
        self._close(most)
        cost = self._cost(most)
        self.lost_calls += 1
        self.lost_tokens += most.tokens
        self.lost_cost += cost
        if self.keep:
            self.keep(most.tokens_in, most.tokens_out, cost)

    def figures(self) -> Self:
        """A copy that can be sent elsewhere, to be read."""
        return replace(self, keep=None)

    def _close(self, most: Reserved) -> None:
        self._open -= 1
        self._reserved -= most.tokens
        # Sums of floats drift: with nothing reserved it is nothing.
        self._reserved_cost = self._reserved_cost - self._cost(most) if self._open else 0.0
        self._changed.set()

    def _cost(self, most: Reserved) -> float:
        return self.settings.price.cost(most.tokens_in, most.tokens_out)


def journal_budget(settings: Settings, journal: Journal) -> Budget:
    """After what a journal's replies cost, and those that were lost; what is lost from now on is kept there."""
    _, tokens_in, tokens_out, cost = journal.spent()
    lost_calls, lost_in, lost_out, lost_cost = journal.lost()
    return Budget(
        *(settings, tokens_in + tokens_out, cost, lost_calls, lost_in + lost_out, lost_cost), journal.save_lost
    )
