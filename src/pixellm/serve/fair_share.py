"""Fair share of a limited resource: first come, first served, but no tenant holds more than its share."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class _Claim:
    tenant: str
    amount: int
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class FairShare:
    """Resource of which a tenant holds at most a share.

    Args:
        total: amount there is.
        share: amount that one tenant may hold.
    """

    def __init__(self, total: int, share: int) -> None:
        self.total, self.share = total, share
        self.held: Counter[str] = Counter()
        self._waiting: deque[_Claim] = deque()

    @asynccontextmanager
    async def hold(self, tenant: str, amount: int = 1) -> AsyncIterator[None]:
        """Wait for an amount of at most `share`, and hold it."""
        claim = _Claim(tenant, amount)
        self._waiting.append(claim)
        self._grant()
        try:
            await claim.granted
            yield
        finally:
            if claim in self._waiting:
                self._waiting.remove(claim)
            else:
                self.held[tenant] -= amount
                self.held += Counter()  # drops the tenants that hold nothing
            self._grant()

    def _grant(self) -> None:
        """Grant claims in order; one that is too large for its tenant's share lets the next ones pass."""
        for claim in list(self._waiting):
            if claim.granted.done() or self.held[claim.tenant] + claim.amount > self.share:
                continue
            if self.held.total() + claim.amount > self.total:
                return
            self.held[claim.tenant] += claim.amount
            self._waiting.remove(claim)
            claim.granted.set_result(None)
