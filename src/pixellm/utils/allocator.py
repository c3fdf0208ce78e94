"""Memory allocator of the C library."""

import ctypes
from contextlib import suppress

M_MMAP_THRESHOLD = -3  # malloc.h
IMAGE_BYTES = 4 << 20  # the pixels of an image
TENSOR_BYTES = 128 << 10  # activations of a row; glibc's own least threshold


def return_freed_memory(least: int = IMAGE_BYTES) -> None:
    """Return blocks of at least `least` bytes to the system when they are freed.

    glibc otherwise raises its threshold to 32 MB by itself and keeps what is below, for each thread: a server that has
    answered twelve requests of 25 megapixels stays 0.9 GB larger.
    """
    with suppress(AttributeError):  # other C libraries
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, least)
