"""`pixellm batch`: a file of questions, a file of answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixellm.cli.common import (
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    Model,
    NamerOption,
    QuantizeOption,
    device_and_dtype,
    err_console,
    interrupting,
    print_lines,
)
from pixellm.hub.models import MINI
from pixellm.utils.files import exclusive_lock

if TYPE_CHECKING:
    from pixellm.batch.run import Batch, Result

SHOWN = 5  # bad items


class Engine(StrEnum):
    LOCAL = "local"
    RAY = "ray"


def batch(
    questions: Annotated[
        Path,
        typer.Argument(
            metavar="QUESTIONS", exists=True, dir_okay=False, help="JSON lines with image, question and perhaps id."
        ),
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="JSON lines to write; `pixellm score` reads them.")],
    model: Model = MINI,
    namer: NamerOption = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer, masks included.")] = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = Dtype.AUTO,
    quantize: QuantizeOption = None,
    engine: Annotated[Engine, typer.Option(help="This machine, or a Ray cluster.")] = Engine.LOCAL,
    workers: Annotated[int, typer.Option(min=1, help="Of ray: processes, each with a model.")] = 2,
    num_gpus: Annotated[float, typer.Option(min=0, help="Of ray: GPUs of a worker.")] = 0,
    ray_address: Annotated[
        str | None, typer.Option(help="Of a cluster (default: RAY_ADDRESS, or one on this machine).")
    ] = None,
) -> None:
    """Answer a file of questions; interrupted or killed, the same command goes on.

    Exit code 1 if some could not be answered: OUT.bad.jsonl says which, and why.
    """
    from pixellm.batch.run import Batch
    from pixellm.segmenter import load_segmenter, weights_of

    where, precision = device_and_dtype(device, dtype)
    sampling = {"max_new_tokens": max_new_tokens} if max_new_tokens else None
    weights = weights_of(model, namer, quantize)
    made = {"model": weights, "dtype": str(precision).removeprefix("torch."), "sampling": sampling}

    def load() -> Any:
        return load_segmenter(model, where, precision, sampling, namer, quantize)

    work = Batch(questions, out, made)
    stops: list[str] = []
    with exclusive_lock(work.out), interrupting(stops.append):
        if engine is Engine.LOCAL:
            _here(work, load, lambda: bool(stops))
        else:
            _on_cluster(work, load, (workers, ray_address, num_gpus), lambda: bool(stops))
        result = work.finish()
    print_lines(*_report(result, out))
    if stops:
        raise KeyboardInterrupt
    raise typer.Exit(1 if result.bad else 0)


def _here(work: "Batch", load: Callable[[], Any], stopped: Callable[[], bool]) -> None:
    from pixellm.batch.run import run

    if work.pending():
        segmenter = load()
        with _bar(work) as seen:
            run(work, segmenter, stopped, seen)


def _on_cluster(
    work: "Batch", load: Callable[[], Any], where: tuple[int, str | None, float], stopped: Callable[[], bool]
) -> None:
    from pixellm.batch.cluster import run

    with _bar(work) as seen:
        run(work, load, *where, stopped, seen)


@contextmanager
def _bar(work: "Batch") -> Iterator[Callable[[int], None]]:
    """Progress over all questions, those that were answered before among them."""
    from rich.progress import Progress

    left = sum(map(len, work.pending()))
    with Progress(console=err_console, transient=True) as progress:
        task = progress.add_task("questions", total=len(work.asked), completed=len(work.asked) - left)
        yield lambda count: progress.advance(task, count)


def _report(result: "Result", out: Path) -> list[str]:
    lines = [f"{result.answered:,} answers" + (f": {out}" if result.complete else ", not complete yet")]
    if result.bad:
        lines.append(f"{len(result.bad):,} could not be answered" + (f": {out}.bad.jsonl" if result.complete else ""))
        lines += [f"  line {one.line}: {one.reason}" for one in result.bad[:SHOWN]]
    return lines
