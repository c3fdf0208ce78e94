"""What runs on many machines: photographs in, finished records at the keeper, a word about each out."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from pixellm.muse.cluster.keeper import RemoteCalls, RemotePurse
from pixellm.muse.generate import sifted
from pixellm.muse.plan import Plan
from pixellm.muse.scene import BudgetError, RefusedError
from pixellm.muse.source import Source

Batch = dict[str, np.ndarray]


class Worker:
    """An actor of Ray Data; when one dies, its batch is given to another, which does what is not finished.

    Args:
        plan: of the generation, with this worker's share of the server's limits.
        index: of the annotations, on a file system that all machines share.
        keeper: the actor that writes.
    """

    def __init__(self, plan: Plan, index: Path, keeper: Any) -> None:
        self._keeper, self._plan = keeper, plan
        source = Source(index)
        self._selection, self._checks = plan.selection(source), plan.checks(source)
        self._client = plan.client(RemotePurse(keeper))
        self._engine = plan.engine(self._client, RemoteCalls(keeper))
        self._loop = asyncio.new_event_loop()

    def __call__(self, batch: Batch) -> Batch:
        """`image_id` → `failure` of each: why it is left for the next run, or nothing."""
        failures = self._loop.run_until_complete(self._all([int(one) for one in batch["image_id"]]))
        return {"image_id": batch["image_id"], "failure": np.array(failures, dtype=object)}

    async def _all(self, image_ids: list[int]) -> list[str]:
        slots = asyncio.Semaphore(self._plan.in_flight)

        async def one(image_id: int) -> str:
            async with slots:
                return await self._one(image_id)

        return list(await asyncio.gather(*map(one, image_ids)))

    async def _one(self, image_id: int) -> str:
        if await self._keeper.stopped.remote() or await self._keeper.is_done.remote(image_id):
            return ""
        chosen = self._selection.scene(image_id)
        assert chosen.scene is not None, "the keeper gives scenes only"
        try:
            made = await self._engine.ask(chosen.scene)
        except (BudgetError, RefusedError) as error:
            await self._keeper.stop.remote(str(error))
            return ""
        except ValueError as error:
            return str(error)
        good, rejects = sifted(made, self._checks)
        await self._keeper.finish.remote(image_id, good, rejects, made.reason, dict(chosen.left_out))
        return ""
