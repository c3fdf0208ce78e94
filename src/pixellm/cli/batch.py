"""`pixellm batch`: answer a file of questions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixellm.cli.common import (
    STDOUT,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    MinScoreOption,
    Model,
    NamerOption,
    Quantization,
    QuantizeOption,
    Runtime,
    RuntimeOption,
    device_and_dtype,
    err_console,
    interrupting,
    output_file,
    print_lines,
    reserve_stdout,
    runs_graphs,
)
from pixellm.hub.models import MINI
from pixellm.utils.files import exclusive_lock
from pixellm.utils.limits import MAX_PROMPT_TOKENS

if TYPE_CHECKING:
    import torch

    from pixellm.batch.run import BatchFiles, BatchResult

    Loader = tuple[str, str, Callable[[], Any]]  # digest of the weights, their precision, what loads the segmenter

LISTED = 5  # bad questions


class BatchBackend(StrEnum):
    LOCAL = "local"
    RAY = "ray"


def batch(
    questions: Annotated[
        Path,
        typer.Argument(
            metavar="QUESTIONS", exists=True, dir_okay=False, help="JSON lines with image, question and perhaps id."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(dir_okay=False, help="JSON lines to write; -: to standard output, without resuming."),
    ],
    model: Model = MINI,
    namer: NamerOption = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum tokens of an answer, masks included.")
    ] = None,
    min_score: MinScoreOption = 0.0,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = Dtype.AUTO,
    quantize: QuantizeOption = None,
    runtime: RuntimeOption = Runtime.AUTO,
    engine: Annotated[BatchBackend, typer.Option(help="Backend: this machine, or a Ray cluster.")] = (
        BatchBackend.LOCAL
    ),
    workers: Annotated[int, typer.Option(min=1, help="Number of Ray workers, each with a model.")] = 2,
    num_gpus: Annotated[float, typer.Option(min=0, help="GPUs per Ray worker.")] = 0,
    ray_address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster. Default: RAY_ADDRESS, or one on this machine.")
    ] = None,
) -> None:
    """Answer a file of questions; interrupted or killed, the same command resumes.

    Exit code 1 if some could not be answered: OUT.bad.jsonl lists them with the reason.
    """
    reserve_stdout(out)
    from pixellm.batch.run import BatchFiles

    sampling = {"max_new_tokens": max_new_tokens} if max_new_tokens else None
    needs_torch = device is Device.CUDA or dtype is not Dtype.AUTO or quantize is not None or namer is not None
    if runs_graphs(runtime, model, needs_torch or num_gpus > 0):
        weights, precision, load = _with_graphs(model, sampling, min_score)
    else:
        where = device_and_dtype(device, dtype)
        weights, precision, load = _with_torch(model, namer, where, sampling, quantize, min_score)
    stops: list[str] = []
    with output_file(out) as path:
        files = BatchFiles(questions, path, _settings(weights, precision, sampling, min_score))
        with exclusive_lock(path), interrupting(stops.append):
            if engine is BatchBackend.LOCAL:
                _here(files, load, lambda: bool(stops))
            else:
                _on_cluster(files, load, (workers, ray_address, num_gpus), lambda: bool(stops))
            result = files.finish()
        print_lines(*_report(result, out))
        if stops:
            raise KeyboardInterrupt
    raise typer.Exit(1 if result.bad else 0)


def _with_graphs(model: str, sampling: dict[str, Any] | None, min_score: float) -> "Loader":
    from pixellm.hub.models import resolve_graphs
    from pixellm.hub.systems import identify
    from pixellm.loading import load_graphs

    def load() -> Any:
        return _limited(load_graphs(model, sampling=sampling, min_score=min_score))

    return identify(resolve_graphs(model)), Runtime.ONNX.value, load


def _with_torch(
    model: str,
    namer: str | None,
    where: "tuple[str, torch.dtype]",
    sampling: dict[str, Any] | None,
    quantize: Quantization | None,
    min_score: float,
) -> "Loader":
    from pixellm.hub.systems import weights_of
    from pixellm.segmenter import load_segmenter

    def load() -> Any:
        return _limited(load_segmenter(model, *where, sampling, namer, quantize, min_score))

    return weights_of(model, namer, quantize), str(where[1]).removeprefix("torch."), load


def _limited(segmenter: Any) -> Any:
    """Return a segmenter that refuses prompts longer than the server's limit."""
    from pixellm.inference.base_predictor import BasePredictor

    if isinstance(segmenter, BasePredictor):
        segmenter.max_prompt_tokens = MAX_PROMPT_TOKENS
    return segmenter


def _settings(weights: str, precision: str, sampling: dict[str, Any] | None, min_score: float) -> dict[str, Any]:
    """Return what answers depend on; a file made with other settings is not resumed."""
    made = {"model": weights, "dtype": precision, "sampling": sampling}
    return made | {"min_score": min_score or None}  # None, as in files from before there was one


def _here(files: "BatchFiles", load: Callable[[], Any], stopped: Callable[[], bool]) -> None:
    from pixellm.batch.run import run

    if files.pending():
        segmenter = load()
        with _progress(files) as advance:
            run(files, segmenter, stopped, advance)


def _on_cluster(
    files: "BatchFiles", load: Callable[[], Any], where: tuple[int, str | None, float], stopped: Callable[[], bool]
) -> None:
    from pixellm.batch.cluster import run

    with _progress(files) as advance:
        run(files, load, *where, stopped, advance)


@contextmanager
def _progress(files: "BatchFiles") -> Iterator[Callable[[int], None]]:
    """Show progress over all questions, those that were answered before among them."""
    from rich.progress import Progress

    total, pending = len(files.questions), sum(map(len, files.pending()))
    with Progress(console=err_console, transient=True) as progress:
        task = progress.add_task("questions", total=total, completed=total - pending)
        yield lambda count: progress.advance(task, count)


def _report(result: "BatchResult", out: Path) -> list[str]:
    lines = [f"{result.answered:,} answers" + (f": {out}" if result.complete else ", not complete yet")]
    if result.bad:
        listed = result.complete and out != STDOUT
        lines.append(f"{len(result.bad):,} could not be answered" + (f": {out}.bad.jsonl" if listed else ""))
        printed = result.bad if out == STDOUT else result.bad[:LISTED]
        lines += [f"  line {question.line}: {question.reason}" for question in printed]
    return lines
