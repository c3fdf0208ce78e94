"""Decoder processes as seen by the server: started ahead, used in turn, killed at any time."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # threads reserve address space


@dataclass(frozen=True)
class Decoded:
    """Answer of a decoder process: `fields` are None if the function failed."""

    fields: list[Any] | None
    content: bytes = field(repr=False)
    warnings: int


class DecoderProcess:
    """Process of `pixellm.serve.decoding`; images and pixels pass through a shared file, the rest through pipes.

    Of what a process that reads hostile files sends, the server parses JSON only.
    """

    def __init__(self, process: asyncio.subprocess.Process, shared_file: int) -> None:
        self._process, self._file = process, shared_file

    @classmethod
    async def start(cls, memory: int) -> "DecoderProcess":
        file = _file_in_memory()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pixellm.serve.decoding", str(file), str(memory)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ONE_THREAD},
            pass_fds=[file],
            start_new_session=True,  # a Ctrl-C is meant for the server
        )
        return cls(process, file)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def call(self, function: str, data: bytes) -> Decoded:
        """Run a function of `decoding` on an image; ConnectionError if the process dies of it."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        if not self.alive or stdin.is_closing():
            raise ConnectionResetError("the decoder process has died")
        os.pwrite(self._file, data, 0)
        stdin.write(json.dumps({"function": function, "bytes": len(data)}).encode() + b"\n")
        await stdin.drain()
        line = await stdout.readline()
        answer = json.loads(line) if line else {"bytes": -1}
        content = os.pread(self._file, max(0, answer["bytes"]), 0)
        if len(content) != answer["bytes"]:
            raise ConnectionResetError("the decoder process has died")
        os.ftruncate(self._file, 0)
        return Decoded(answer["fields"], content, answer["warnings"])

    def kill(self) -> None:
        """Kill the process; it can't be used after that."""
        if self.alive:
            self._process.kill()
        os.close(self._file)

    async def wait(self) -> None:
        await self._process.wait()


class DecoderProcesses:
    """Pool of decoder processes: one for each call at a time.

    Args:
        memory: bytes that a process may take beyond those of its start.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.idle: list[DecoderProcess] = []

    async def warm(self, number: int) -> None:
        """Start processes ahead of the first calls."""
        self.idle += await asyncio.gather(*(DecoderProcess.start(self.memory) for _ in range(number)))

    async def call(self, function: str, data: bytes) -> Decoded:
        """Run a function of `decoding` on an image; a caller that is cancelled kills the process.

        Raises:
            ConnectionError: the image kills the process.
        """
        while self.idle:
            with suppress(ConnectionError):  # it may have died before
                return await self._call(self.idle.pop(), function, data)
        return await self._call(await DecoderProcess.start(self.memory), function, data)

    async def _call(self, process: DecoderProcess, function: str, data: bytes) -> Decoded:
        try:
            decoded = await process.call(function, data)
        except BaseException:
            process.kill()
            raise
        self.idle.append(process)
        return decoded

    async def close(self) -> None:
        """Kill the processes that wait for a call."""
        while self.idle:
            process = self.idle.pop()
            process.kill()
            await process.wait()


def _file_in_memory() -> int:
    """Return the descriptor of a new file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("image")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
