"""`pixellm train` and `compare`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixellm.cli.common import STDOUT, is_first_process, log_progress, out_console, print_lines, print_whole
from pixellm.hub.models import MINI
from pixellm.utils.allocator import TENSOR_BYTES, return_freed_memory
from pixellm.utils.sizes import bytes_of

if TYPE_CHECKING:
    from pixellm.train.recipe import Recipe


def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE]", exists=True, dir_okay=False, help="YAML file, like recipes/mini.yaml."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="JSONL file with your own questions and masks, in place of a recipe."),
    ] = None,
    model: Annotated[str, typer.Option(help="Model to fine-tune, with --data.")] = MINI,
    out: Annotated[
        Path | None, typer.Option("--out", "--output", help="Directory of the run. Default: runs/NAME.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps, with --data. Default: six epochs, at least 60 steps."),
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of images to hold out, with --data: the model is asked about them before and after."
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Memory to train in, with --data, like 24GB: chooses LoRA or QLoRA, gradient checkpointing and number "
            "of images at once, prints what they take, and refuses what does not fit."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Training seed, in place of the recipe's.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart/--resume", help="Start anew, or resume from the last checkpoint.")
    ] = False,
) -> None:
    """Train a model from a recipe, or fine-tune one on your own data."""
    if (recipe is None) == (data is None):
        got = "neither" if data is None else "both"
        raise ValueError(f"expected a recipe or --data, got {got}. See `pixellm train --help`.")
    if data is not None and seed is not None:
        raise ValueError("--seed: expected a recipe with it, got --data. Write a recipe, see docs/training.md.")
    if recipe is not None and held_out is not None:
        raise ValueError("--held-out: expected --data with it, got a recipe. Give it a `validation`.")
    if held_out is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--held-out: expected one process, got several. Run `pixellm eval` before and after.")
    if recipe is not None and memory is not None:
        raise ValueError("--memory: expected --data with it, got a recipe, which names its settings. Leave it out.")
    room = None if memory is None else bytes_of(memory)
    log_progress()
    from pixellm.training import run

    if data is None:
        result = run(recipe, out, restart, seed)
    else:
        output = out or Path("runs") / data.stem
        if held_out is not None:
            return _compare(data, held_out, model, output, steps, restart, room)
        result = _fine_tune(data, model, output, steps, restart, room)
    if is_first_process():
        out_console.print(f"trained: {result}")


def _fine_tune(data: Path, model: str, output: Path, steps: int | None, restart: bool, memory: int | None) -> Path:
    """Fine-tune with settings that suit a few images, and the memory if it is given."""
    from pixellm.train.run import fine_tune, prepare_output, train
    from pixellm.training import KNOWN_MODELS

    if memory is None:
        return fine_tune(data, model, output, KNOWN_MODELS, steps, restart)
    recipe = _fitted(data, model, output, steps, memory)
    prepare_output(output, restart)
    return train(recipe, output, KNOWN_MODELS)


def _fitted(data: Path, model: str, output: Path, steps: int | None, memory: int) -> "Recipe":
    """Print what a fine-tuning takes, and return its recipe."""
    from pixellm.training import plan_fine_tuning

    # Or what the C library keeps of freed activations, and the holes between those that stay, come on top of the plan.
    return_freed_memory(TENSOR_BYTES)
    plan = plan_fine_tuning(data, model, output.name, memory, steps)
    if is_first_process():
        print_whole(plan.table().rich())
    return plan.recipe


def _compare(
    data: Path, held_out: int, model: str, output: Path, steps: int | None, restart: bool, memory: int | None
) -> None:
    """Fine-tune, and show the metrics on held-out images before and after."""
    from pixellm.eval.before_after import table, write_before_after
    from pixellm.training import fine_tune_and_compare

    def recipe_for(training: Path) -> "Recipe":
        assert memory is not None
        return _fitted(training, model, output, steps, memory)

    result, before, after = fine_tune_and_compare(
        data, held_out, model, output, steps, restart, None if memory is None else recipe_for
    )
    print_whole(table(before, after))
    print_lines(*map(str, write_before_after(before, after, output)), f"trained: {result}")


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(exists=True, file_okay=False, help="Directories of runs, or of several runs."),
    ],
    base: Annotated[
        str | None, typer.Option(help="Experiment to compare the others with. Default: the shortest name.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Markdown file to write the table to; the plot goes beside it as PNG."),
    ] = None,
) -> None:
    """Compare runs: mean and standard deviation of each recipe's metrics over its runs."""
    if out == STDOUT:  # where the table goes anyway
        out = None
    if out is not None and out.suffix != ".md":
        raise ValueError(f"--out: expected a .md, got {out}.")
    from pixellm.eval import comparison

    experiments = comparison.with_base(comparison.read_runs(runs), base)
    table = comparison.markdown(experiments)
    print_lines(table)
    if out is not None:
        comparison.write_into(out, table)
        comparison.plot(experiments, out.with_suffix(".png"))
        print_lines(f"table: {out}", f"plot: {out.with_suffix('.png')}")
