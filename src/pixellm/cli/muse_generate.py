"""`pixellm muse generate`: questions about images, from their instance masks."""

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
    ServerModel,
    ServerProgress,
    TokensPerMinute,
    Url,
)

if TYPE_CHECKING:
    from rich.status import Status

    from pixellm.muse.journal import Journal
    from pixellm.muse.plan import GenerationPlan

QUESTIONS = {"template": 20, "server": 3, "vllm": 3}  # about an image, by default


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


OutputDirectory = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", file_okay=False, help="Output directory: new, or of the same generation, to resume it."
    ),
]
Annotations = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="JSON file of COCO or LVIS instances.")]
EngineOption = Annotated[
    EngineName,
    typer.Option(help="Engine: a vision-language model behind a server, rules, or a Ray cluster of either."),
]
BackendOption = Annotated[Backend, typer.Option(help="Backend of ray: a server, rules, or vllm on the cluster's GPUs.")]
RayAddress = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster. Default: RAY_ADDRESS, or one on this machine.")
]
PromptOption = Annotated[
    PromptName,
    typer.Option(help="Prompt: image and boxes, captions and boxes, or objects described first."),
]
Captions = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="JSON file of COCO captions.")]
Questions = Annotated[
    int | None,
    typer.Option(min=1, help="Number of questions about an image at most. Default: server 3, template 20."),
]
MinArea = Annotated[float, typer.Option(help="Smallest instance to ask about, as a fraction of the image.")]
Limit = Annotated[int | None, typer.Option(help="Number of images at most, those with the rarest categories.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count images, and estimate the cost, without asking.")]


def generate(
    directory: OutputDirectory,
    annotations: Annotations,
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the annotated images.")],
    engine: EngineOption = EngineName.SERVER,
    backend: BackendOption = Backend.SERVER,
    workers: Annotated[int, typer.Option(min=1, help="Number of Ray workers (GPUs with --backend vllm).")] = 2,
    ray_address: RayAddress = None,
    prompt: PromptOption = PromptName.BOXES,
    captions: Captions = None,
    questions: Questions = None,
    seed: Annotated[int, typer.Option(help="Sampling seed of the rules.")] = 0,
    min_area: MinArea = 0.002,
    max_instances: Annotated[int, typer.Option(help="Number of instances of an image at most, the rarest.")] = 34,
    per_category: Annotated[int | None, typer.Option(help="Number of images that are enough for a category.")] = None,
    limit: Limit = None,
    language: Annotated[str, typer.Option(help="Language of the questions, an ISO 639-1 code.")] = "en",
    model: ServerModel = None,
    server: Url = None,
    config: Config = None,
    key_file: KeyFile = None,
    in_flight: InFlight = None,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    dry_run: DryRun = False,
) -> None:
    """Generate questions about several instances of an image that take reasoning, with answers.

    Every finished image is on disk at once: after an interruption the same command resumes.
    """
    from pixellm.muse.plan import GenerationPlan
    from pixellm.muse.selection import SelectionRules

    settings, source = None, backend.value if engine is EngineName.RAY else engine.value
    if source != "template":
        limits = (requests_per_minute, tokens_per_minute), (max_cost, max_tokens)
        settings = muse_server.settings_of(config, model, server, key_file, in_flight, *limits)
    rules = SelectionRules(min_area, max_instances, per_category, limit)
    count = questions or QUESTIONS[source]
    plan = GenerationPlan(annotations, images, captions, rules, count, language, settings, prompt.value, seed)
    if dry_run:
        with TemporaryDirectory() as folder, _reading(), plan.index(Path(folder)) as index:
            print_lines(*plan.estimate(index).lines())
    elif engine is EngineName.RAY:
        _generate_on_cluster(directory, plan, workers, ray_address, backend is Backend.VLLM)
    else:
        _generate(directory, plan)


def _generate(directory: Path, plan: "GenerationPlan") -> None:
    from pixellm.muse.generation import Generation
    from pixellm.muse.journal import Journal
    from pixellm.muse.vlm.reply_cache import JournalReplyCache

    _begin(directory, plan)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(directory, plan.about()))
        with _reading():
            index = stack.enter_context(plan.index(directory))
        budget = plan.budget(journal)
        client = plan.client(budget)
        with ServerProgress("asking", plan.rules.images or index.count(), journal.totals()[0]) as bar:
            generation = Generation(
                plan.engine(client, JournalReplyCache(journal)),
                *(journal, plan.checks(index), plan.in_flight),
                lambda records: bar.step(f"{records:,} records  {muse_server.spent(budget)}"),
            )
            muse_server.run(generation.runner, generation.run(plan.selection(index)), client)
        print_lines(*_report(journal, plan, generation.records), *muse_server.report(generation.runner))
    muse_server.leave(generation.runner)


def _generate_on_cluster(
    directory: Path, plan: "GenerationPlan", workers: int, address: str | None, vllm: bool
) -> None:
    from pixellm.muse.cluster.driver import ClusterGeneration
    from pixellm.muse.cluster.vllm import processor
    from pixellm.muse.journal import Journal

    _begin(directory, plan)
    with Journal(directory, plan.about()) as journal, _reading(), plan.index(directory) as index:
        (done, before), total = journal.totals(), plan.rules.images or index.count()
    cluster = ClusterGeneration(plan, directory, workers, address, processor if vllm else None)
    with ServerProgress("asking", total, done) as bar, interrupting(cluster.stop):
        result = cluster.run(
            lambda images, records, budget: bar.at(images, f"{records:,} records  {muse_server.spent(budget)}")
        )
    with Journal(directory) as journal:
        print_lines(*_report(journal, plan, journal.totals()[1] - before), *muse_server.report(result))
    muse_server.leave(result)


def _begin(directory: Path, plan: "GenerationPlan") -> None:
    """Index the annotations before there is a journal: if they are wrong, it would refuse the right ones later."""
    from pixellm.muse.journal import FILE

    if not (directory / FILE).is_file():
        with _reading():
            plan.index(directory).close()


def _reading() -> "Status":
    return err_console.status("reading annotations")


def _report(journal: "Journal", plan: "GenerationPlan", new: int) -> Iterator[str]:
    images, records = journal.totals()
    counts = journal.counts()
    used = images - counts["skipped"].total()
    yield f"{records:,} records about {used:,} images, {new:,} of them new"
    for title, key in (("images", "skipped"), ("instances", "left_out"), ("records", "rejected")):
        yield from (f"{title} left out: {count:,} · {reason}" for reason, count in counts[key].most_common() if count)
    if plan.server:
        yield from journal.account()
