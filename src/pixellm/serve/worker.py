"""Worker process that runs the model: `python -m pixellm.serve.worker FD`, where FD is its end of a pipe.

Whatever kills it (memory, a driver, a kernel) leaves the server alive to report it and to start another worker. It
exits with the server, however the server ends.
"""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue

from pixellm.inference.base_predictor import BasePredictor
from pixellm.serve.engine import InferenceEngine
from pixellm.serve.messages import CancelJob, ImageJob, Progress, WorkerFailed, WorkerReady, WorkerSettings

logger = logging.getLogger(__name__)
Inbox = SimpleQueue[ImageJob | CancelJob | None]  # None: the server has exited


def run(connection: Connection) -> None:
    """Load the model named by the first message, then answer jobs until the pipe is closed."""
    settings = connection.recv()
    assert isinstance(settings, WorkerSettings)
    try:
        engine = InferenceEngine(_load(settings), settings)
    except Exception as error:  # whatever is wrong with a checkpoint: the server says it, and the log has all of it
        connection.send(WorkerFailed(str(error)))
        raise
    inbox: Inbox = SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    connection.send(WorkerReady(engine.predictor.takes_prompts))
    for message in _inputs(inbox, engine):
        if isinstance(message, ImageJob):
            engine.submit(message)
            continue
        if isinstance(message, CancelJob):
            events, rows = engine.cancel(message.job_id), 0
        else:
            events, rows = engine.step()
        connection.send(Progress(tuple(events), rows, round(engine.cache.currsize)))


def _load(settings: WorkerSettings) -> BasePredictor:
    if settings.runtime == "onnx":
        from pixellm.loading import load_graphs

        return load_graphs(settings.model)
    import torch
    from transformers.utils import logging as transformers_logging

    from pixellm.segmenter import load

    transformers_logging.disable_progress_bar()
    return load(settings.model, settings.device, getattr(torch, settings.dtype), quantize=settings.quantize)


def _inputs(inbox: Inbox, engine: InferenceEngine) -> Iterator[ImageJob | CancelJob | None]:
    """Yield messages as they arrive; None if there is none and the engine has work to do."""
    while True:
        if inbox.empty() and not engine.idle:
            yield None
            continue
        message = inbox.get()
        if message is None:
            return
        yield message


def _read(connection: Connection, inbox: Inbox) -> None:
    with suppress(EOFError, OSError):
        while True:
            inbox.put(connection.recv())
    inbox.put(None)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server handles Ctrl-C and lets answers finish
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker: %(message)s", datefmt="%H:%M:%S")
    with suppress(BrokenPipeError, ConnectionResetError):
        run(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
