"""Tensors on disk by key: bounded, shared by processes, safe to kill at any time.

A file for each key, written beside its place and renamed. What was read longest ago is deleted first.
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pixellm.utils.files import atomic_write

SUFFIX = ".safetensors"
ROOM = 0.1  # share of the limit that is made free at once, so that not every write looks at all files
ABANDONED = 3600  # seconds after which a file that is being written has no writer any more


class TensorCache:
    """A directory of tensors.

    Args:
        directory: created if it is not there. Files in it that are not of a cache stay.
        limit: bytes of all files together; several processes may exceed it by what each writes at once.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.limit = directory, limit
        self._size = self._evict()

    def read(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors of a key; None if there are none, or only a damaged file."""
        path = self._path(key)
        try:
            tensors = load_file(path)
            os.utime(path)  # read last
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError):
            path.unlink(missing_ok=True)
            return None
        return tensors

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store the tensors of a key; what is larger than the limit is not kept."""
        if sum(tensor.nbytes for tensor in tensors.values()) > self.limit:
            return
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
            self._size += temporary.stat().st_size
        if self._size > self.limit:
            self._size = self._evict()

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}{SUFFIX}"

    def _evict(self) -> int:
        """Delete files until the rest is within the limit; return the bytes of the rest."""
        lock = FileLock(self.directory / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:  # another process does
            return round(self.limit * (1 - ROOM))
        try:
            return self._deleted_down_to(round(self.limit * (1 - ROOM)))
        finally:
            lock.release()

    def _deleted_down_to(self, bound: int) -> int:
        files = []
        for path in self.directory.glob(f"??/*{SUFFIX}"):
            with suppress(FileNotFoundError):
                state = path.stat()
                if path.name.startswith("."):
                    if time.time() - state.st_mtime > ABANDONED:
                        path.unlink()
                    continue
                files.append((state.st_mtime_ns, state.st_size, path))
        total = sum(size for _, size, _ in files)
        if total <= self.limit:
            return total
        for _, size, path in sorted(files):
            if total <= bound:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total
