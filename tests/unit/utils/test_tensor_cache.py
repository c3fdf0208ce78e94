"""Tensors on disk: what is read is what was written, the bound, damaged files, writers that were killed, processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from pixellm.utils.tensor_cache import ABANDONED, TensorCache

FILE = 1000  # bytes, about, of each value below with its header


def value(number: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((200,), float(number)), "b": torch.arange(3, dtype=torch.bfloat16)}


def key(number: int) -> str:
    return f"{number:02}key"


def held(cache: TensorCache) -> set[str]:
    return {path.stem for path in cache.directory.glob("??/*.safetensors")}


def test_what_is_read_is_what_was_written(tmp_path):
    cache = TensorCache(tmp_path / "c", 10**6)
    assert cache.read(key(1)) is None
    cache.write(key(1), value(1))
    for reader in (cache, TensorCache(tmp_path / "c", 10**6)):
        stored = reader.read(key(1))
        assert stored is not None
        assert all(torch.equal(stored[name], tensor) for name, tensor in value(1).items())
        assert stored["b"].dtype == torch.bfloat16


def test_what_was_read_longest_ago_goes_first(tmp_path):
    cache = TensorCache(tmp_path, 5 * FILE)
    for number in range(4):
        cache.write(key(number), value(number))
        path = cache._path(key(number))
        os.utime(path, (number, number))
    assert cache.read(key(0)) is not None  # now it was read last
    for number in range(4, 6):
        cache.write(key(number), value(number))
    assert key(0) in held(cache)
    assert key(1) not in held(cache)
    assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) <= 5 * FILE
    TensorCache(tmp_path, FILE)  # a smaller bound holds from the start
    assert len(held(cache)) <= 1


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path):
    cache = TensorCache(tmp_path, 10)
    cache.write(key(1), value(1))
    assert held(cache) == set()


def test_a_damaged_file_counts_as_none(tmp_path):
    cache = TensorCache(tmp_path, 10**6)
    cache.write(key(1), value(1))
    cache._path(key(1)).write_bytes(b"\0" * 20)
    assert cache.read(key(1)) is None
    cache.write(key(1), value(1))
    assert cache.read(key(1)) is not None


def test_what_a_killed_writer_left_is_deleted_later(tmp_path):
    cache = TensorCache(tmp_path, 10**6)
    cache.write(key(1), value(1))
    left = tmp_path / "00" / ".123-00key.safetensors"
    left.parent.mkdir()
    left.write_bytes(b"half")
    TensorCache(tmp_path, 10**6)
    assert left.exists()  # perhaps somebody writes it
    os.utime(left, (0, time.time() - ABANDONED - 1))
    TensorCache(tmp_path, 10**6)
    assert not left.exists()
    assert cache.read(key(1)) is not None


WRITER = """
import sys, torch
from pixellm.utils.tensor_cache import TensorCache
cache = TensorCache(__import__("pathlib").Path(sys.argv[1]), 20_000)
print("ready", flush=True)
number = 0
while True:
    number = (number + 1) % 40
    stored = cache.read(f"{number:02}key")
    assert stored is None or bool((stored["a"] == number).all()), number
    cache.write(f"{number:02}key", {"a": torch.full((200,), float(number))})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_processes_that_are_killed_leave_whole_files(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    time.sleep(0.5)
    assert all(writer.poll() is None for writer in writers)  # no read found another's half
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert writer.stdout is not None
        writer.stdout.close()
    cache = TensorCache(tmp_path, 20_000)
    kept = held(cache)
    assert kept
    for name in kept:
        stored = cache.read(name)
        assert stored is not None
        assert bool((stored["a"] == int(name[:2])).all())
