"""From photographs to records: so many at the same time, each finished at once, none twice.

Selection → scenes that are not finished yet → engine → checks → journal
"""

import asyncio
from collections.abc import Callable, Iterable

from pixellm.muse.journal import Journal, Reject
from pixellm.muse.quality.checks import Rules, check
from pixellm.muse.records import MuseRecord
from pixellm.muse.running import Run
from pixellm.muse.scene import Engine, Made
from pixellm.muse.selection import MISSING, Chosen


class Generation:
    """Makes records of all that is chosen.

    Args:
        engine: asks about a scene.
        journal: keeps what came of it.
        rules: of the checks.
        in_flight: scenes at the same time.
        seen: called after each photograph with the number of records so far, for progress.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        rules: Rules,
        in_flight: int = 1,
        seen: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._engine, self._journal, self._rules, self._seen = engine, journal, rules, seen
        self.run = Run(in_flight)
        self.records = 0  # of this run; the journal has the totals

    async def all(self, chosen: Iterable[Chosen]) -> None:
        """Every photograph that is not finished yet; see `Run.all`."""
        await self.run.all((one for one in chosen if not self._journal.is_done(one.image.image_id)), self._finish)

    async def _finish(self, one: Chosen) -> None:
        if one.reason == MISSING:
            raise ValueError(MISSING)
        made = await self._engine.ask(one.scene) if one.scene else Made(reason=one.reason)
        good, rejects = sifted(made, self._rules)
        finish = self._journal.finish_image
        await asyncio.to_thread(finish, one.image.image_id, good, rejects, made.reason, one.left_out)
        self.records += len(good)
        self._seen(self.records)


def sifted(made: Made, rules: Rules) -> tuple[list[MuseRecord], list[Reject]]:
    """The records that pass the checks, and all that did not pass."""
    good, rejects = [], list(made.rejects)
    for record in made.records:
        faults = check(record, rules)
        if faults:
            rejects.append(Reject(record.record_id, record.to_json(), faults[0].check, faults[0].reason))
        else:
            good.append(record)
    return good, rejects
