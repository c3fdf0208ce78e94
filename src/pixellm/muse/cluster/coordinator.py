"""Coordinator: the one process of a cluster that writes the journal and holds the budget."""

from collections import Counter
from pathlib import Path
from typing import Any

from pixellm.muse.journal import Journal, Reject
from pixellm.muse.plan import GenerationPlan
from pixellm.muse.records import MuseRecord
from pixellm.muse.selection import MISSING
from pixellm.utils.budget import Budget, Reservation
from pixellm.utils.openai_client import Completion


class Coordinator:
    """Ray actor; workers reach it through `RemoteReplyCache` and `RemoteBudget`.

    Args:
        plan: plan of the generation.
        directory: its output.
    """

    def __init__(self, plan: GenerationPlan, directory: Path) -> None:
        self._journal = Journal(directory, plan.about())
        self._index = plan.index(directory)
        self._plan, self._budget = plan, plan.budget(self._journal)
        self._stopped: str | None = None

    def unfinished(self) -> tuple[list[int], Counter[str]]:
        """Return the images to ask about, and failures by reason; finish those that are left out."""
        ids, failures = [], Counter[str]()
        for candidate in self._plan.selection(self._index):
            image_id = candidate.image.image_id
            if self._journal.is_done(image_id):
                continue
            if candidate.reason == MISSING:
                failures[MISSING] += 1
            elif candidate.annotated is None:
                self._journal.finish_image(image_id, reason=candidate.reason, left_out=candidate.left_out)
            else:
                ids.append(image_id)
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
        """Finish an image (`Journal.finish_image`), unless a worker that died had done so."""
        if not self._journal.is_done(image_id):
            self._journal.finish_image(image_id, records, rejects, reason, left_out)

    def reply(self, key: str) -> Completion | None:
        return self._journal.reply(key)

    def save_reply(self, key: str, reply: Completion) -> None:
        """Write a reply; where two workers asked the same, because one was taken for dead, count the second as lost."""
        if self._journal.reply(key) is None:
            self._journal.save_reply(key, reply)
        else:
            self._journal.lose_request(reply.ticket)

    async def reserve(self, most: Reservation) -> None:
        await self._paid.reserve(most)

    async def release(self, most: Reservation) -> None:
        await self._paid.release(most)

    async def settle(self, most: Reservation, tokens_in: int, tokens_out: int) -> float:
        return await self._paid.settle(most, tokens_in, tokens_out)

    async def lose(self, most: Reservation) -> None:
        await self._paid.lose(most)

    @property
    def _paid(self) -> Budget:
        assert self._budget is not None, "rules cost nothing"
        return self._budget

    def stop(self, reason: str) -> None:
        """Have workers start nothing new."""
        self._stopped = self._stopped or reason

    def stopped(self) -> str | None:
        return self._stopped

    def state(self) -> tuple[tuple[int, int], Budget | None]:
        """Return the numbers of finished images and records, and a copy of the budget."""
        return self._journal.totals(), self._budget and self._budget.snapshot()

    def close(self) -> None:
        """Release the directory."""
        self._index.close()
        self._journal.close()


class RemoteReplyCache:
    """`ReplyCache` of a coordinator."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator

    async def get(self, key: str) -> Completion | None:
        return await self._coordinator.reply.remote(key)

    async def put(self, key: str, reply: Completion) -> None:
        await self._coordinator.save_reply.remote(key, reply)


class RemoteBudget:
    """`BudgetProtocol` of a coordinator: a cap holds for all workers together."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator

    async def reserve(self, most: Reservation) -> None:
        await self._coordinator.reserve.remote(most)

    async def release(self, most: Reservation) -> None:
        await self._coordinator.release.remote(most)

    async def settle(self, most: Reservation, tokens_in: int, tokens_out: int) -> float:
        return await self._coordinator.settle.remote(most, tokens_in, tokens_out)

    async def lose(self, most: Reservation) -> None:
        await self._coordinator.lose.remote(most)
