"""Writing files so that nobody ever sees half of one, and no two write the same."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place once it is whole; after an error `path` is as it was."""
    path = path.resolve()  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")  # the same suffix: it says the format
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While this process has `path`, which need not be there yet, for itself; a file beside it says so.

    Raises:
        ValueError: another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"expected to work on {path} alone, but another process does. Wait for it.") from None
    try:
        yield
    finally:
        # While it is held: whoever opened it before finds out and opens another. Later, it might be theirs already.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A directory to write in, which becomes `out` once everything is there.

    Raises:
        ValueError: something is in `out` already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"expected a new or empty directory to write to, got {out}. Give another one.")
    out = out.resolve()  # without a dot or a link at the end
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if out.is_dir():
            out.rmdir()
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
