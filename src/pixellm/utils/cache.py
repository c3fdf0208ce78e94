"""Cache directories, built once for all processes; progress messages."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from pixellm.utils.files import atomic_directory, staging_prefix


def cache_dir() -> Path:
    """Return `$PIXELLM_CACHE`, else `$XDG_CACHE_HOME/pixellm`, else `~/.cache/pixellm`; it need not exist."""
    if own := os.environ.get("PIXELLM_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "pixellm"
    return Path.home() / ".cache" / "pixellm"


def build_once(target: Path, build: Callable[[Path, Path], None]) -> Path:
    """Make the directory `target` with `build(out_dir, scratch_dir)`, once for all processes that call this.

    `target` appears complete or not at all. A cache that cannot be written is a ValueError.
    """
    if target.is_dir():  # before the lock, so that a full cache may be read-only
        return target
    with locked(target):
        if target.is_dir():  # another process built it while we waited
            return target
        with (
            atomic_directory(target) as out,
            tempfile.TemporaryDirectory(prefix=staging_prefix(target), dir=target.parent) as scratch,
        ):
            build(out, Path(scratch))
    return target


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of a cache directory; the system releases it when the process ends, however it ends."""
    from filelock import FileLock, Timeout  # slow: it imports asyncio

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / f".{target.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with progress(f"waiting for another process that prepares {target.name}"):
                lock.acquire()
    except OSError as error:
        raise ValueError(
            f"expected a cache directory that can be written, got {target.parent} ({error.strerror or error}). "
            "Set PIXELLM_CACHE to a directory of yours."
        ) from error
    try:
        yield
    finally:
        lock.release()


def announce(message: str) -> None:
    """Print a line about the current work to stderr (libraries may draw their own bars)."""
    _console().print(message, soft_wrap=True)


@contextmanager
def progress(message: str) -> Iterator[None]:
    """Announce work that shows no progress of its own, with a spinner if stderr is a terminal."""
    console = _console()
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        announce(message)
        yield


def _console() -> Console:
    return Console(stderr=True, highlight=False, markup=False)
