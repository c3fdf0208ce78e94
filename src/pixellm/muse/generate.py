"""From photographs to records: so many at the same time, each finished at once, none twice.

Selection → scenes that are not finished yet → engine → checks → journal
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pixellm.muse.journal import Journal, Reject
from pixellm.muse.quality.checks import Rules, check
from pixellm.muse.scene import BudgetError, Engine, Made, RefusedError
from pixellm.muse.selection import MISSING, Chosen

logger = logging.getLogger(__name__)

MAX_FAILURES = 20  # one after another: the server is down, or the folder is the wrong one


@dataclass
class Generated:
    """What this run did; the journal has the totals.

    Args:
        images: finished, those without a question among them.
        records: good ones.
        rejects: records that did not pass.
        failures: images that are not finished and why; the next run tries them again.
        stopped: why the run ended before its end, if it did.
    """

    images: int = 0
    records: int = 0
    rejects: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None


class Generation:
    """Makes records of all that is chosen.

    Args:
        engine: asks about a scene.
        journal: keeps what came of it.
        rules: of the checks.
        in_flight: scenes at the same time.
        seen: called after each image, for progress.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        rules: Rules,
        in_flight: int = 1,
        seen: Callable[[Generated], None] = lambda _: None,
    ) -> None:
        self._engine, self._journal, self._rules = engine, journal, rules
        self._in_flight, self._seen = in_flight, seen
        self._in_a_row = 0
        self.found = Generated()

    def stop(self, reason: str) -> None:
        """Begin nothing new; what is in flight is finished."""
        self.found.stopped = self.found.stopped or reason

    async def run(self, chosen: Iterable[Chosen]) -> Generated:
        """Until the end, or until it is stopped: by `stop`, a cap on cost, or a server that doesn't answer.

        Raises:
            ValueError: the server refuses whatever is asked.
        """
        rest = self._unfinished(chosen)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._in_flight):
                group.create_task(self._work(rest))
        return self.found

    def _unfinished(self, chosen: Iterable[Chosen]) -> Iterator[Chosen]:
        for one in chosen:
            if self.found.stopped:
                return
            if not self._journal.is_done(one.image.image_id):
                yield one

    async def _work(self, rest: Iterator[Chosen]) -> None:
        for one in rest:
            try:
                await self._finish(one)
            except BudgetError as error:
                self.stop(str(error))
            except RefusedError:
                raise
            except ValueError as error:
                self._fail(one, str(error))
            self._seen(self.found)
            await asyncio.sleep(0)  # the others' turn, also where nothing is waited for

    async def _finish(self, one: Chosen) -> None:
        if one.reason == MISSING:
            raise ValueError(f"{one.image.file_name}: {MISSING}")
        made = await self._engine.ask(one.scene) if one.scene else Made(reason=one.reason)
        good, rejects = [], list(made.rejects)
        for record in made.records:
            faults = check(record, self._rules)
            if faults:
                rejects.append(Reject(record.record_id, record.to_json(), faults[0].check, faults[0].reason))
            else:
                good.append(record)
        self._journal.finish_image(one.image.image_id, good, rejects, made.reason, one.left_out)
        self._in_a_row = 0
        self.found.images += 1
        self.found.records += len(good)
        self.found.rejects += len(rejects)

    def _fail(self, one: Chosen, reason: str) -> None:
        logger.warning("image %d is left for the next run: %s", one.image.image_id, reason)
        self.found.failures[MISSING if reason.endswith(MISSING) else reason[:120]] += 1
        self._in_a_row += 1
        if self._in_a_row >= max(MAX_FAILURES, 2 * self._in_flight):
            self.stop(f"{self._in_a_row} images failed one after another, the last one: {reason}")
