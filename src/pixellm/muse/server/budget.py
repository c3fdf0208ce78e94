"""What may be spent: reserved before a request, settled once its reply is there."""

from dataclasses import dataclass, field
from typing import Protocol

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

    Args:
        settings: with the caps and the price.
        tokens, cost: what was spent before.
        lost_calls, lost_cost: requests whose reply broke off, and what they may have cost: they count, too.
    """

    settings: Settings
    tokens: int = 0
    cost: float = 0.0
    lost_calls: int = 0
    lost_cost: float = 0.0
    _lost_tokens: int = field(default=0, init=False)
    _reserved: int = field(default=0, init=False)
    _reserved_cost: float = field(default=0.0, init=False)

    async def reserve(self, most: Reserved) -> None:
        """Keep room for a request.

        Raises:
            BudgetError: a cap might be exceeded.
        """
        cost = self._cost(most)
        spent, tokens = self.cost + self.lost_cost, self.tokens + self._lost_tokens
        max_cost, max_tokens = self.settings.max_cost, self.settings.max_tokens
        if max_cost is not None and spent + self._reserved_cost + cost > max_cost:
            raise BudgetError(
                f"the cap of {max_cost:g} {self.settings.currency} is reached: {spent:.4f} are spent, and the next "
                f"request may take {cost:.4f}. Call it again with a larger --max-cost: nothing is asked twice."
            )
        if max_tokens is not None and tokens + self._reserved + most.tokens > max_tokens:
            raise BudgetError(
                f"the cap of {max_tokens:,} tokens is reached: {tokens:,} are spent, and the next request may take "
                f"{most.tokens:,}. Call it again with a larger --max-tokens: nothing is asked twice."
            )
        self._reserved += most.tokens
        self._reserved_cost += cost

    async def release(self, most: Reserved) -> None:
        """The request took nothing."""
        self._reserved -= most.tokens
        self._reserved_cost -= self._cost(most)

    async def settle(self, most: Reserved, tokens_in: int, tokens_out: int) -> float:
        """The request took so many tokens; what they cost."""
        await self.release(most)
        cost = self.settings.price.cost(tokens_in, tokens_out)
        self.tokens += tokens_in + tokens_out
        self.cost += cost
        return cost

    async def lose(self, most: Reserved) -> None:
        """The reply broke off, and may be on the bill: another request has to be reserved for anew."""
        self.lost_calls += 1
        self.lost_cost += self._cost(most)
        self._lost_tokens += most.tokens

    def _cost(self, most: Reserved) -> float:
        return self.settings.price.cost(most.tokens_in, most.tokens_out)


def journal_budget(settings: Settings, journal: Journal) -> Budget:
    """After what a journal's replies cost."""
    _, tokens_in, tokens_out, cost = journal.spent()
    return Budget(settings, tokens_in + tokens_out, cost)
