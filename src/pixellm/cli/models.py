"""`pixellm models` and `pixellm convert`: model directories on this computer."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pixellm.cli.common import (
    Device,
    Dtype,
    QuantizeOption,
    device_and_dtype,
    out_console,
    print_lines,
    quieten_transformers,
)
from pixellm.cost.scenario import PHRASE_TOKENS

WIDE = 100  # characters that a table may take

app = typer.Typer(help="The models kept on this computer.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of `pixellm models list`, or a Hub id.")]


@app.command("list")
def list_models() -> None:
    """List the models: what is here, and what can be had by name."""
    from pixellm.hub.models import list_models

    for info in list_models():
        state = f"{info.path}" if info.ready else f"not ready; prepare it with: pixellm models pull {info.name}"
        out_console.print(f"{info.name:<28} {_megabytes(info.size):>9}  {state}")


@app.command()
def pull(name: Name) -> None:
    """Fetch a model, so that it can be used without a network."""
    quieten_transformers()
    from pixellm.hub.models import resolve

    out_console.print(f"{name} is in {resolve(name)}")


@app.command()
def where(name: Name) -> None:
    """Print the directory of a model that is here."""
    from pixellm.hub.models import where

    out_console.print(str(where(name)))


@app.command()
def remove(
    name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.")] = False
) -> None:
    """Delete a model from the cache; directories of yours are never touched."""
    from pixellm.hub.models import list_models, remove

    sizes = {info.name: info.size for info in list_models()}
    if sizes.get(name) and not yes:
        typer.confirm(f"Delete {name} ({_megabytes(sizes[name])})?", abort=True)
    out_console.print(f"{name}: {_megabytes(remove(name))} freed")


@app.command()
def plan(
    name: Annotated[str, typer.Argument(metavar="NAME", help="pixellm-7b, lisa-13b …, or a model that is here.")],
    device: Annotated[Device, typer.Option(help="auto: a GPU where there is one.")] = Device.AUTO,
    dtype: Annotated[Dtype, typer.Option(help="auto: bfloat16 on a GPU, else float32.")] = Dtype.AUTO,
    quantize: QuantizeOption = None,
    questions: Annotated[int, typer.Option(min=1, help="Answered together, on one photograph.")] = 1,
    targets: Annotated[int, typer.Option(min=0, help="Masks in each answer.")] = 3,
    tokens: Annotated[
        int | None, typer.Option(min=0, help=f"Text of an answer; by default {PHRASE_TOKENS} for each target.")
    ] = None,
    image_hw: Annotated[tuple[int, int], typer.Option(min=1, help="Height and width of the photograph, in pixels.")] = (
        1080,
        1920,
    ),
) -> None:
    """Say whether a model fits into memory, from its sizes alone; exit code 1 if it doesn't."""
    quieten_transformers()
    from pixellm.cost.language import LanguageSystem
    from pixellm.cost.plan import Loaded, Use, make_plan
    from pixellm.cost.report import quantity
    from pixellm.cost.scenario import Scenario
    from pixellm.cost.systems import open_system

    system = open_system(name)
    if not isinstance(system, LanguageSystem):
        raise ValueError(f"{name}: expected a PixelLM or LISA model, got one of another kind.")
    place, precision = device_and_dtype(device, dtype)
    loaded = Loaded(precision, quantize, place)
    text = PHRASE_TOKENS * targets if tokens is None else tokens
    use = Use(questions, Scenario(answer_tokens=text, targets=targets), image_hw)
    found = make_plan(system, loaded, use)
    title = f"{name} in {loaded} on {'a CPU' if place == 'cpu' else 'a GPU'}"
    Console(highlight=False, markup=False, width=max(out_console.width, WIDE)).print(found.table(title).rich())
    print_lines(f"{'fits' if found.fits else 'does not fit'}: {quantity(found.available)}B available")
    if found.fits:
        return
    for way in loaded.smaller:
        other = make_plan(system, way, use, found.available)
        print_lines(f"{way.options}: {quantity(other.total)}B, {'fits' if other.fits else 'does not fit'}")
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
    quieten_transformers()
    from pixellm.baselines.lisa.convert import LISA
    from pixellm.checkpoints import convert as converter
    from pixellm.checkpoints.conversion_report import report_lines
    from pixellm.utils.cache import progress

    if check and (out / "config.json").is_file():
        out_console.print(f"{out} exists and was not converted again")
    else:
        with progress(f"converting {released}"):
            report = converter.convert(released, out, vision, [LISA])
        print_lines(f"{out}:", *report_lines(report))
    if check:
        with progress(f"checking {out}"):
            report = converter.check(out, [LISA])
        print_lines("check: " + ("complete" if report.complete else "faulty"), *report_lines(report))
        raise typer.Exit(0 if report.complete else 1)
