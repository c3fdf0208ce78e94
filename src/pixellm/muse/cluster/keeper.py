"""The one process of a cluster that writes: what is finished, what was answered, what may be spent."""

from collections import Counter
from pathlib import Path
from typing import Any

from pixellm.muse.journal import Call, Journal, Reject
from pixellm.muse.plan import Plan
from pixellm.muse.records import MuseRecord
from pixellm.muse.selection import MISSING
from pixellm.muse.server.budget import Budget, Reserved
from pixellm.muse.source import Source


class Keeper:
    """An actor; workers reach it through `RemoteCalls` and `RemotePurse`.

    Args:
        plan: of the generation.
        directory: its output.
    """

    def __init__(self, plan: Plan, directory: Path) -> None:
        self._journal = Journal(directory, plan.about())
        self._source: Source = plan.source(directory)
        self._plan, self._budget = plan, plan.budget(self._journal)
        self._stopped: str | None = None

    def unfinished(self) -> tuple[list[int], Counter[str]]:
        """Photographs that are to be asked about; those that are not to be are finished, but for missing files."""
        ids, failures = [], Counter[str]()
        for one in self._plan.selection(self._source):
            number = one.image.image_id
            if self._journal.is_done(number):
                continue
            if one.reason == MISSING:
                failures[MISSING] += 1
            elif one.scene is None:
                self._journal.finish_image(number, reason=one.reason, left_out=one.left_out)
            else:
                ids.append(number)
        return ids, failures

    def is_done(self, image_id: int) -> bool:
        return self._journal.is_done(image_id)

    def finish(
        self,
        image_id: int,
        records: list[MuseRecord],
        rejects: list[Reject],
        reason: str | None,
        left_out: dict[str, int],
    ) -> None:
        """See `Journal.finish_image`. Once only: a worker that died may have been done."""
        if not self._journal.is_done(image_id):
            self._journal.finish_image(image_id, records, rejects, reason, left_out)

    def call(self, key: str) -> Call | None:
        return self._journal.call(key)

    def save_call(self, call: Call) -> None:
        """Once only: two workers may have asked for the same where one was thought dead."""
        if self._journal.call(call.key) is None:
            self._journal.save_call(call)

    async def reserve(self, most: Reserved) -> None:
        await self._paid.reserve(most)

    async def release(self, most: Reserved) -> None:
        await self._paid.release(most)

    async def settle(self, most: Reserved, tokens_in: int, tokens_out: int) -> float:
        return await self._paid.settle(most, tokens_in, tokens_out)

    async def lose(self, most: Reserved) -> None:
        await self._paid.lose(most)

    @property
    def _paid(self) -> Budget:
        assert self._budget is not None, "rules cost nothing"
        return self._budget

    def stop(self, reason: str) -> None:
        """Nobody begins anything new."""
        self._stopped = self._stopped or reason

    def stopped(self) -> str | None:
        return self._stopped

    def state(self) -> tuple[tuple[int, int], Budget | None]:
        """Photographs that are finished, records, and what was spent."""
        return self._journal.totals(), self._budget and self._budget.figures()

    def close(self) -> None:
        """Before the directory is read by others."""
        self._source.close()
        self._journal.close()


class RemoteCalls:
    """`Calls` of a keeper."""

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper

    async def call(self, key: str) -> Call | None:
        return await self._keeper.call.remote(key)

    async def save_call(self, call: Call) -> None:
        await self._keeper.save_call.remote(call)


class RemotePurse:
    """A `Purse` of a keeper: a cap holds for all workers together."""

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper

    async def reserve(self, most: Reserved) -> None:
        await self._keeper.reserve.remote(most)

    async def release(self, most: Reserved) -> None:
        await self._keeper.release.remote(most)

    async def settle(self, most: Reserved, tokens_in: int, tokens_out: int) -> float:
        return await self._keeper.settle.remote(most, tokens_in, tokens_out)

    async def lose(self, most: Reserved) -> None:
        await self._keeper.lose.remote(most)
