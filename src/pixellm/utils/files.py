"""Atomic writes of files and directories, and exclusive locks between processes."""

import errno
import hashlib
import os
import shutil
import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def real_path(path: Path) -> Path:
    """Return the absolute path without links; an OSError with the path if they lead in a circle."""
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return real


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside the file `path` and rename it at the end; after an error `path` is as it was."""
    path = real_path(path)  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")  # the same suffix: it says the format
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_lines(path: Path) -> list[tuple[int, bytes]]:
    """Return the lines of a file that are not blank, with their numbers from 1; undecoded, for one may be no UTF-8."""
    lines = path.read_bytes().removeprefix(BOM_UTF8).split(b"\n")
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `out` and rename it to `out` at the end; after an error nothing is left.

    What killed processes left beside `out` is deleted first.

    Raises:
        ValueError: `out` exists and is not an empty directory.
    """
    from filelock import FileLock  # slow: it imports asyncio

    expect_empty(out)
    out = real_path(out)  # without a dot or a link at the end
    out.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(out)
    staging = Path(tempfile.mkdtemp(prefix=staging_prefix(out), dir=out.parent))
    with FileLock(staging / "lock"):  # while it is held, nobody takes the directory for a leftover
        try:
            temporary = staging / "out"  # with the rights that the umask gives; those of `staging` are 0700
            temporary.mkdir()
            yield temporary
            make_readable(temporary)
            if out.is_dir():
                out.rmdir()
            temporary.rename(out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def expect_empty(out: Path) -> None:
    """Raise a ValueError if `out` exists and is not an empty directory."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"expected a new or empty directory to write to, got {out}. Give another one.")


def staging_prefix(out: Path) -> str:
    """Return how the names of the temporary directories begin in which `out` is written."""
    return f".{out.name}.tmp-"


def clear_leftovers(out: Path) -> None:
    """Delete the temporary directories beside `out` that no living process writes."""
    from filelock import FileLock, Timeout

    for stale in out.parent.glob(staging_prefix(out) + "*"):
        with suppress(Timeout), FileLock(stale / "lock", timeout=0):
            shutil.rmtree(stale)


def content_digest(directory: Path, memo: Path) -> str:
    """Return the SHA-256 of the names and contents of a directory's files, without those that begin with a dot.

    The contents are read only where a file changed since the last time, which the file `memo` keeps: size, times and
    number of a file tell, as they tell git. Where `memo` can't be written, they are read each time.
    """
    files = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    states = [(file, file.stat()) for file in files]
    seen = [(str(f), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for f, s in states]
    key = hashlib.sha256(repr(seen).encode()).hexdigest()
    with suppress(OSError, ValueError):
        known, digest = memo.read_text(encoding="utf-8").split()
        if known == key:
            return digest
    whole = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        whole.update(f"{file.relative_to(directory).as_posix()}\0{len(content)}\0".encode())
        whole.update(content)
    if memo.parent.is_dir():
        with suppress(OSError):
            write_text(memo, f"{key} {whole.hexdigest()}\n")
    return whole.hexdigest()


def directory_size(directory: Path) -> int:
    """Count the bytes in a directory; files removed meanwhile count nothing."""
    sizes = 0
    for file in directory.rglob("*"):
        with suppress(FileNotFoundError):
            sizes += file.stat().st_size if file.is_file() else 0
    return sizes


def make_readable(directory: Path) -> None:
    """Give the files the read permissions of their directory: safetensors writes 0600, useless in a shared cache."""
    readers = directory.stat().st_mode & 0o444
    for file in directory.rglob("*"):
        file.chmod(file.stat().st_mode | readers)


@contextmanager
def exclusive_lock(path: Path, wait: float = 0) -> Iterator[None]:
    """Hold `path`, which need not exist yet, for this thread; a lock file beside it says so.

    Args:
        path: file or directory.
        wait: seconds until whoever holds it has to be done.

    Raises:
        ValueError: another process or thread holds it.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise ValueError(f"expected to work on {path} alone, but another process does. Wait for it.") from None
    try:
        yield
    finally:
        # While it is held: whoever opened it before finds out and opens another. Later, it might be theirs already.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
