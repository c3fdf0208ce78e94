"""Starts a generation on a cluster, follows it, and ends it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixellm.muse.cluster.keeper import Keeper
from pixellm.muse.cluster.vllm import Conclude, Prepare
from pixellm.muse.cluster.worker import Worker
from pixellm.muse.plan import Plan
from pixellm.muse.running import MAX_FAILURES
from pixellm.muse.server.budget import Budget
from pixellm.muse.server.settings import Settings
from pixellm.muse.source import FILE
from pixellm.utils.ray_cluster import connected

if TYPE_CHECKING:
    from ray.data import Dataset

BATCHES = 8  # so many times what a worker has in flight are its batch: few wait for the slowest
RULES_BATCH = 64  # photographs


@dataclass
class Followed:
    """How a generation on a cluster went; see `Run`."""

    failures: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None
    budget: Budget | None = None


class Cluster:
    """A generation with its workers.

    Args:
        plan: of the generation.
        directory: its output, on a file system that all machines share, as the photographs are.
        workers: processes that ask; each has its share of the server's limits.
        address: of a Ray cluster; None: RAY_ADDRESS, or one that is started here.
        processor: answers requests on the cluster itself, see `pixellm.muse.cluster.vllm`; None: the workers ask.
    """

    def __init__(
        self,
        plan: Plan,
        directory: Path,
        workers: int,
        address: str | None = None,
        processor: Callable[[Plan, int], "Callable[[Dataset], Dataset]"] | None = None,
    ) -> None:
        self._plan, self._directory, self._workers, self._address = plan, directory.resolve(), workers, address
        self._processor = processor
        self._keeper: Any = None

    def stop(self, reason: str) -> None:
        """Begin nothing new; what is in flight is finished."""
        if self._keeper is not None:
            self._keeper.stop.remote(reason)

    def run(self, seen: Callable[[int, int, Budget | None], None]) -> Followed:
        """Until the end, or until it is stopped.

        Args:
            seen: called now and then with the photographs that are finished, the records, and what was spent.

        Raises:
            ValueError: another process works on the directory, or it holds another generation.
        """
        with connected(self._address, self._workers):
            self._keeper = self._start_keeper()
            try:
                return self._follow(seen)
            finally:
                _get(self._keeper.close.remote())

    def _start_keeper(self) -> Any:
        """Beside the driver: it writes to a directory that has to be there after the cluster is gone."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here)
        return actor.remote(self._plan, self._directory)

    def _follow(self, seen: Callable[[int, int, Budget | None], None]) -> Followed:
        ids, failures = _get(self._keeper.unfinished.remote())
        found, in_a_row = Followed(failures), 0
        for batch in self._asked(ids).iter_batches(batch_size=None) if ids else ():
            for reason in batch["failure"]:
                in_a_row = in_a_row + 1 if reason else 0
                found.failures[str(reason)] += bool(reason)
            if in_a_row >= max(MAX_FAILURES, 2 * self._plan.in_flight):
                self.stop(f"{in_a_row} failed one after another, the last one: {batch['failure'][-1]}")
            (images, records), budget = _get(self._keeper.state.remote())
            seen(images, records, budget)
        found.failures = +found.failures
        found.stopped, (_, found.budget) = _get([self._keeper.stopped.remote(), self._keeper.state.remote()])
        return found

    def _asked(self, ids: list[int]) -> "Dataset":
        import ray

        plan = replace(self._plan, server=_share(self._plan.server, self._workers))
        parts = {"fn_constructor_args": (plan, self._directory / FILE, self._keeper)}
        size = BATCHES * plan.in_flight if plan.server else RULES_BATCH
        blocks = [np.array(ids[start : start + size]) for start in range(0, len(ids), size)]
        photographs = ray.data.from_numpy(blocks).rename_columns({"data": "image_id"})
        if self._processor is None:
            pool = ray.data.ActorPoolStrategy(size=self._workers)
            return photographs.map_batches(Worker, batch_size=size, compute=pool, **parts)
        one = ray.data.ActorPoolStrategy(size=1)
        asked = photographs.map_batches(Prepare, batch_size=size, compute=one, **parts)
        answered = self._processor(plan, self._workers)(asked)
        return answered.map_batches(Conclude, batch_size=size, compute=one, **parts)


def _share(server: Settings | None, workers: int) -> Settings | None:
    """A worker's part of what the server allows."""
    if server is None:
        return None
    requests, tokens = server.requests_per_minute, server.tokens_per_minute
    return replace(
        server,
        in_flight=max(1, server.in_flight // workers),
        requests_per_minute=requests and requests / workers,
        tokens_per_minute=tokens and tokens / workers,
    )


def _get(reference: Any) -> Any:
    """What an actor gives; its ValueErrors are ours."""
    import ray
    from ray.exceptions import ActorDiedError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from None
        raise
    except ActorDiedError as error:
        cause = getattr(error, "cause", None) or error
        raise ValueError(str(cause)) from None
