"""Options, progress and Ctrl-C of the commands that ask a server."""

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
    from pixellm.muse.cluster.driver import ClusterResult
    from pixellm.utils.budget import Budget
    from pixellm.utils.job_runner import JobRunner
    from pixellm.utils.openai_client import ChatClient
    from pixellm.utils.server_settings import ServerSettings

ServerModel = Annotated[str | None, typer.Option("--model", help="Name of the model at the server.")]
Url = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Base URL, http://host:port/v1. Default: the OpenAI API."),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", exists=True, dir_okay=False, help="YAML file of server settings and prices."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="File that holds the key, in place of OPENAI_API_KEY."),
]
InFlight = Annotated[int | None, typer.Option(min=1, help="Number of requests at the same time. Default: 16.")]
PerMinute = Annotated[float | None, typer.Option(help="Limit requests per minute.")]
TokensPerMinute = Annotated[float | None, typer.Option(help="Limit tokens, in and out, per minute.")]
MaxCost = Annotated[float | None, typer.Option(help="Cap the total cost, in the currency of --config.")]
MaxTokens = Annotated[int | None, typer.Option(help="Cap the total number of tokens, in and out.")]
REASONS = 5  # that are printed


def settings_of(
    config: Path | None,
    model: str | None,
    server: str | None,
    key_file: Path | None,
    in_flight: int | None,
    per_minute: tuple[float | None, float | None],
    caps: tuple[float | None, int | None],
) -> "ServerSettings":
    """Return the settings file, overridden by options; requests and tokens per minute, caps on cost and tokens."""
    from pixellm.utils.server_settings import ServerSettings

    return ServerSettings.read(
        config,
        **{"model": model, "url": server, "key_file": key_file, "in_flight": in_flight},
        **dict(zip(("requests_per_minute", "tokens_per_minute"), per_minute, strict=True)),
        **dict(zip(("max_cost", "max_tokens"), caps, strict=True)),
    )


class ServerProgress:
    """Progress bar with tokens and cost."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self._progress = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(show_speed=True, text_format_no_percentage="", text_format="{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[more]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err_console,
            transient=True,
        )
        self._task = self._progress.add_task(title, total=total, completed=done, more="")

    def __enter__(self) -> "ServerProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def at(self, done: int, more: str) -> None:
        self._progress.update(self._task, completed=done, more=more)

    def step(self, more: str = "") -> None:
        self._progress.update(self._task, advance=1, more=more)


def spent(budget: "Budget | None") -> str:
    """Return tokens and cost so far, or an empty text without a budget."""
    return f"{budget.tokens:,} tokens  {budget.cost:,.4f} {budget.currency}" if budget else ""


def run(runner: "JobRunner", work: Coroutine[Any, Any, None], client: "ChatClient | None") -> None:
    """Run asynchronous work; the first Ctrl-C stops the runner, the second one drops jobs in flight."""

    async def watched() -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def interrupted() -> None:
            runner.stop(INTERRUPTED)
            err_console.print(FINISHING)
            loop.add_signal_handler(signal.SIGINT, task.cancel)

        loop.add_signal_handler(signal.SIGINT, interrupted)
        async with client or nullcontext():
            await work

    try:
        asyncio.run(watched())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def report(result: "JobRunner | ClusterResult") -> Iterator[str]:
    """Yield lines about failures."""
    for reason, count in result.failures.most_common(REASONS):
        yield f"left for the next run: {count:,} · {reason}"


def leave(result: "JobRunner | ClusterResult") -> None:
    """Exit with the code of how a run ended."""
    if result.stopped == INTERRUPTED:
        raise KeyboardInterrupt
    if result.stopped:
        raise ValueError(result.stopped)
    raise typer.Exit(1 if result.failures else 0)
