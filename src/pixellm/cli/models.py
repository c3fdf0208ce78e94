"""`pixellm models` and `pixellm convert`: model directories on this computer."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pixellm.cli.common import (
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    QuantizeOption,
    device_and_dtype,
    err_console,
    out_console,
    print_lines,
)
from pixellm.cost.breakdown import PHRASE_TOKENS, Scenario

if TYPE_CHECKING:
    from pixellm.hub.models import ModelInfo

WIDE = 100  # least number of characters of a table
HEADER = ("NAME", "PARAMETERS", "DOWNLOAD", "MEMORY (bf16 int8 int4)", "FITS", "LICENCE", "ON DISK", "DIRECTORY")

app = typer.Typer(help="Manage the models kept on this computer.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of `pixellm models list`, or a Hub id.")]


@app.command("list")
def list_models() -> None:
    """List the models that can be had by name, and others on this computer.

    Memory is that of answering a question with bfloat16, 8-bit and 4-bit weights; FITS says which of them this computer
    has the memory for. `pixellm models plan NAME` counts in detail.
    """
    from pixellm.hub.models import list_models
    from pixellm.hub.room import machine_memory

    memory = machine_memory()
    rows = [HEADER, *(_row(info, memory) for info in list_models())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for name, *cells in rows:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells[:-1], widths[1:-1], strict=True)]
        out_console.print("  ".join([f"{name:<{widths[0]}}", *padded, cells[-1]]))


def _row(info: "ModelInfo", memory: int) -> tuple[str, ...]:
    """Return the cells of a model on a computer with `memory` bytes."""
    facts = info.facts
    state = f"not ready; prepare it with: pixellm models pull {info.name}"
    if info.ready:
        state = f"{info.path}"
    elif info.source == "released" and info.size:
        state = f"download unfinished; go on with: pixellm models pull {info.name}"
    if facts is None:
        return (info.name, "", "", "", "", "", _megabytes(info.size), state)
    needed = " ".join(f"{size / 1e9:.1f}" for size in facts.memory.values())
    counted = f"{facts.parameters / 1e9:.1f} B" if facts.parameters >= 1e9 else f"{facts.parameters / 1e6:.0f} M"
    fits = facts.precision_within(memory) or "no"
    return (
        *(info.name, counted, _megabytes(facts.download), f"{needed} GB", fits, facts.licence),
        *(_megabytes(info.size), state),
    )


@app.command()
def pull(
    name: Name,
    force: Annotated[
        bool,
        typer.Option("--force", help="Download a released model even if this computer lacks the memory to run it."),
    ] = False,
) -> None:
    """Fetch a model for use without a network; what a killed download left is continued.

    A released checkpoint (pixellm-7b, lisa-7b …) is downloaded, checked, converted and checked again; then the download
    is deleted.
    """
    from pixellm.hub.catalogue import find_released
    from pixellm.hub.models import has_graphs, resolve, resolve_graphs
    from pixellm.hub.released import pull

    released = find_released(name)
    fetch = resolve_graphs if has_graphs(name) and find_spec("torch") is None else resolve
    out_console.print(f"{name} is in {pull(released, force) if released else fetch(name)}")


class GraphFormat(StrEnum):
    ONNX = "onnx"


class Weights(StrEnum):
    FLOAT32 = "float32"
    INT8 = "int8"
    INT4 = "int4"


@app.command()
def export(
    name: Name,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to write; it must not exist.")],
    format: Annotated[GraphFormat, typer.Option(help="Format of the graphs.")] = GraphFormat.ONNX,
    weights: Annotated[
        Weights, typer.Option(help="Precision of the language model's matrices; all else is float32.")
    ] = Weights.INT8,
) -> None:
    """Export a model as graphs that `pixellm ask --runtime onnx` runs without torch.

    The graphs are checked against torch: with float32 weights the tokens of an answer must be equal, and mask logits,
    those of a correction included, within 0.001.
    """
    from pixellm.graphs.check import check
    from pixellm.graphs.export import export
    from pixellm.segmenter import load
    from pixellm.utils.files import atomic_directory

    if out.exists():
        raise ValueError(
            f"expected a directory that does not exist yet as OUT, got {out}. Remove it, or choose another."
        )
    predictor = load(name)
    with atomic_directory(out) as directory:
        err_console.print("exporting the graphs, which takes minutes")
        export(predictor.model, predictor.processor, directory, weights.value)
        difference = check(predictor, directory, weights.value)
    print_lines(f"{out}: mask logits within {difference:.1e} of torch's")


@app.command()
def where(name: Name) -> None:
    """Print the directory of a model on this computer."""
    from pixellm.hub.models import where

    out_console.print(str(where(name)))


@app.command()
def remove(
    name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.")] = False
) -> None:
    """Delete a model from the cache; directories given by path are never touched."""
    from pixellm.hub.models import list_models, remove

    sizes = {info.name: info.size for info in list_models()}
    if sizes.get(name) and not yes:
        typer.confirm(f"Delete {name} ({_megabytes(sizes[name])})?", abort=True)
    out_console.print(f"{name}: {_megabytes(remove(name))} freed")


@app.command()
def plan(
    name: Annotated[str, typer.Argument(metavar="NAME", help="pixellm-7b, lisa-13b …, or a model on this computer.")],
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = Dtype.AUTO,
    quantize: QuantizeOption = None,
    questions: Annotated[int, typer.Option(min=1, help="Number of questions about one image answered together.")] = 1,
    targets: Annotated[int, typer.Option(min=0, help="Number of masks in each answer.")] = 3,
    tokens: Annotated[
        int | None,
        typer.Option(min=0, help=f"Number of text tokens in each answer. Default: {PHRASE_TOKENS} per target."),
    ] = None,
    image_hw: Annotated[tuple[int, int], typer.Option(min=1, help="Height and width of the image, in pixels.")] = (
        1080,
        1920,
    ),
) -> None:
    """Tell if a model fits into memory, from its configuration; exit code 1 if it doesn't."""
    from pixellm.cost.language import LanguageCostModel
    from pixellm.cost.memory import BatchScenario, LoadOptions, plan_memory
    from pixellm.cost.models import open_cost_model
    from pixellm.cost.report import quantity

    model = open_cost_model(name)
    if not isinstance(model, LanguageCostModel):
        raise ValueError(f"{name}: expected a PixelLM or LISA model, got one of another kind.")
    place, precision = device_and_dtype(device, dtype)
    options = LoadOptions(precision, quantize, place)
    text = PHRASE_TOKENS * targets if tokens is None else tokens
    batch = BatchScenario(questions, Scenario(answer_tokens=text, targets=targets), image_hw)
    memory = plan_memory(model, options, batch)
    title = f"{name} in {options} on {'a CPU' if place == 'cpu' else 'a GPU'}"
    Console(highlight=False, markup=False, width=max(out_console.width, WIDE)).print(memory.table(title).rich())
    print_lines(f"{'fits' if memory.fits else 'does not fit'}: {quantity(memory.available)}B available")
    if memory.fits:
        return
    for smaller in options.smaller:
        other = plan_memory(model, smaller, batch, memory.available)
        print_lines(f"{smaller.flags}: {quantity(other.total)}B, {'fits' if other.fits else 'does not fit'}")
    raise typer.Exit(1)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def convert(
    released: Annotated[
        Path,
        typer.Argument(
            metavar="RELEASED_DIR",
            exists=True,
            file_okay=False,
            help="Checkpoint in the released layout.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Model directory to write; new or empty.")],
    vision: Annotated[
        Path,
        typer.Option(
            exists=True, file_okay=False, help="Directory of its CLIP vision encoder, in Hugging Face format."
        ),
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Re-open OUT and compare its keys; if OUT exists, do only that.")
    ] = False,
) -> None:
    """Convert a released PixelLM or LISA checkpoint to a model directory."""
    from pixellm.baselines.lisa.convert import LISA
    from pixellm.checkpoints import convert as converter
    from pixellm.utils.cache import progress

    if check and (out / "config.json").is_file():
        out_console.print(f"{out} exists and was not converted again")
    else:
        with progress(f"converting {released}"):
            report = converter.convert(released, out, vision, [LISA])
        print_lines(f"{out}:", *report.lines())
    if check:
        with progress(f"checking {out}"):
            report = converter.check(out, [LISA])
        print_lines("check: " + ("complete" if report.complete else "faulty"), *report.lines())
        raise typer.Exit(0 if report.complete else 1)
