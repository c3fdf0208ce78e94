"""Work on many things at the same time, that can be stopped, and that outlives what fails."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from pixellm.muse.scene import BudgetError, RefusedError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FAILURES = 20  # one after another: the server is down, or the folder is the wrong one


class Run:
    """Does something with each of many.

    Args:
        in_flight: how many at the same time.
        failures: of those that failed, by reason; they are left for the next run.
        stopped: why it ended before its end, if it did.
    """

    def __init__(self, in_flight: int) -> None:
        self.in_flight = in_flight
        self.failures: Counter[str] = Counter()
        self.stopped: str | None = None
        self._in_a_row = 0

    def stop(self, reason: str) -> None:
        """Begin nothing new; what is in flight is finished."""
        self.stopped = self.stopped or reason

    async def all(self, things: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
        """Until the end, or until it is stopped: by `stop`, a cap on cost, or a server that doesn't answer.

        Raises:
            RefusedError: the server refuses whatever is asked.
        """
        rest = self._rest(things)
        async with asyncio.TaskGroup() as group:
            for _ in range(self.in_flight):
                group.create_task(self._work(rest, do))

    def _rest(self, things: Iterable[T]) -> Iterator[T]:
        for one in things:
            if self.stopped:
                return
            yield one

    async def _work(self, rest: Iterator[T], do: Callable[[T], Awaitable[None]]) -> None:
        for one in rest:
            try:
                await do(one)
                self._in_a_row = 0
            except BudgetError as error:
                self.stop(str(error))
            except RefusedError:
                raise
            except ValueError as error:
                self._fail(str(error))
            await asyncio.sleep(0)  # the others' turn, also where nothing is waited for

    def _fail(self, reason: str) -> None:
        logger.info("left for the next run: %s", reason)
        self.failures[reason] += 1
        self._in_a_row += 1
        if self._in_a_row >= max(MAX_FAILURES, 2 * self.in_flight):
            self.stop(f"{self._in_a_row} failed one after another, the last one: {reason}")
