"""How the cost of an answer grows with its targets and with its text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pixellm.cost.bill import System
from pixellm.cost.report import Rows
from pixellm.cost.scenario import PHRASE_TOKENS, Scenario
from pixellm.utils.files import atomic_write

TARGETS = tuple(range(1, 35))  # as many as MUSE's answers have
TEXTS = tuple(range(3 * PHRASE_TOKENS, 513, 11))
COLOURS = {"pixellm": "#0072B2", "lisa": "#D55E00"}


@dataclass(frozen=True)
class Curve:
    """TFLOP of answers, at each x."""

    label: str
    colour: str
    style: str
    cached: bool
    x: tuple[int, ...]
    tflops: tuple[float, ...]


def over_targets(targets: int) -> Scenario:
    """Each target is named by a phrase."""
    return Scenario(targets=targets, answer_tokens=PHRASE_TOKENS * targets)


def over_text(tokens: int) -> Scenario:
    """Three targets in an answer of so much text."""
    return Scenario(targets=3, answer_tokens=tokens)


def curves(
    pixellm: System, lisa: System, by_phrase: System, x: Sequence[int], to: Callable[[int], Scenario]
) -> list[Curve]:
    """PixelLM, LISA_aug (one [SEG] a target in one answer), LISA_rec, and both without a cache."""
    blue, red = COLOURS["pixellm"], COLOURS["lisa"]
    drawn = (
        ("PixelLM", pixellm, True, blue, "-"),
        ("LISA_aug: one [SEG] a target", lisa, True, red, "-"),
        ("LISA_rec: asked once a phrase", by_phrase, True, red, "--"),
        ("PixelLM, released decoding", pixellm, False, blue, ":"),
        ("LISA_aug, released decoding", lisa, False, red, ":"),
    )
    return [
        Curve(label, colour, style, cache, tuple(x), tuple(_tflops(system, to, value, cache) for value in x))
        for label, system, cache, colour, style in drawn
    ]


def _tflops(system: System, to: Callable[[int], Scenario], x: int, cache: bool) -> float:
    return system.bill(replace(to(x), cache=cache)).flops / 1e12


def table(found: Sequence[Curve], x_name: str, shown: Sequence[int]) -> Rows:
    """TFLOP at some x."""
    rows = [(curve.label, *(f"{curve.tflops[curve.x.index(x)]:,.1f}" for x in shown)) for curve in found]
    return Rows("growth", (f"TFLOP at {x_name} =", *map(str, shown)), tuple(rows))


def plot(found: Sequence[Curve], x_name: str, path: Path) -> None:
    """Left those with a cache, right all on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, chosen in zip(panels, ([curve for curve in found if curve.cached], found), strict=True):
        for curve in chosen:
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
