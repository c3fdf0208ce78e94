"""Workers of a cluster: images in, finished records at the coordinator, failures out."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from pixellm.muse.annotation_index import AnnotationIndex
from pixellm.muse.cluster.coordinator import RemoteBudget, RemoteReplyCache
from pixellm.muse.generation import checked
from pixellm.muse.plan import GenerationPlan
from pixellm.utils.budget import BudgetError
from pixellm.utils.openai_client import RefusedError, UnreachableError

Columns = dict[str, np.ndarray]


class MuseWorker:
    """Actor of Ray Data; when one dies, another gets its batch, and does what is not finished.

    Args:
        plan: plan of the generation, with this worker's share of the server's limits.
        index: index of the annotations, on a file system that all machines share.
        coordinator: the actor that writes.
    """

    def __init__(self, plan: GenerationPlan, index: Path, coordinator: Any) -> None:
        self._coordinator, self._plan = coordinator, plan
        annotations = AnnotationIndex(index)
        self._selection, self._checks = plan.selection(annotations), plan.checks(annotations)
        self._engine = plan.engine(plan.client(RemoteBudget(coordinator)), RemoteReplyCache(coordinator))
        self._loop = asyncio.new_event_loop()

    def __call__(self, batch: Columns) -> Columns:
        """Map `image_id` to `failure`: why it is left for the next run, or an empty text."""
        failures = self._loop.run_until_complete(self._finish_all([int(number) for number in batch["image_id"]]))
        return {"image_id": batch["image_id"], "failure": np.array(failures, dtype=object)}

    async def _finish_all(self, image_ids: list[int]) -> list[str]:
        slots = asyncio.Semaphore(self._plan.in_flight)

        async def finish(image_id: int) -> str:
            async with slots:
                return await self._finish(image_id)

        return list(await asyncio.gather(*map(finish, image_ids)))

    async def _finish(self, image_id: int) -> str:
        if await self._coordinator.stopped.remote() or await self._coordinator.is_done.remote(image_id):
            return ""
        candidate = self._selection.candidate(image_id)
        assert candidate.annotated is not None, "the coordinator left out all others"
        try:
            result = await self._engine.ask(candidate.annotated)
        except (BudgetError, RefusedError) as error:
            await self._coordinator.stop.remote(str(error))
            return ""
        except UnreachableError as error:
            await self._coordinator.stop.remote(str(error))
            return str(error)
        except ValueError as error:
            return str(error)
        good, rejects = checked(result, self._checks)
        await self._coordinator.finish.remote(image_id, good, rejects, result.reason, dict(candidate.left_out))
        return ""
