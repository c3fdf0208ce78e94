"""`pixellm questions`, `eval` and `score`: questions of the benchmarks, a model's answers to them, and their scores."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixellm.cli.common import (
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    MinScoreOption,
    Model,
    NamerOption,
    QuantizeOption,
    device_and_dtype,
    err_console,
    is_first_process,
    log_progress,
    output_file,
    print_lines,
    print_whole,
    reserve_stdout,
)
from pixellm.hub.models import MINI

if TYPE_CHECKING:
    from pixellm.eval.benchmarks import Benchmark
    from pixellm.eval.text_rater import Rater


class BenchmarkName(StrEnum):
    MUSE = "muse"
    REFER = "refer"
    MULTI_REFER = "multi-refer"
    REASONSEG = "reasonseg"
    GREFCOCO = "grefcoco"
    COCO = "coco"
    JSONL = "jsonl"


class Grouping(StrEnum):
    PAPER = "paper"
    RELEASED = "released"


OFFLINE = "offline"

NameOption = Annotated[
    BenchmarkName | None,
    typer.Option("--benchmark", help="Published benchmark; your own images: --annotations or --data instead."),
]
Root = Annotated[Path, typer.Option(file_okay=False, help="Folder that holds all data sets.")]
Split = Annotated[str, typer.Option(help="Split of the data set; muse also has test (test_less and test_many).")]
Dataset = Annotated[str, typer.Option(help="Data set of refer and multi-refer: refcoco, refcoco+, refcocog, refclef.")]
GroupingOption = Annotated[
    Grouping,
    typer.Option(help="Questions of multi-refer: paper, 3–6 different objects each; released, 6, 5, 4 … sentences."),
]
Annotations = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="COCO-format file of coco, with all instances of all categories."),
]
Images = Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Folder of coco's images.")]
Data = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="JSONL file of your own questions and masks.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Number of images. Default: all.")]
ProtocolOption = Annotated[
    str | None,
    typer.Option(help="Scoring protocol of muse: fixed (default), paper, released; of multi-refer: fixed, ordered."),
]
RaterOption = Annotated[
    str,
    typer.Option(help="Rater of phrases in the paper's protocol: offline, or a model of an OpenAI-compatible server."),
]
RaterUrl = Annotated[
    str | None, typer.Option(help="Base URL of the rater's server, http://host:port/v1; its key: OPENAI_API_KEY.")
]
MaxCalls = Annotated[int | None, typer.Option(min=0, help="Maximum number of ratings to request. Default: no limit.")]
MaxTokens = Annotated[
    int | None, typer.Option(min=0, help="Maximum tokens of ratings, as the server counts them. Default: no limit.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")]
Licence = Annotated[
    list[int] | None, typer.Option(help="Licence id (COCO's) of images that answers.jpg may show; repeatable.")
]


def questions(
    out: Annotated[Path, typer.Option(dir_okay=False, help="JSON-lines file to write; -: to standard output.")],
    benchmark: NameOption = None,
    root: Root = Path("dataset"),
    split: Split = "val",
    dataset: Dataset = "refcoco",
    grouping: GroupingOption = Grouping.PAPER,
    annotations: Annotations = None,
    images: Images = None,
    data: Data = None,
    limit: Limit = None,
) -> None:
    """Write a benchmark's questions with their ids, so that any program can answer them."""
    reserve_stdout(out)
    name = _name(benchmark, annotations, images, data)
    from pixellm.eval.benchmarks import write_questions

    loaded = _load(name, root, split, dataset, grouping, annotations, images, data, limit)
    with output_file(out) as path:
        write_questions(loaded, path)
    print_lines(f"{loaded.title}: {len(loaded.questions)} questions: {out}")


def score(
    predictions: Annotated[
        Path,
        typer.Argument(metavar="PREDICTIONS", exists=True, dir_okay=False, help="JSON lines, see docs/evaluation.md."),
    ],
    benchmark: NameOption = None,
    root: Root = Path("dataset"),
    split: Split = "val",
    dataset: Dataset = "refcoco",
    grouping: GroupingOption = Grouping.PAPER,
    annotations: Annotations = None,
    images: Images = None,
    data: Data = None,
    limit: Limit = None,
    protocol: ProtocolOption = None,
    rater: RaterOption = OFFLINE,
    rater_url: RaterUrl = None,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    seed: Seed = 0,
    min_score: MinScoreOption = 0.0,
    licence: Licence = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Directory for the report.")] = Path("runs/score"),
) -> None:
    """Score the answers of any system to a benchmark's questions."""
    log_progress()
    name = _name(benchmark, annotations, images, data)
    from pixellm.eval.protocols import choose_protocol

    choose_protocol(name.value, protocol)  # before the questions are read
    loaded = _load(name, root, split, dataset, grouping, annotations, images, data, limit)
    rated = _rater(rater, rater_url, max_calls, max_tokens, out)
    _report(loaded, predictions, protocol, rated, seed, min_score, licence, out)


def evaluate(
    out: Annotated[Path, typer.Option(help="Directory for the answers and the report.")],
    benchmark: NameOption = None,
    root: Root = Path("dataset"),
    split: Split = "val",
    dataset: Dataset = "refcoco",
    grouping: GroupingOption = Grouping.PAPER,
    annotations: Annotations = None,
    images: Images = None,
    data: Data = None,
    limit: Limit = None,
    teacher_forced: Annotated[
        bool, typer.Option("--teacher-forced", help="Segment the reference answer (refer, multi-refer, reasonseg).")
    ] = False,
    protocol: ProtocolOption = None,
    rater: RaterOption = OFFLINE,
    rater_url: RaterUrl = None,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    seed: Seed = 0,
    min_score: MinScoreOption = 0.0,
    model: Model = MINI,
    namer: NamerOption = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = Dtype.AUTO,
    quantize: QuantizeOption = None,
    licence: Licence = None,
) -> None:
    """Ask a model the questions of a benchmark, or about your own annotated images, and score its answers."""
    name = _name(benchmark, annotations, images, data)
    log_progress()
    from pixellm.eval.protocols import choose_protocol

    if teacher_forced and name in (BenchmarkName.MUSE, BenchmarkName.GREFCOCO, BenchmarkName.COCO):
        raise ValueError(f"--teacher-forced: expected refer, multi-refer or reasonseg, got {name}.")
    if teacher_forced and name is BenchmarkName.MULTI_REFER:
        protocol = protocol or "ordered"
    choose_protocol(name.value, protocol)
    loaded = _load(name, root, split, dataset, grouping, annotations, images, data, limit)
    from pixellm.eval.answering import answer_all, fingerprint
    from pixellm.hub.systems import weights_of
    from pixellm.segmenter import load_segmenter

    title = model if namer is None else f"{model} after {namer}"
    made = fingerprint(loaded, weights_of(model, namer, quantize), title, teacher_forced)
    segmenter = load_segmenter(model, *device_and_dtype(device, dtype), namer=namer, quantize=quantize)
    path = answer_all(segmenter, loaded, out, made, teacher_forced, is_first_process())
    if path is not None:
        rated = _rater(rater, rater_url, max_calls, max_tokens, out)
        _report(loaded, path, protocol, rated, seed, min_score, licence, out)


def _name(
    benchmark: BenchmarkName | None, annotations: Path | None, images: Path | None, data: Path | None
) -> BenchmarkName:
    """Return the benchmark that is meant; a ValueError if the options don't fit together."""
    own = BenchmarkName.COCO if annotations is not None else BenchmarkName.JSONL if data is not None else None
    name = benchmark or own
    coco, jsonl = name is BenchmarkName.COCO, name is BenchmarkName.JSONL
    if name is None or (annotations is not None, images is not None, data is not None) != (coco, coco, jsonl):
        raise ValueError(
            "expected one of: --annotations with --images, --data, or a published --benchmark with --root."
        )
    return name


def _load(
    name: BenchmarkName,
    root: Path,
    split: str,
    dataset: str,
    grouping: Grouping,
    annotations: Path | None,
    images: Path | None,
    data: Path | None,
    limit: int | None,
) -> "Benchmark":
    from pixellm.eval.benchmarks import load_benchmark, load_jsonl
    from pixellm.eval.coco_benchmark import load_coco

    if annotations is not None and images is not None:
        return load_coco(annotations, images, limit)
    if data is not None:
        return load_jsonl(data).first(limit)
    return load_benchmark(name.value, root, split, dataset, grouping.value).first(limit)  # type: ignore[arg-type]


def _rater(model: str, url: str | None, calls: int | None, tokens: int | None, out: Path) -> "Rater | None":
    if model == OFFLINE:
        return None
    from pixellm.eval.text_server import ServerRater
    from pixellm.utils.budget import Budget

    return ServerRater(model, url, out / "ratings.jsonl", Budget(max_calls=calls, max_tokens=tokens))


def _report(
    benchmark: "Benchmark",
    predictions: Path,
    protocol: str | None,
    rater: "Rater | None",
    seed: int,
    min_score: float,
    licences: list[int] | None,
    out: Path,
) -> None:
    """Score a file of predictions, write the report and show its table."""
    from rich.progress import track

    from pixellm.eval.predictions import read_predictions
    from pixellm.eval.protocols import choose_protocol
    from pixellm.eval.report import score

    progress = track(benchmark.questions, "scoring", console=err_console, transient=True)
    scoring = choose_protocol(benchmark.name, protocol)
    report = score(benchmark, read_predictions(predictions), scoring, rater, seed, progress, min_score)
    paths = report.write(out, licences or None)
    print_lines(*report.about)
    print_whole(report.table())
    print_lines(*(f"{path}" for path in paths))
