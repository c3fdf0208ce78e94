"""Connection to a Ray cluster."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def connected(address: str | None, workers: int) -> Iterator[None]:
    """Connect to a cluster, or start one on this computer, for the duration of a context.

    Args:
        address: address of the cluster; None: RAY_ADDRESS, or a cluster on this computer.
        workers: number of workers of a cluster on this computer.
    """
    import ray

    owned = not ray.is_initialized()
    if owned:
        local = {} if address else {"num_cpus": workers + 1, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        if owned:
            ray.shutdown()
