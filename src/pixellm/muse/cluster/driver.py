"""Driver: starts a generation on a cluster, follows its progress, and ends it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixellm.muse.annotation_index import FILE
from pixellm.muse.cluster.coordinator import Coordinator
from pixellm.muse.cluster.vllm import PrepareRequests, StoreReplies
from pixellm.muse.cluster.worker import MuseWorker
from pixellm.muse.plan import GenerationPlan
from pixellm.utils.budget import Budget
from pixellm.utils.job_runner import MAX_FAILURES
from pixellm.utils.ray_cluster import connected
from pixellm.utils.server_settings import ServerSettings

if TYPE_CHECKING:
    from ray.data import Dataset

BATCHES = 8  # a batch holds so many times what a worker has in flight: few wait for the slowest
RULES_BATCH = 64  # images
Progress = Callable[[int, int, Budget | None], None]


@dataclass
class ClusterResult:
    """Outcome of a generation on a cluster; see `JobRunner`."""

    failures: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None


class ClusterGeneration:
    """Generation on a cluster.

    Args:
        plan: plan of the generation.
        directory: its output, on a file system that all machines share, as the images are.
        workers: processes that ask; each has its share of the server's limits.
        address: address of a Ray cluster; None: RAY_ADDRESS, or a cluster that is started here.
        processor: answers requests on the cluster itself, see `pixellm.muse.cluster.vllm`; None: the workers ask.
    """

    def __init__(
        self,
        plan: GenerationPlan,
        directory: Path,
        workers: int,
        address: str | None = None,
        processor: Callable[[GenerationPlan, int], "Callable[[Dataset], Dataset]"] | None = None,
    ) -> None:
        self._plan, self._directory, self._workers, self._address = plan, directory.resolve(), workers, address
        self._processor = processor
        self._coordinator: Any = None

    def stop(self, reason: str) -> None:
        """Start nothing new; images in flight are finished."""
        if self._coordinator is not None:
            self._coordinator.stop.remote(reason)

    def run(self, progress: Progress) -> ClusterResult:
        """Run until the end, or until it is stopped.

        Args:
            progress: called now and then with the numbers of finished images and records, and the budget.

        Raises:
            ValueError: another process works on the directory, or it holds another generation.
        """
        with connected(self._address, self._workers):
            self._coordinator = self._start_coordinator()
            try:
                return self._follow(progress)
            finally:
                _get(self._coordinator.close.remote())

    def _start_coordinator(self) -> Any:
        """Start it beside the driver: the directory that it writes has to outlive the cluster."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Coordinator).options(num_cpus=0, scheduling_strategy=here)
        return actor.remote(self._plan, self._directory)

    def _follow(self, progress: Progress) -> ClusterResult:
        ids, failures = _get(self._coordinator.unfinished.remote())
        result, in_a_row = ClusterResult(failures), 0
        for batch in self._processed(ids).iter_batches(batch_size=None) if ids else ():
            for reason in batch["failure"]:
                in_a_row = in_a_row + 1 if reason else 0
                result.failures[str(reason)] += bool(reason)
            if in_a_row >= max(MAX_FAILURES, 2 * self._plan.in_flight):
                self.stop(f"{in_a_row} failed one after another, the last one: {batch['failure'][-1]}")
            (images, records), budget = _get(self._coordinator.state.remote())
            progress(images, records, budget)
        result.failures = +result.failures
        result.stopped = _get(self._coordinator.stopped.remote())
        return result

    def _processed(self, ids: list[int]) -> "Dataset":
        import ray

        plan = replace(self._plan, server=_share(self._plan.server, self._workers))
        arguments = {"fn_constructor_args": (plan, self._directory / FILE, self._coordinator)}
        size = BATCHES * plan.in_flight if plan.server else RULES_BATCH
        blocks = [np.array(ids[start : start + size]) for start in range(0, len(ids), size)]
        images = ray.data.from_numpy(blocks).rename_columns({"data": "image_id"})
        if self._processor is None:
            pool = ray.data.ActorPoolStrategy(size=self._workers)
            return images.map_batches(MuseWorker, batch_size=size, compute=pool, **arguments)
        single = ray.data.ActorPoolStrategy(size=1)
        requests = images.map_batches(PrepareRequests, batch_size=size, compute=single, **arguments)
        replies = self._processor(plan, self._workers)(requests)
        return replies.map_batches(StoreReplies, batch_size=size, compute=single, **arguments)


def _share(server: ServerSettings | None, workers: int) -> ServerSettings | None:
    """Divide the server's limits among the workers."""
    if server is None:
        return None
    requests, tokens = server.requests_per_minute, server.tokens_per_minute
    share = {
        "in_flight": max(1, server.in_flight // workers),
        "requests_per_minute": requests and requests / workers,
        "tokens_per_minute": tokens and tokens / workers,
    }
    return server.model_copy(update=share)


def _get(reference: Any) -> Any:
    """Get an actor's result, or raise its ValueError here."""
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
