"""`pixellm cost`: what an answer takes."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pixellm.cli.common import out_console
from pixellm.cost.scenario import PHRASE_TOKENS, PROMPT_TOKENS


def cost(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="pixellm-7b, lisa-13b …, or a model's directory; :rec asks phrase by phrase."
        ),
    ],
    against: Annotated[str, typer.Option(help="Others to compare it with, separated by commas.")] = "",
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the square that masks are made from; by default each one's own.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Text before the answer.")] = PROMPT_TOKENS,
    answer_tokens: Annotated[
        int | None, typer.Option(min=0, help=f"Text of the answer; by default {PHRASE_TOKENS} for each target.")
    ] = None,
    targets: Annotated[int, typer.Option(min=0, help="Masks in the answer.")] = 3,
    cache: Annotated[bool, typer.Option(help="Without: all is read again for every token.")] = True,
    json_path: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write everything as JSON.")] = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Directory for cost.json, cost.md and the chart, cost.png.")
    ] = None,
) -> None:
    """Count parameters, FLOPs and memory of answers, without weights and without running anything."""
    from pixellm.cost.scenario import Scenario

    text = PHRASE_TOKENS * targets if answer_tokens is None else answer_tokens
    scenario = Scenario(prompt_tokens, text, targets, image_size, cache)
    from pixellm.cost import report
    from pixellm.cost.systems import open_systems

    systems = open_systems([name, *filter(None, against.split(","))], image_size)
    costs = [report.cost_of(system, scenario) for system in systems]
    tables = [*(report.parts_table(one) for one in costs), report.summary_table(costs)]
    wide = Console(highlight=False, markup=False, width=max(out_console.width, 125))  # squeezed figures say nothing
    for table in tables:
        wide.print(table.rich())
    for path in report.write(costs, scenario, tables, json_path, out):
        out_console.print(f"written: {path}")
