"""`pixellm cost`: parameters, FLOPs and memory of an answer."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pixellm.cli.common import out_console, output_file, reserve_stdout
from pixellm.cost.breakdown import PHRASE_TOKENS, PROMPT_TOKENS, Scenario

WIDTH = 125  # least number of characters of a table: narrower, numbers are cut off


def cost(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="pixellm-7b, lisa-13b …, or a model directory; with :rec, asked phrase by phrase."
        ),
    ],
    against: Annotated[str, typer.Option(help="Models to compare with, separated by commas.")] = "",
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side in pixels of the square that masks are made from. Default: the model's own."),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Number of text tokens before the answer.")] = PROMPT_TOKENS,
    answer_tokens: Annotated[
        int | None,
        typer.Option(min=0, help=f"Number of text tokens in the answer. Default: {PHRASE_TOKENS} per target."),
    ] = None,
    targets: Annotated[int, typer.Option(min=0, help="Number of masks in the answer.")] = 3,
    cache: Annotated[
        bool, typer.Option(help="Decode with a KV cache; without, run the whole sequence again for every token.")
    ] = True,
    json_path: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write everything as JSON; -: to standard output.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Write cost.json, cost.md and the chart, cost.png, to this directory."),
    ] = None,
) -> None:
    """Count parameters, FLOPs and memory of answers, without weights and without running anything."""
    reserve_stdout(json_path)
    text = PHRASE_TOKENS * targets if answer_tokens is None else answer_tokens
    scenario = Scenario(prompt_tokens, text, targets, image_size, cache)
    from pixellm.cost import report
    from pixellm.cost.models import open_cost_models

    models = open_cost_models([name, *filter(None, against.split(","))], image_size)
    costs = [report.cost_of(model, scenario) for model in models]
    tables = [*map(report.parts_table, costs), report.summary_table(costs)]
    console = Console(highlight=False, markup=False, width=max(out_console.width, WIDTH), stderr=out_console.stderr)
    for table in tables:
        console.print(table.rich())
    files = [] if out is None else report.write_report(costs, scenario, tables, out)
    if json_path is not None:
        with output_file(json_path) as path:
            report.write_json(costs, scenario, path)
        files.append(json_path)
    for path in files:
        out_console.print(f"written: {path}")
