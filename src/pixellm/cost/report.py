"""Costs of systems as tables, JSON and a chart."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pixellm.cost.bill import ORDER, Bill, Memory, System
from pixellm.cost.scenario import Scenario
from pixellm.utils.files import atomic_write, write_text

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
# Okabe and Ito's colours, which colour-blind readers tell apart; greys and purples for memory.
COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#CC79A7", "#009E73", "#8FD6B8", "#E69F00", "#F0E442", "#000000", "#999999")
OF_MEMORY = ("#333333", "#777777", "#BBBBBB", "#5E3C99", "#B2ABD2")


@dataclass(frozen=True)
class Cost:
    """Of one system in one scenario."""

    bill: Bill
    memory: Memory


@dataclass(frozen=True)
class Rows:
    """A table: what its first column holds is text, all else numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Without the title."""
        lines = [self.header, ("---", *["---:"] * (len(self.header) - 1)), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
        for index, name in enumerate(self.header):
            table.add_column(name, justify="right" if index else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        return table


def cost_of(system: System, scenario: Scenario) -> Cost:
    return Cost(system.bill(scenario), system.memory(scenario))


def parts_table(cost: Cost) -> Rows:
    """What each part of one system takes."""
    header = ("part", "parameters", "FLOPs a call", "calls", "FLOPs", "MACs", "share", "activations")
    bill, activations = cost.bill, cost.memory.activations
    rows = []
    for line in bill.lines:
        held = activations.get(line.part)
        size = quantity(line.parameters) if line.parameters else ""
        share = f"{line.total / bill.flops:.1%}" if bill.flops else ""
        memory = f"{quantity(held)}B" if held else ""
        rows.append(
            (
                *(line.part, size, quantity(line.flops), f"{line.calls}"),
                *(quantity(line.total), quantity(line.total / 2), share, memory),
            )
        )
    return Rows(bill.system, header, tuple(rows))


def summary_table(costs: Sequence[Cost]) -> Rows:
    """The systems side by side; the first is what the others are compared with."""
    header = ("system", "parameters", "FLOPs", "MACs", "ratio", "bf16", "int8", "int4", "KV cache", "activations")
    base, rows = costs[0].bill.flops, []
    for cost in costs:
        memory = cost.memory
        rows.append(
            (
                *(cost.bill.system, quantity(cost.bill.parameters), quantity(cost.bill.flops)),
                *(quantity(cost.bill.flops / 2), f"{cost.bill.flops / base:.2f}"),
                *(f"{quantity(memory.weights[kind])}B" for kind in ("bf16", "int8", "int4")),
                *(f"{quantity(memory.kv_cache)}B", f"{quantity(memory.peak)}B"),
            )
        )
    return Rows("whole answers", header, tuple(rows))


def quantity(value: float) -> str:
    """Three figures and a decimal prefix: 5.96 T."""
    for size, prefix in PREFIXES:
        if value >= 0.9995 * size:
            return f"{_figures(value / size)} {prefix}"
    return f"{_figures(value)} "


def _figures(value: float) -> str:
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}" if value else "0"


def as_json(costs: Sequence[Cost], scenario: Scenario) -> dict:
    """Everything, in FLOPs (two for each multiply-add) and bytes."""
    systems = [
        {
            "name": cost.bill.system,
            "parameters": cost.bill.parameters,
            "flops": cost.bill.flops,
            "macs": cost.bill.flops / 2,
            "parts": [asdict(line) | {"total_flops": line.total} for line in cost.bill.lines],
            "memory": asdict(cost.memory),
        }
        for cost in costs
    ]
    return {"scenario": asdict(scenario), "systems": systems}


def write(
    costs: Sequence[Cost], scenario: Scenario, tables: Sequence[Rows], json_path: Path | None, out: Path | None
) -> list[Path]:
    """Write what is wanted: JSON, and in the directory `out` JSON, Markdown and the chart. Gives the files."""
    text = json.dumps(as_json(costs, scenario), indent=1) + "\n"
    files = [path for path in (json_path, out and out / "cost.json") if path]
    for path in files:
        write_text(path, text)
    if out is None:
        return files
    chart(costs, out / "cost.png")
    write_text(out / "cost.md", "\n".join(f"## {table.title}\n\n{table.markdown()}" for table in tables))
    return [*files, out / "cost.md", out / "cost.png"]


def chart(costs: Sequence[Cost], path: Path) -> None:
    """A bar for each system: FLOPs by part, and bytes by what holds them."""
    from matplotlib.figure import Figure

    names = [cost.bill.system for cost in costs]
    found = dict.fromkeys(line.part for cost in costs for line in cost.bill.lines)
    parts = [*(part for part in ORDER if part in found), *(part for part in found if part not in ORDER)]
    flops = {part: [sum(x.total for x in c.bill.lines if x.part == part) for c in costs] for part in parts}
    weights = [cost.memory.weights for cost in costs]
    held = {
        "weights, int4": [kind["int4"] for kind in weights],
        "more at int8": [kind["int8"] - kind["int4"] for kind in weights],
        "more at bf16": [kind["bf16"] - kind["int8"] for kind in weights],
        "keys and values": [cost.memory.kv_cache for cost in costs],
        "activations": [cost.memory.peak for cost in costs],
    }
    figure = Figure(figsize=(11, 1.9 + 0.5 * len(costs)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, data, colours, unit, side in (
        (panels[0], flops, COLOURS, "FLOPs, two for a multiply-add", "left"),
        (panels[1], held, OF_MEMORY, "B", "right"),
    ):
        bars = _stack(panel, names, data, colours, unit)
        figure.legend(bars, data, fontsize=8, frameon=False, ncols=3, loc=f"outside lower {side}")
    panels[0].invert_yaxis()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _stack(panel, names: list[str], parts: dict[str, list[float]], colours: Sequence[str], unit: str) -> list:
    """Bars of stacked parts, in the prefix that suits the longest."""
    totals = [sum(values) for values in zip(*parts.values(), strict=True)]
    size, prefix = next((p for p in PREFIXES if max(totals) >= p[0]), (1.0, ""))
    left, bars = [0.0] * len(names), []
    for index, values in enumerate(parts.values()):
        scaled = [value / size for value in values]
        bars.append(panel.barh(names, scaled, 0.6, left=left, color=colours[index % len(colours)]))
        left = [start + value for start, value in zip(left, scaled, strict=True)]
    for place, total in enumerate(totals):
        panel.text(total / size, place, f" {_figures(total / size)}", va="center", fontsize=9)
    panel.set_xlim(0, 1.12 * max(totals) / size)
    panel.set_xlabel(f"{prefix}{unit}", fontsize=9)
    panel.tick_params(labelsize=9)
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)
    return bars
