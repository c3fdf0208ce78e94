"""Many asynchronous jobs at the same time: they can be stopped, and outlive those that fail."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pixellm.utils.budget import BudgetError
from pixellm.utils.openai_client import RefusedError, UnreachableError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FAILURES = 20  # in a row: the server is down, or a path is wrong


class JobRunner:
    """Runs a job for each item.

    Args:
        in_flight: jobs at the same time.
        max_failures: failures in a row that end the run.

    Attributes:
        failures: failed jobs by reason.
        stopped: reason why the run ended early.
    """

    def __init__(self, in_flight: int, max_failures: int | None = None) -> None:
        self.in_flight = in_flight
        self.failures: Counter[str] = Counter()
        self.stopped: str | None = None
        self._max_failures = max_failures or max(MAX_FAILURES, 2 * in_flight)
        self._in_a_row = 0

    def stop(self, reason: str) -> None:
        """Start nothing new; jobs in flight are finished."""
        self.stopped = self.stopped or reason

    async def run(self, items: Iterable[T], job: Callable[[T], Awaitable[None]]) -> None:
        """Run until the end, or until it is stopped: by `stop`, a cap of the budget, no server, or failures in a row.

        Raises:
            RefusedError: the server refuses every request.
        """
        rest = self._rest(items)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.in_flight):
                    group.create_task(self._work(rest, job))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None

    def _rest(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            if self.stopped:
                return
            yield item

    async def _work(self, rest: Iterator[T], job: Callable[[T], Awaitable[None]]) -> None:
        for item in rest:
            try:
                await job(item)
                self._in_a_row = 0
            except BudgetError as error:
                self.stop(str(error))
            except RefusedError:
                raise
            except UnreachableError as error:
                self._fail(str(error))
                self.stop(str(error))
            except ValueError as error:
                self._fail(str(error))
            await asyncio.sleep(0)  # let others run, also where nothing is awaited

    def _fail(self, reason: str) -> None:
        logger.info("left for the next run: %s", reason)
        self.failures[reason] += 1
        self._in_a_row += 1
        if self._in_a_row >= self._max_failures:
            self.stop(f"{self._in_a_row} failed one after another, the last one: {reason}")


def run_blocking(work: Coroutine[Any, Any, T], stop: Callable[[], None] = lambda: None) -> T:
    """Run a coroutine on an event loop of its own, in a thread, and wait for its result.

    An interruption calls `stop`, and is raised once the coroutine has ended.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(asyncio.run, work)
        try:
            return future.result()
        except KeyboardInterrupt:
            stop()
            raise  # leaving the pool waits for its thread


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
