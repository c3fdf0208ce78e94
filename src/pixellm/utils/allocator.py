"""Memory allocator of the C library."""

import ctypes
from contextlib import suppress

M_MMAP_THRESHOLD = -3  # malloc.h
LARGE_BYTES = 4 << 20  # bytes of a block that is returned as soon as it is freed: the pixels of an image


def return_freed_memory() -> None:
    """Return large blocks to the system when they are freed.

    glibc otherwise raises its threshold to 32 MB by itself and keeps what is below, for each thread: a server that has
    answered twelve requests of 25 megapixels stays 0.9 GB larger.
    """
    with suppress(AttributeError):  # other C libraries
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
