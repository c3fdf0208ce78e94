"""Directories in the cache: built once, complete or absent, however many processes ask for one."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console


def cache_dir() -> Path:
    """`$PIXELLM_CACHE`, else `$XDG_CACHE_HOME/pixellm`, else `~/.cache/pixellm`. Not created here."""
    if own := os.environ.get("PIXELLM_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "pixellm"
    return Path.home() / ".cache" / "pixellm"


def build_once(target: Path, build: Callable[[Path, Path], None]) -> Path:
    """Make the directory `target` with `build(out_dir, scratch_dir)`, once, however many processes ask for it.

    `target` appears complete or not at all: the work happens in a temporary directory beside it, renamed at the end.
    What a killed process left behind is cleared by the next one that builds: it holds the lock, so nobody else does.
    A cache that cannot be written is a ValueError.
    """
    if target.is_dir():  # before the lock, so that a full cache may be read-only
        return target
    with locked(target):
        if target.is_dir():  # another process built it while we waited
            return target
        clear_leftovers(target)
        staging = Path(tempfile.mkdtemp(prefix=staging_prefix(target), dir=target.parent))
        try:
            out, scratch = staging / "out", staging / "scratch"
            out.mkdir()
            scratch.mkdir()
            build(out, scratch)
            make_readable(out)
            out.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of one cache directory. The system releases it when the process dies, however it dies."""
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


def clear_leftovers(target: Path) -> None:
    """Delete the temporary directories that killed builds of `target` left. Only under its lock."""
    for stale in target.parent.glob(staging_prefix(target) + "*"):
        shutil.rmtree(stale)


def announce(message: str) -> None:
    """One line on stderr about what is being done (the libraries below may draw their own bars)."""
    _console().print(message, soft_wrap=True)


@contextmanager
def progress(message: str) -> Iterator[None]:
    """`announce`, with a spinner where stderr is a terminal: for what shows no progress of its own."""
    console = _console()
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        announce(message)
        yield


def _console() -> Console:
    return Console(stderr=True, highlight=False, markup=False)


def make_readable(directory: Path) -> None:
    """Let those read the files whom the user's umask allows: safetensors writes 0600, useless in a shared cache."""
    readers = directory.stat().st_mode & 0o444
    for file in directory.rglob("*"):
        file.chmod(file.stat().st_mode | readers)


def staging_prefix(target: Path) -> str:
    return f".{target.name}.tmp-"
