"""A worker process from the server's side: starting it, its two ends of the pipe, ending it."""

import asyncio
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing import Pipe
from queue import SimpleQueue
from typing import Any

from pixellm.serve.messages import Cancel, Job, Progress, Ready, Start

KILL_AFTER = 5.0  # seconds for a worker to end by itself


class WorkerProcess:
    """One life of a worker; made in the event loop whose `messages` it fills.

    Reading and writing have a thread each: pixels are megabytes, and a pipe may be full.
    """

    def __init__(self, start: Start) -> None:
        self.messages: asyncio.Queue[Ready | Progress | None] = asyncio.Queue()  # None: the process is gone
        self._loop = asyncio.get_running_loop()
        self._connection, theirs = Pipe()
        command = [sys.executable, "-m", "pixellm.serve.worker", str(theirs.fileno())]
        # In a session of its own, so that a Ctrl-C meant for the server does not reach it.
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        self._outbox: SimpleQueue[Start | Job | Cancel | None] = SimpleQueue()
        self._outbox.put(start)
        for target in (self._read, self._write):
            threading.Thread(target=target, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Job | Cancel) -> None:
        self._outbox.put(message)

    def kill(self) -> None:
        self._process.kill()

    async def close(self) -> int:
        """Let it end, by force if need be; its exit status."""
        self._outbox.put(None)
        try:
            return await asyncio.to_thread(self._process.wait, KILL_AFTER)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return await asyncio.to_thread(self._process.wait)

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._tell(self._connection.recv())
        self._tell(None)

    def _tell(self, message: Any) -> None:
        with suppress(RuntimeError):  # the loop may be closed already
            self._loop.call_soon_threadsafe(self.messages.put_nowait, message)

    def _write(self) -> None:
        with suppress(OSError):
            while (message := self._outbox.get()) is not None:
                self._connection.send(message)
        # Shut down rather than closed: the other thread is reading, and learns of the end by this.
        with suppress(OSError):
            self._shut()

    def _shut(self) -> None:
        import socket

        with socket.fromfd(self._connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as ours:
            ours.shutdown(socket.SHUT_RDWR)
