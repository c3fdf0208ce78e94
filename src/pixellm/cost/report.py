"""Costs of models as tables, JSON and a chart."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pixellm.cost.breakdown import Component, CostModel, FlopsBreakdown, MemoryBreakdown, Scenario
from pixellm.utils.files import atomic_write, write_text

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
# Okabe and Ito's colours, which colour-blind readers tell apart; greys and purples for memory.
COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#CC79A7", "#009E73", "#8FD6B8", "#E69F00", "#F0E442", "#000000", "#999999")
MEMORY_COLOURS = ("#333333", "#777777", "#BBBBBB", "#5E3C99", "#B2ABD2")


@dataclass(frozen=True)
class AnswerCost:
    """FLOPs and memory of one model in one scenario."""

    breakdown: FlopsBreakdown
    memory: MemoryBreakdown


@dataclass(frozen=True)
class TextTable:
    """Table whose first column is text and the others are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Format as Markdown, without the title."""
        lines = [self.header, ("---", *["---:"] * (len(self.header) - 1)), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def rich(self) -> Table:
        """Format for a terminal."""
        table = Table(title=self.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
        for index, name in enumerate(self.header):
            table.add_column(name, justify="right" if index else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        return table


def cost_of(model: CostModel, scenario: Scenario) -> AnswerCost:
    return AnswerCost(model.breakdown(scenario), model.memory(scenario))


def parts_table(cost: AnswerCost) -> TextTable:
    """Tabulate the parts of one model."""
    header = ("part", "parameters", "FLOPs a call", "calls", "FLOPs", "MACs", "share", "activations")
    breakdown, activations = cost.breakdown, cost.memory.activations
    rows = []
    for line in breakdown.lines:
        peak = activations.get(line.part)
        size = quantity(line.parameters) if line.parameters else ""
        share = f"{line.total / breakdown.flops:.1%}" if breakdown.flops else ""
        memory = f"{quantity(peak)}B" if peak else ""
        rows.append(
            (
                *(line.part, size, quantity(line.flops), f"{line.calls}"),
                *(quantity(line.total), quantity(line.total / 2), share, memory),
            )
        )
    return TextTable(breakdown.model, header, tuple(rows))


def summary_table(costs: Sequence[AnswerCost]) -> TextTable:
    """Tabulate several models; ratios are to the first."""
    header = ("system", "parameters", "FLOPs", "MACs", "ratio", "bf16", "int8", "int4", "KV cache", "activations")
    base, rows = costs[0].breakdown.flops, []
    for cost in costs:
        memory = cost.memory
        rows.append(
            (
                *(cost.breakdown.model, quantity(cost.breakdown.parameters), quantity(cost.breakdown.flops)),
                *(quantity(cost.breakdown.flops / 2), f"{cost.breakdown.flops / base:.2f}"),
                *(f"{quantity(memory.weights[kind])}B" for kind in ("bf16", "int8", "int4")),
                *(f"{quantity(memory.kv_cache)}B", f"{quantity(memory.peak)}B"),
            )
        )
    return TextTable("whole answers", header, tuple(rows))


def quantity(value: float) -> str:
    """Format with three digits and a decimal prefix: 5.96 T."""
    for size, prefix in PREFIXES:
        if value >= 0.9995 * size:
            return f"{_digits(value / size)} {prefix}"
    return f"{_digits(value)} "


def _digits(value: float) -> str:
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}" if value else "0"


def write_json(costs: Sequence[AnswerCost], scenario: Scenario, path: Path) -> None:
    """Write all costs, in FLOPs (two per multiply-add) and bytes."""
    systems = [
        {
            "name": cost.breakdown.model,
            "parameters": cost.breakdown.parameters,
            "flops": cost.breakdown.flops,
            "macs": cost.breakdown.flops / 2,
            "parts": [asdict(line) | {"total_flops": line.total} for line in cost.breakdown.lines],
            "memory": asdict(cost.memory),
        }
        for cost in costs
    ]
    write_text(path, json.dumps({"scenario": asdict(scenario), "systems": systems}, indent=1) + "\n")


def write_report(costs: Sequence[AnswerCost], scenario: Scenario, tables: Sequence[TextTable], out: Path) -> list[Path]:
    """Write JSON, Markdown and the chart to a directory; return the files."""
    files = [out / "cost.json", out / "cost.md", out / "cost.png"]
    write_json(costs, scenario, files[0])
    write_text(files[1], "\n".join(f"## {table.title}\n\n{table.markdown()}" for table in tables))
    chart(costs, files[2])
    return files


def chart(costs: Sequence[AnswerCost], path: Path) -> None:
    """Draw a bar per model: FLOPs by part, and bytes by kind."""
    from matplotlib.figure import Figure

    names = [cost.breakdown.model for cost in costs]
    lines = [cost.breakdown.lines for cost in costs]
    used = {line.part for line in itertools.chain(*lines)}
    flops: dict[str, list[float]] = {
        component: [sum(line.total for line in of_model if line.part == component) for of_model in lines]
        for component in Component
        if component in used
    }
    weights = [cost.memory.weights for cost in costs]
    memory: dict[str, list[float]] = {
        "weights, int4": [kind["int4"] for kind in weights],
        "more at int8": [kind["int8"] - kind["int4"] for kind in weights],
        "more at bf16": [kind["bf16"] - kind["int8"] for kind in weights],
        "KV cache": [cost.memory.kv_cache for cost in costs],
        "activations": [cost.memory.peak for cost in costs],
    }
    figure = Figure(figsize=(11, 1.9 + 0.5 * len(costs)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, data, colours, unit, side in (
        (panels[0], flops, COLOURS, "FLOPs, two for a multiply-add", "left"),
        (panels[1], memory, MEMORY_COLOURS, "B", "right"),
    ):
        bars = _stack(panel, names, data, colours, unit)
        figure.legend(bars, data, fontsize=8, frameon=False, ncols=3, loc=f"outside lower {side}")
    panels[0].invert_yaxis()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _stack(panel, names: list[str], parts: dict[str, list[float]], colours: Sequence[str], unit: str) -> list:
    """Draw bars of stacked parts, in the prefix that suits the longest; return one bar per part."""
    totals = [sum(values) for values in zip(*parts.values(), strict=True)]
    size, prefix = next((p for p in PREFIXES if max(totals) >= p[0]), (1.0, ""))
    left, bars = [0.0] * len(names), []
    for index, values in enumerate(parts.values()):
        scaled = [value / size for value in values]
        bars.append(panel.barh(names, scaled, 0.6, left=left, color=colours[index % len(colours)]))
        left = [start + value for start, value in zip(left, scaled, strict=True)]
    for place, total in enumerate(totals):
        panel.text(total / size, place, f" {_digits(total / size)}", va="center", fontsize=9)
    panel.set_xlim(0, 1.12 * max(totals) / size)
    panel.set_xlabel(f"{prefix}{unit}", fontsize=9)
    panel.tick_params(labelsize=9)
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)
    return bars
