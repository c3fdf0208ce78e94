"""The same on a Ray cluster: each worker has a model, the driver keeps what they answer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pixellm.batch.questions import Asked, batches
from pixellm.batch.run import Batch, answer
from pixellm.eval.resumable import CHUNK
from pixellm.utils.ray_cluster import connected

BLOCKS = 20  # for each worker: what is lost with one is small


class Worker:
    """An actor of Ray Data: groups of questions in, rows out, both as JSON.

    Args:
        load: gives the segmenter.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._segmenter = load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"rows": [json.dumps(answer(self._segmenter, _read(text))) for text in batch["groups"]]}


def _written(groups: list[list[Asked]]) -> str:
    return json.dumps([[vars(one) | {"image": str(one.image)} for one in group] for group in groups])


def _read(text: str) -> list[list[Asked]]:
    return [[Asked(**one | {"image": Path(one["image"])}) for one in group] for group in json.loads(text)]


def run(
    batch: Batch,
    load: Callable[[], Any],
    workers: int,
    address: str | None,
    num_gpus: float,
    stopped: Callable[[], bool],
    seen: Callable[[int], None],
) -> None:
    """Answer what is pending, on all machines that see images and model.

    Args:
        batch: within `alone`.
        load: gives a worker its segmenter.
        workers: how many.
        address: of a Ray cluster; None: RAY_ADDRESS, or one that is started here.
        num_gpus: of a worker.
        stopped: is asked after each part; what is in flight is dropped.
        seen: gets the number of questions that were done.
    """
    import ray

    pending = batches(batch.pending(), CHUNK)
    if not pending:
        return
    with connected(address, workers):
        items = [{"groups": _written(groups)} for groups in pending]
        groups = ray.data.from_items(items, override_num_blocks=min(len(items), workers * BLOCKS))
        answered = groups.map_batches(
            Worker,
            fn_constructor_args=(load,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=num_gpus,
        )
        for row in answered.iter_rows():
            rows = json.loads(row["rows"])
            batch.keep(rows)
            seen(len(rows))
            if stopped():
                return
