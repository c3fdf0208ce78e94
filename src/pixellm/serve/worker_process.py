"""Worker process as seen by the server: start, messages, end."""

import asyncio
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing import Pipe
from queue import SimpleQueue
from typing import Any

from pixellm.serve.messages import CancelJob, ImageJob, Progress, WorkerFailed, WorkerReady, WorkerSettings

KILL_AFTER = 5.0  # seconds for a worker to exit by itself


class WorkerProcess:
    """Running worker process; create it in the event loop that reads `messages`.

    Reading and writing have a thread each: images are megabytes, and a pipe may be full.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.messages: asyncio.Queue[WorkerReady | WorkerFailed | Progress | None] = (
            asyncio.Queue()
        )  # None: the process has ended
        self._loop = asyncio.get_running_loop()
        self._connection, worker_end = Pipe()
        command = [sys.executable, "-m", "pixellm.serve.worker", str(worker_end.fileno())]
        # A session of its own keeps a Ctrl-C that is meant for the server away from it.
        self._process = subprocess.Popen(command, pass_fds=[worker_end.fileno()], start_new_session=True)
        worker_end.close()
        self._outbox: SimpleQueue[WorkerSettings | ImageJob | CancelJob | None] = SimpleQueue()
        self._outbox.put(settings)
        for target in (self._read, self._write):
            threading.Thread(target=target, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ImageJob | CancelJob) -> None:
        self._outbox.put(message)

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        """Ask the process to exit."""
        self._outbox.put(None)

    async def close(self) -> int:
        """Stop the process, by force if it does not exit in time; return its exit status."""
        self.stop()
        try:
            return await asyncio.to_thread(self._process.wait, KILL_AFTER)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return await asyncio.to_thread(self._process.wait)

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._deliver(self._connection.recv())
        self._deliver(None)

    def _deliver(self, message: Any) -> None:
        with suppress(RuntimeError):  # the loop may be closed
            self._loop.call_soon_threadsafe(self.messages.put_nowait, message)

    def _write(self) -> None:
        with suppress(OSError):
            while (message := self._outbox.get()) is not None:
                self._connection.send(message)
                del message  # an image is megabytes, and the next one may come in an hour
        # Shut down rather than closed: this ends the read of the other thread.
        with (
            suppress(OSError),
            socket.fromfd(self._connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as server_end,
        ):
            server_end.shutdown(socket.SHUT_RDWR)
