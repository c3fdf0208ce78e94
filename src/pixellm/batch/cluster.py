"""Batch answering on a Ray cluster: each worker has a model, the driver keeps the answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pixellm.batch.questions import FileQuestion, batches
from pixellm.batch.run import BatchFiles, answer
from pixellm.eval.resumable import CHUNK
from pixellm.utils.ray_cluster import connected

BLOCKS = 20  # per worker: little is lost with one that dies


class BatchWorker:
    """Ray Data actor: groups of questions in, rows out, both as JSON; `load` returns its segmenter."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._segmenter = load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"rows": [json.dumps(answer(self._segmenter, _read(text))) for text in batch["groups"]]}


def _to_text(groups: list[list[FileQuestion]]) -> str:
    return json.dumps([[vars(question) | {"image": str(question.image)} for question in group] for group in groups])


def _read(text: str) -> list[list[FileQuestion]]:
    return [[FileQuestion(**row | {"image": Path(row["image"])}) for row in group] for group in json.loads(text)]


def run(
    files: BatchFiles,
    load: Callable[[], Any],
    workers: int,
    address: str | None,
    num_gpus: float,
    stopped: Callable[[], bool],
    advance: Callable[[int], None],
) -> None:
    """Answer what is pending, on all machines that can read images and model.

    Args:
        files: locked.
        load: returns a worker's segmenter.
        workers: number of workers.
        address: of a Ray cluster; None: RAY_ADDRESS, or one that is started here.
        num_gpus: GPUs per worker.
        stopped: ends the run after a part; what is in flight is dropped.
        advance: is called with the number of questions of each part.
    """
    import ray

    pending = batches(files.pending(), CHUNK)
    if not pending:
        return
    with connected(address, workers):
        items = [{"groups": _to_text(groups)} for groups in pending]
        groups = ray.data.from_items(items, override_num_blocks=min(len(items), workers * BLOCKS))
        answered = groups.map_batches(
            BatchWorker,
            fn_constructor_args=(load,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=num_gpus,
        )
        for row in answered.iter_rows():
            rows = json.loads(row["rows"])
            files.keep(rows)
            advance(len(rows))
            if stopped():
                return
