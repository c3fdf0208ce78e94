"""The process that holds the model: `python -m pixellm.serve.worker FD`, where FD is its end of a pipe.

A process of its own, so that whatever brings it down (memory, a driver, a kernel) leaves the server alive to say so and
to start another; and it ends when the server does, however that ends.
"""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue

import torch
from transformers.utils import logging as transformers_logging

from pixellm.predictor import Predictor
from pixellm.serve.engine import Engine
from pixellm.serve.messages import Cancel, Job, Progress, Ready, Start

logger = logging.getLogger(__name__)
Inbox = SimpleQueue[Job | Cancel | None]  # None: the server is gone


def run(connection: Connection) -> None:
    """Load the model that the first message names, then answer until the pipe is closed."""
    start = connection.recv()
    assert isinstance(start, Start)
    dtype = getattr(torch, start.dtype)
    predictor = Predictor.load(start.model, start.device, dtype, quantize=start.quantize)
    engine = Engine(predictor, start.batch_size, start.cache_bytes, start.max_prompt_tokens, start.joint)
    inbox: Inbox = SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    connection.send(Ready())
    for message in _inputs(inbox, engine):
        if isinstance(message, Job):
            engine.submit(message)
            continue
        if isinstance(message, Cancel):
            items, rows = engine.cancel(message.job_id), 0
        else:
            items, rows = engine.step()
        connection.send(Progress(tuple(items), rows, engine.cache.nbytes))


def _inputs(inbox: Inbox, engine: Engine) -> Iterator[Job | Cancel | None]:
    """Messages as they come; None: there are no more for now, and something is left to do."""
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which lets answers finish
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker: %(message)s", datefmt="%H:%M:%S")
    transformers_logging.disable_progress_bar()
    with suppress(BrokenPipeError, ConnectionResetError):
        run(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
