"""`pixellm questions`, `eval` and `score`: what the benchmarks ask, answers to it, and what they are worth."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pixellm.cli.common import (
    Device,
    Dtype,
    File,
    Folder,
    Model,
    NamerOption,
    Quantization,
    QuantizeOption,
    device_and_dtype,
    err_console,
    is_first_process,
    log_progress,
    out_console,
    print_lines,
)
from pixellm.hub.models import MINI

if TYPE_CHECKING:
    from pixellm.eval.benchmarks import Benchmark
    from pixellm.eval.predictions import Predictions
    from pixellm.eval.protocols import Protocol


class BenchmarkName(StrEnum):
    MUSE = "muse"
    REFER = "refer"
    MULTI_REFER = "multi-refer"
    REASONSEG = "reasonseg"
    GREFCOCO = "grefcoco"


class Grouping(StrEnum):
    PAPER = "paper"
    RELEASED = "released"


WIDE = 160  # characters of a table that goes into a pipe or a file

NameOption = Annotated[BenchmarkName, typer.Option("--benchmark", help="Whose questions.")]
Root = Annotated[Path, typer.Option(file_okay=False, help="The folder that holds all data sets.")]
Split = Annotated[str, typer.Option(help="One of the data set's; of muse also test (test_less and test_many).")]
Dataset = Annotated[
    str, typer.Option(help="Of refer and multi-refer: refcoco, refcoco+, refcocog or refclef.", show_default=True)
]
GroupingOption = Annotated[
    Grouping, typer.Option(help="Of multi-refer: 3–6 different things a question, or 6, 5, 4 sentences in turn.")
]
ProtocolOption = Annotated[
    str | None, typer.Option(help="muse: fixed (default), paper, released; multi-refer: fixed (default), ordered.")
]
RaterOption = Annotated[
    str,
    typer.Option(help="Who rates words in the paper's protocol: offline, or a model of an OpenAI-compatible server."),
]
RaterUrl = Annotated[
    str | None, typer.Option(help="The server's base URL, http://host:port/v1; its key: OPENAI_API_KEY.")
]
MaxCalls = Annotated[int | None, typer.Option(min=0, help="Ratings that may be asked for.")]
MaxTokens = Annotated[int | None, typer.Option(min=0, help="Tokens that ratings may take, as the server counts them.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap.")]


def questions(
    benchmark: NameOption,
    out: Annotated[Path, typer.Option(dir_okay=False, help="JSON-lines file to write.")],
    root: Root = Path("dataset"),
    split: Split = "val",
    dataset: Dataset = "refcoco",
    grouping: GroupingOption = Grouping.PAPER,
) -> None:
    """Write a benchmark's questions with their ids, so that any program can answer them."""
    from pixellm.eval.benchmarks import load_benchmark, write_questions

    found = load_benchmark(benchmark.value, root, split, dataset, grouping.value)
    write_questions(found, out)
    print_lines(f"{found.title}: {len(found.questions)} questions: {out}")


def score(
    predictions: Annotated[
        Path,
        typer.Argument(metavar="PREDICTIONS", exists=True, dir_okay=False, help="JSON lines, see docs/evaluation.md."),
    ],
    benchmark: NameOption,
    root: Root = Path("dataset"),
    split: Split = "val",
    dataset: Dataset = "refcoco",
    grouping: GroupingOption = Grouping.PAPER,
    protocol: ProtocolOption = None,
    rater: RaterOption = "offline",
    rater_url: RaterUrl = None,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(file_okay=False, help="Directory for the report.")] = Path("runs/score"),
) -> None:
    """Score the answers of any system to a benchmark's questions."""
    log_progress()
    from pixellm.eval.benchmarks import load_benchmark
    from pixellm.eval.predictions import read_predictions
    from pixellm.eval.protocols import choose_protocol

    chosen = choose_protocol(benchmark.value, protocol)
    found = load_benchmark(benchmark.value, root, split, dataset, grouping.value)
    _report(found, read_predictions(predictions), chosen, (rater, rater_url, max_calls, max_tokens), seed, out)


def _report(
    benchmark: "Benchmark",
    predictions: "Predictions",
    protocol: "Protocol",
    rater: tuple[str, str | None, int | None, int | None],
    seed: int,
    out: Path,
) -> None:
    from rich.progress import track

    from pixellm.eval.scoring import score
    from pixellm.eval.text_rater import OfflineRater
    from pixellm.eval.text_server import ServerRater
    from pixellm.utils.limits import Budget

    model, url, calls, tokens = rater
    if model == "offline":
        rates = OfflineRater()
    else:
        rates = ServerRater(model, url, out / "ratings.jsonl", Budget(max_calls=calls, max_tokens=tokens))
    shown = track(benchmark.questions, "scoring", console=err_console, transient=True)
    report = score(benchmark, predictions, protocol, rates, seed, shown)
    paths = report.write(out)
    print_lines(*report.about)
    # A pipe has no width: a table must not be cut there.
    (out_console if out_console.is_terminal else Console(width=WIDE)).print(report.table())
    print_lines(*(f"{path}" for path in paths))


def evaluate(
    out: Annotated[Path, typer.Option(help="Directory for the figures and the answers.")],
    annotations: Annotated[Path | None, File] = None,
    images: Annotated[Path | None, Folder] = None,
    benchmark: Annotated[
        BenchmarkName | None, typer.Option(help="Instead of annotations and images: a published benchmark.")
    ] = None,
    root: Root = Path("dataset"),
    split: Split = "val",
    dataset: Dataset = "refcoco",
    grouping: GroupingOption = Grouping.PAPER,
    teacher_forced: Annotated[
        bool, typer.Option("--teacher-forced", help="refer, multi-refer, reasonseg: the answer's words are given.")
    ] = False,
    protocol: ProtocolOption = None,
    rater: RaterOption = "offline",
    rater_url: RaterUrl = None,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    seed: Seed = 0,
    model: Model = MINI,
    namer: NamerOption = None,
    device: Annotated[Device, typer.Option(help="Of a benchmark; auto: a GPU where there is one.")] = Device.AUTO,
    dtype: Annotated[Dtype, typer.Option(help="Of a benchmark; auto: bfloat16 on a GPU, else float32.")] = Dtype.AUTO,
    quantize: QuantizeOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many photographs.")] = None,
    licence: Annotated[
        list[int] | None, typer.Option(help="Only show photographs with this licence id on the sheet; repeatable.")
    ] = None,
) -> None:
    """Measure a model: on annotated photographs (COCO format), or on a published benchmark."""
    if (annotations is None) != (images is None) or (annotations is None) == (benchmark is None):
        raise ValueError("expected --annotations with --images, or --benchmark with --root, one of the two.")
    log_progress()
    if benchmark is None:
        from pixellm.eval.photographs import run

        assert annotations is not None
        assert images is not None
        report = run(model, annotations, images, out, limit, licence or None, namer, quantize)
        print_lines(report.markdown(), f"results: {out}")
        return
    from pixellm.eval.benchmarks import load_benchmark
    from pixellm.eval.predictions import read_predictions
    from pixellm.eval.protocols import choose_protocol

    if teacher_forced and benchmark in (BenchmarkName.MUSE, BenchmarkName.GREFCOCO):
        raise ValueError(f"--teacher-forced: expected refer, multi-refer or reasonseg, got {benchmark}.")
    ordered = teacher_forced and benchmark is BenchmarkName.MULTI_REFER
    chosen = choose_protocol(benchmark.value, protocol or ("ordered" if ordered else None))
    found = load_benchmark(benchmark.value, root, split, dataset, grouping.value).first(limit)
    path = _answer(found, (model, namer, quantize), (device, dtype), out, teacher_forced)
    if path is not None:
        _report(found, read_predictions(path), chosen, (rater, rater_url, max_calls, max_tokens), seed, out)


def _answer(
    benchmark: "Benchmark",
    models: tuple[str, str | None, Quantization | None],
    where: tuple[Device, Dtype],
    out: Path,
    teacher_forced: bool,
) -> Path | None:
    """Ask the model; the file of answers, on the first process."""
    from pixellm.eval.answering import answer_all, fingerprint
    from pixellm.segmenter import load_segmenter, weights_of

    model, namer, quantize = models
    weights = weights_of(model, namer, quantize)
    name = model if namer is None else f"{model} after {namer}"
    made = fingerprint(benchmark, weights, name, teacher_forced)
    segmenter = load_segmenter(model, *device_and_dtype(*where), namer=namer, quantize=quantize)
    return answer_all(segmenter, benchmark, out, made, teacher_forced, is_first_process())
