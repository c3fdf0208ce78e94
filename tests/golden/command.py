"""The command line, run in this process: importing everything anew would take seconds each time."""

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from .internals import console_entry


def pixellm(*arguments: str | Path | int, code: int | None = 0) -> str:
    """Run a command as the console does; return what it printed.

    Args:
        arguments: of the command.
        code: the exit code that is expected; None: any.
    """
    printed = io.StringIO()
    with patch.object(sys, "argv", ["pixellm", *map(str, arguments)]), contextlib.redirect_stdout(printed):
        try:
            console_entry()
            found = 0
        except SystemExit as stop:
            found = stop.code or 0
    if code is not None and found != code:
        command = " ".join(map(str, arguments))
        raise RuntimeError(f"pixellm {command}: expected the exit code {code}, got {found}.\n{printed.getvalue()}")
    return printed.getvalue()


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, which is made if it is not there: what is written has no path of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        yield
