"""Command line: one function per subcommand.

torch and transformers are imported inside the functions, so that `--help` and mistakes answer at once.
"""

import errno
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from pixellm.cli.common import collect_less, debugging, err_console, out_console, quieten_transformers
from pixellm.utils.extras import missing_package

if TYPE_CHECKING:
    app: typer.Typer  # with all commands

# The panels of `pixellm --help`: each command, and where in this package its function or group is. Only what is called
# is imported: all of them take a tenth of a second.
PANELS = {
    "Ask": {
        "ask": "ask:ask",
        "examples": "ask:examples",
        "batch": "batch:batch",
        "export": "export:export",
        "attention": "ask:attention",
    },
    "Data": {"data": "data:app", "muse": "muse:app"},
    "Train and evaluate": {
        "train": "training:train",
        "eval": "scoring:evaluate",
        "score": "scoring:score",
        "questions": "scoring:questions",
        "predictions": "predictions:predictions",
        "compare": "training:compare",
    },
    "Serve": {
        "serve": "serve:serve",
        "web": "serve:web",
        "mcp": "mcp:mcp",
        "label-studio": "label_studio:label_studio",
        "corrections": "corrections:app",
    },
    "Models": {"models": "models:app", "init": "init:init", "convert": "models:convert", "cost": "cost:cost"},
}


class Panels(TyperGroup):
    """Commands in the order of `PANELS`; typer lists groups last."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        """Return the names of the commands that are registered."""
        return [name for commands in PANELS.values() for name in commands if name in self.commands]


def command_line(called: str | None = None) -> typer.Typer:
    """Return the command line: the command `called` alone, or where there is none of that name, all of them."""
    app = typer.Typer(
        cls=Panels,
        help="Answer questions about an image with text and one mask for each object that the text names.",
        epilog="Start with: pixellm ask example:cat 'Segment the cat.'",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    known = any(called in commands for commands in PANELS.values())
    for panel, commands in PANELS.items():
        for name, place in commands.items():
            if known and name != called:
                continue
            module, attribute = place.split(":")
            command = getattr(import_module(f"{__name__}.{module}"), attribute)
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=name, rich_help_panel=panel)
            else:
                app.command(name, rich_help_panel=panel)(command)
    return app


def __getattr__(name: str) -> object:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = command_line()
    return globals()[name]


INTERRUPTED = 130  # exit code that shells report for Ctrl-C
ROOM = "Make room, or write elsewhere, and run it again: no file is half-written, and what resumes goes on."
ADVICE = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: ROOM,
    errno.ENOTDIR: "A part of the path is a file: choose a path below directories.",
    errno.EEXIST: "A file is in the place of a directory: choose another path.",
    errno.ELOOP: "A link in the path leads back to itself: remove it, or choose another path.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EROFS: "Write to a disk that is not read-only.",
}


def _show_version(wanted: bool) -> None:
    if wanted:
        from pixellm import __version__

        out_console.print(f"pixellm {__version__}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    quieten_transformers()


def _fail(message: str, code: int) -> None:
    err_console.print(message, style="red")
    sys.exit(code)


def _describe(error: OSError) -> str:
    """Say which file the system refused, why, and what to do."""
    advice = ADVICE.get(error.errno or 0, "Check the path and its permissions.")
    name = f", got {error.filename}" if error.filename else ""
    return f"expected a file or directory that can be used{name}: {error.strerror}. {advice}"


def _report_thread(failure: threading.ExceptHookArgs) -> None:
    """Report the failure of a thread, such as TensorBoard's writer on a full disk, in one line."""
    if debugging():
        threading.__excepthook__(failure)
    else:
        err_console.print(f"{failure.exc_type.__name__}: {failure.exc_value}", style="red")


def main() -> None:
    """Run the command line: errors are one line on stderr, or a traceback with PIXELLM_DEBUG=1."""
    collect_less()
    threading.excepthook = _report_thread
    try:
        command_line(sys.argv[1] if len(sys.argv) > 1 else None)()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            err_console.print("interrupted")
        raise
    except Exception as error:
        if debugging():
            raise
        if isinstance(error, ValueError):
            _fail(f"Error: {error}", 2)
        if isinstance(error, ModuleNotFoundError) and (missing := missing_package(error)):
            _fail(f"Error: {missing}", 2)
        if isinstance(error, OSError) and error.strerror:
            _fail(f"Error: {_describe(error)}", 1)
        import sqlite3

        if isinstance(error, sqlite3.OperationalError):
            _fail(f"Error: expected a journal that can be written, got: {error}. {ROOM}", 1)
        _fail(f"{type(error).__name__}: {error}\nPIXELLM_DEBUG=1 shows where this happened.", 1)
