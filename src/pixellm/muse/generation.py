"""Generation of records from annotated images: many at the same time, each finished at once, none twice.

Selection → images that are not finished yet → engine → checks → journal
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from pixellm.muse.journal import Journal, Reject
from pixellm.muse.quality.checks import QualityRules, check
from pixellm.muse.records import ImageAnnotations, MuseRecord
from pixellm.muse.selection import MISSING, Candidate
from pixellm.utils.job_runner import JobRunner


@dataclass(frozen=True)
class GenerationResult:
    """Records and rejects about one image; `reason`: why there is no question."""

    records: tuple[MuseRecord, ...] = ()
    rejects: tuple[Reject, ...] = ()
    reason: str | None = None


class MuseEngine(Protocol):
    """Writer of questions: the same image gives the same ones, as far as its model is deterministic."""

    async def ask(self, image: ImageAnnotations) -> GenerationResult:
        """Write questions with answers about the instances of an image, with ids IMAGE_ID/NUMBER from 1."""
        ...


class Generation:
    """Generation in this process.

    Args:
        engine: writes the questions.
        journal: keeps the results.
        rules: for the checks.
        in_flight: images at the same time.
        progress: called after each image with the number of new records.
    """

    def __init__(
        self,
        engine: MuseEngine,
        journal: Journal,
        rules: QualityRules,
        in_flight: int = 1,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._engine, self._journal, self._rules, self._progress = engine, journal, rules, progress
        self.runner = JobRunner(in_flight)
        self.records = 0  # new ones; the journal has the totals

    async def run(self, candidates: Iterable[Candidate]) -> None:
        """Finish every image that is not finished yet; see `JobRunner.run`."""
        todo = (row for row in candidates if not self._journal.is_done(row.image.image_id))
        await self.runner.run(todo, self._finish)

    async def _finish(self, candidate: Candidate) -> None:
        if candidate.reason == MISSING:
            raise ValueError(MISSING)
        if candidate.annotated:
            result = await self._engine.ask(candidate.annotated)
        else:
            result = GenerationResult(reason=candidate.reason)
        good, rejects = checked(result, self._rules)
        finish = self._journal.finish_image
        await asyncio.to_thread(finish, candidate.image.image_id, good, rejects, result.reason, candidate.left_out)
        self.records += len(good)
        self._progress(self.records)


def checked(result: GenerationResult, rules: QualityRules) -> tuple[list[MuseRecord], list[Reject]]:
    """Return the records that pass the checks, and all rejects."""
    good, rejects = [], list(result.rejects)
    for record in result.records:
        issues = check(record, rules)
        if issues:
            rejects.append(Reject(record.record_id, record.to_json(), issues[0].check, issues[0].reason))
        else:
            good.append(record)
    return good, rejects
