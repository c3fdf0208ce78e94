"""`pixellm muse generate`: questions about photographs, from their instance masks."""

from collections.abc import Iterator
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from pixellm.cli import muse_server
from pixellm.cli.common import err_console, interrupting, print_lines
from pixellm.cli.muse_server import (
    Config,
    InFlight,
    KeyFile,
    MaxCost,
    MaxTokens,
    PerMinute,
    Running,
    ServerModel,
    TokensPerMinute,
    Url,
)

if TYPE_CHECKING:
    from rich.status import Status

    from pixellm.muse.journal import Journal
    from pixellm.muse.plan import Plan

QUESTIONS = {"template": 20, "server": 3, "vllm": 3}  # of a photograph, if not said otherwise


class EngineName(StrEnum):
    SERVER = "server"
    TEMPLATE = "template"
    RAY = "ray"


class Backend(StrEnum):
    SERVER = "server"
    TEMPLATE = "template"
    VLLM = "vllm"


class PromptName(StrEnum):
    BOXES = "boxes"
    CAPTIONS = "captions"
    DESCRIBE = "describe"


def generate(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", file_okay=False, help="Output: new, or of the same generation, to go on.")
    ],
    annotations: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="COCO or LVIS instances.")],
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="The folder of their photographs.")],
    engine: Annotated[
        EngineName, typer.Option(help="Who asks: a vision-language model behind a server, rules, or a Ray cluster.")
    ] = EngineName.SERVER,
    backend: Annotated[
        Backend, typer.Option(help="Of ray: whom its workers ask; vllm: models on the cluster's GPUs.")
    ] = Backend.SERVER,
    workers: Annotated[int, typer.Option(min=1, help="Of ray: processes, or GPUs for vllm.")] = 2,
    ray_address: Annotated[
        str | None, typer.Option(help="Of a cluster (default: RAY_ADDRESS, or one on this machine).")
    ] = None,
    prompt: Annotated[
        PromptName,
        typer.Option(help="Of the server: photograph and boxes, captions and boxes, or things described first."),
    ] = PromptName.BOXES,
    captions: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="COCO captions.")] = None,
    questions: Annotated[
        int | None, typer.Option(min=1, help="Of a photograph, at most (default: server 3, template 20).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what rules draw.")] = 0,
    min_area: Annotated[float, typer.Option(help="Smallest thing to ask about, in parts of the image.")] = 0.002,
    max_things: Annotated[int, typer.Option(help="Things of a photograph at most, the rarest.")] = 34,
    per_category: Annotated[int | None, typer.Option(help="Photographs of a category that are enough.")] = None,
    limit: Annotated[int | None, typer.Option(help="Photographs at most, those with the rarest things.")] = None,
    language: Annotated[str, typer.Option(help="Of the questions, as an ISO 639-1 code.")] = "en",
    model: ServerModel = None,
    server: Url = None,
    config: Config = None,
    key_file: KeyFile = None,
    in_flight: InFlight = None,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask nothing: count, and estimate the cost.")] = False,
) -> None:
    """Ask about the things in photographs: questions for several of them that take reasoning, with answers.

    What is finished is on disk at once: after an interruption the same command goes on.
    """
    from pixellm.muse.plan import Plan
    from pixellm.muse.selection import Rules

    settings, asked = None, backend.value if engine is EngineName.RAY else engine.value
    if asked != "template":
        limits = (requests_per_minute, tokens_per_minute), (max_cost, max_tokens)
        settings = muse_server.settings_of(config, model, server, key_file, in_flight, *limits)
    rules = Rules(min_area, max_things, per_category, limit)
    count = questions or QUESTIONS[asked]
    plan = Plan(annotations, images, captions, rules, count, language, settings, prompt.value, seed)
    if dry_run:
        with TemporaryDirectory() as folder, _reading(), plan.source(Path(folder)) as source:
            print_lines(*plan.estimate(source).lines())
    elif engine is EngineName.RAY:
        _generate_on_cluster(directory, plan, workers, ray_address, backend is Backend.VLLM)
    else:
        _generate(directory, plan)


def _generate(directory: Path, plan: "Plan") -> None:
    from pixellm.muse.calls import JournalCalls
    from pixellm.muse.generate import Generation
    from pixellm.muse.journal import Journal

    _begin(directory, plan)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(directory, plan.about()))
        with _reading():
            source = stack.enter_context(plan.source(directory))
        budget = plan.budget(journal)
        client = plan.client(budget)
        with Running("asking", plan.rules.images or source.count(), journal.totals()[0]) as bar:
            generation = Generation(
                plan.engine(client, JournalCalls(journal)),
                *(journal, plan.checks(source), plan.in_flight),
                lambda records: bar.step(f"{records:,} records  {muse_server.spent(budget)}"),
            )
            muse_server.complete(generation.run, generation.all(plan.selection(source)), client)
        print_lines(*_report(journal, generation.records), *muse_server.report(generation.run, budget))
    muse_server.leave(generation.run)


def _generate_on_cluster(directory: Path, plan: "Plan", workers: int, address: str | None, vllm: bool) -> None:
    from pixellm.muse.cluster.driver import Cluster
    from pixellm.muse.cluster.vllm import processor
    from pixellm.muse.journal import Journal

    _begin(directory, plan)
    with Journal(directory, plan.about()) as journal, _reading(), plan.source(directory) as source:
        (done, before), total = journal.totals(), plan.rules.images or source.count()
    cluster = Cluster(plan, directory, workers, address, processor if vllm else None)
    with Running("asking", total, done) as bar, interrupting(cluster.stop):
        found = cluster.run(
            lambda images, records, budget: bar.at(images, f"{records:,} records  {muse_server.spent(budget)}")
        )
    with Journal(directory) as journal:
        print_lines(*_report(journal, journal.totals()[1] - before), *muse_server.report(found, found.budget))
    muse_server.leave(found)


def _begin(directory: Path, plan: "Plan") -> None:
    """A source that can't be read leaves no journal, which would refuse the right one afterwards."""
    from pixellm.muse.journal import FILE

    if not (directory / FILE).is_file():
        with _reading():
            plan.source(directory).close()


def _reading() -> "Status":
    return err_console.status("reading annotations")


def _report(journal: "Journal", new: int) -> Iterator[str]:
    images, records = journal.totals()
    counts = journal.counts()
    calls, tokens_in, tokens_out, cost = journal.spent()
    asked = images - counts["skipped"].total()
    yield f"{records:,} records of {asked:,} photographs, {new:,} of them new"
    for title, key in (("photographs", "skipped"), ("things", "left_out"), ("records", "rejected")):
        yield from (f"{title} left out: {count:,} · {reason}" for reason, count in counts[key].most_common() if count)
    if calls:
        yield f"{calls:,} replies: {tokens_in:,} tokens in, {tokens_out:,} tokens out, {cost:,.4f}"
