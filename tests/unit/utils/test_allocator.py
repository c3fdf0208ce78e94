"""Freed memory goes back to the system, whatever lies around it."""

import platform
import subprocess
import sys

import pytest

HOLES = """
import sys
from pathlib import Path
from pixellm.utils.allocator import TENSOR_BYTES, return_freed_memory

if sys.argv[1] == "returned":
    return_freed_memory(TENSOR_BYTES)
del_me = bytearray(16 << 20)
del del_me  # now glibc keeps blocks of up to so many bytes
blocks = [bytearray(b"x" * (1 << 20)) for _ in range(64)]
del blocks[::2]
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_blocks_between_others_are_returned():
    kept, returned = (
        float(subprocess.run([sys.executable, "-c", HOLES, way], capture_output=True, check=True).stdout)
        for way in ("kept", "returned")
    )
    assert kept - returned > 24  # MB, of 32 that were freed
