"""Scaling of an answer's cost with its targets and with its text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pixellm.cost.breakdown import PHRASE_TOKENS, CostModel, Scenario
from pixellm.cost.report import TextTable
from pixellm.utils.files import atomic_write

TARGETS = tuple(range(1, 35))  # as many as MUSE's answers have
TEXTS = tuple(range(3 * PHRASE_TOKENS, 513, 11))
COLOURS = {"pixellm": "#0072B2", "lisa": "#D55E00"}


@dataclass(frozen=True)
class Curve:
    """TFLOP of an answer at each x."""

    label: str
    colour: str
    style: str
    cached: bool
    x: tuple[int, ...]
    tflops: tuple[float, ...]


def over_targets(targets: int) -> Scenario:
    """Scenario of `targets` targets, each with a phrase."""
    return Scenario(targets=targets, answer_tokens=PHRASE_TOKENS * targets)


def over_text(tokens: int) -> Scenario:
    """Scenario of three targets in an answer of `tokens` text tokens."""
    return Scenario(targets=3, answer_tokens=tokens)


def curves(
    pixellm: CostModel, lisa: CostModel, by_phrase: CostModel, x: Sequence[int], to: Callable[[int], Scenario]
) -> list[Curve]:
    """PixelLM, LISA_aug (one [SEG] a target in one answer), LISA_rec, and both without a cache."""
    blue, red = COLOURS["pixellm"], COLOURS["lisa"]
    variants = (
        ("PixelLM", pixellm, True, blue, "-"),
        ("LISA_aug: one [SEG] a target", lisa, True, red, "-"),
        ("LISA_rec: asked once a phrase", by_phrase, True, red, "--"),
        ("PixelLM, released decoding", pixellm, False, blue, ":"),
        ("LISA_aug, released decoding", lisa, False, red, ":"),
    )
    return [
        Curve(label, colour, style, cache, tuple(x), tuple(_tflops(model, to, value, cache) for value in x))
        for label, model, cache, colour, style in variants
    ]


def _tflops(model: CostModel, to: Callable[[int], Scenario], x: int, cache: bool) -> float:
    return model.breakdown(replace(to(x), cache=cache)).flops / 1e12


def table(curves: Sequence[Curve], x_name: str, columns: Sequence[int]) -> TextTable:
    """Tabulate TFLOP at the x of `columns`."""
    rows = [(curve.label, *(f"{curve.tflops[curve.x.index(x)]:,.1f}" for x in columns)) for curve in curves]
    return TextTable("scaling", (f"TFLOP at {x_name} =", *map(str, columns)), tuple(rows))


def plot(curves: Sequence[Curve], x_name: str, path: Path) -> None:
    """Plot the curves with a cache (left), and all on a logarithmic axis (right)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, selected in zip(panels, ([curve for curve in curves if curve.cached], curves), strict=True):
        for curve in selected:
            panel.plot(curve.x, curve.tflops, curve.style, color=curve.colour, linewidth=1.8, label=curve.label)
        panel.set_xlabel(x_name)
        panel.set_ylabel("TFLOP an answer")
        panel.grid(alpha=0.3, which="both" if panel is panels[1] else "major")
    panels[0].set_ylim(bottom=0)
    panels[0].set_title("with a cache", fontsize=10)
    panels[1].set_yscale("log")
    panels[1].set_title("the released decoding reads everything again for every token", fontsize=10)
    for panel in panels:
        panel.legend(fontsize=8, frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
