"""A Ray cluster for as long as something needs it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def connected(address: str | None, workers: int) -> Iterator[None]:
    """Connect to a cluster, or start one here for so many workers.

    Args:
        address: None: RAY_ADDRESS, or a cluster of this machine's own.
        workers: processes that work at the same time.
    """
    import ray

    mine = not ray.is_initialized()
    if mine:
        local = {} if address else {"num_cpus": workers + 1, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        if mine:
            ray.shutdown()
