"""What the commands share that ask a server: options, progress with costs, and Ctrl-C."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pixellm.cli.common import FINISHING, INTERRUPTED, err_console

if TYPE_CHECKING:
    from pixellm.muse.cluster.driver import Followed
    from pixellm.muse.running import Run
    from pixellm.muse.server.budget import Budget
    from pixellm.muse.server.client import Client
    from pixellm.muse.server.settings import Settings

ServerModel = Annotated[str | None, typer.Option("--model", help="Its name at the server.")]
Url = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Base URL, http://host:port/v1; without it, the OpenAI API."),
]
Config = Annotated[
    Path | None, typer.Option("--config", exists=True, dir_okay=False, help="YAML with any of these, and prices.")
]
KeyFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="File that holds the key, in place of OPENAI_API_KEY."),
]
InFlight = Annotated[int | None, typer.Option(min=1, help="Requests at the same time (default 16).")]
PerMinute = Annotated[float | None, typer.Option(help="Requests that the server allows in a minute.")]
TokensPerMinute = Annotated[float | None, typer.Option(help="Tokens, in and out, that it allows in a minute.")]
MaxCost = Annotated[float | None, typer.Option(help="In the currency of --config: no request that might exceed it.")]
MaxTokens = Annotated[int | None, typer.Option(help="In and out: no request that might exceed it.")]


def settings_of(
    config: Path | None,
    model: str | None,
    server: str | None,
    key_file: Path | None,
    in_flight: int | None,
    per_minute: tuple[float | None, float | None],
    caps: tuple[float | None, int | None],
) -> "Settings":
    """What the options say, over what the file says; requests and tokens per minute, caps on cost and tokens."""
    from pixellm.muse.server.settings import Settings

    return Settings.read(
        config,
        **{"model": model, "url": server, "key_file": key_file, "in_flight": in_flight},
        **dict(zip(("requests_per_minute", "tokens_per_minute"), per_minute, strict=True)),
        **dict(zip(("max_cost", "max_tokens"), caps, strict=True)),
    )


class Running:
    """A bar with what was done and what it cost so far."""

    def __init__(self, what: str, total: int, done: int) -> None:
        self._progress = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(show_speed=True, text_format_no_percentage="", text_format="{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[more]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err_console,
            transient=True,
        )
        self._task = self._progress.add_task(what, total=total, completed=done, more="")

    def __enter__(self) -> "Running":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def at(self, done: int, more: str) -> None:
        self._progress.update(self._task, completed=done, more=more)

    def step(self, more: str = "") -> None:
        self._progress.update(self._task, advance=1, more=more)


def spent(budget: "Budget | None") -> str:
    """What answers cost so far, in words; nothing where nobody is paid."""
    return f"{budget.tokens:,} tokens  {budget.cost:,.4f} {budget.settings.currency}" if budget else ""


def complete(run: "Run", work: Coroutine[Any, Any, None], client: "Client | None") -> None:
    """Do asynchronous work; the first Ctrl-C stops the run, the second one drops what is in flight."""

    async def watched() -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def interrupted() -> None:
            run.stop(INTERRUPTED)
            err_console.print(FINISHING)
            loop.add_signal_handler(signal.SIGINT, task.cancel)

        loop.add_signal_handler(signal.SIGINT, interrupted)
        async with client or nullcontext():
            await work

    try:
        asyncio.run(watched())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except ExceptionGroup as group:  # of tasks that ran at the same time
        raise _first(group) from None


def report(run: "Run | Followed", budget: "Budget | None") -> Iterator[str]:
    """What is left for the next run, and what broke off and may be on the bill nevertheless."""
    for reason, count in run.failures.most_common(SHOWN):
        yield f"left for the next run: {count:,} · {reason}"
    if budget and budget.lost_calls:
        words = f"{budget.lost_calls:,} replies broke off and were asked for again"
        yield f"{words}: at most {budget.lost_cost:,.4f} {budget.settings.currency} more on the bill"


def leave(run: "Run | Followed") -> None:
    """With the exit code that says how a run ended."""
    if run.stopped == INTERRUPTED:
        raise KeyboardInterrupt
    if run.stopped:
        raise ValueError(run.stopped)
    raise typer.Exit(1 if run.failures else 0)


SHOWN = 5  # reasons


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
