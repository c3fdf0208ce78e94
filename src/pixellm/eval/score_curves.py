"""Picture of how far scores can be trusted: reliability, ROC, and risk against coverage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pixellm.eval.calibration import BINS
from pixellm.utils.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "scores.png"
COLOUR, REFERENCE = "#0072B2", "#999999"
Points = Sequence[Mapping[str, float]]


def draw_curves(curves: Mapping[str, Points], path: Path) -> None:
    """Draw a panel for each of the curves of `ScoreTable.curves` that there is."""
    from matplotlib.figure import Figure

    drawers = {"reliability": _reliability, "roc": _roc, "risk_coverage": _risk_coverage}
    drawn = {name: curves[name] for name in drawers if name in curves}
    figure = Figure(figsize=(3.6 * len(drawn), 3.6), layout="constrained")
    for panel, (name, points) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        drawers[name](panel, points)
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
        panel.set_aspect("equal")
        panel.grid(alpha=0.3)
        panel.tick_params(labelsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _reliability(panel: "Axes", points: Points) -> None:
    starts, correct = [point["from"] for point in points], [point["correct"] for point in points]
    panel.bar(starts, correct, 1 / BINS, align="edge", color=COLOUR, alpha=0.75, edgecolor="white")
    panel.plot([0, 1], [0, 1], color=REFERENCE, linestyle="--", linewidth=1)
    _label(panel, "Reliability", "score", "share of masks with IoU ≥ 0.5")


def _roc(panel: "Axes", points: Points) -> None:
    false, true = ([0.0, *(point[f"{name}_positive_rate"] for point in points)] for name in ("false", "true"))
    panel.plot(false, true, color=COLOUR)
    panel.plot([0, 1], [0, 1], color=REFERENCE, linestyle="--", linewidth=1)
    _label(panel, "ROC of questions", "without a target, above the score", "with a target, above the score")


def _risk_coverage(panel: "Axes", points: Points) -> None:
    coverage, risk = [point["coverage"] for point in points], [point["risk"] for point in points]
    panel.plot(coverage, risk, color=COLOUR, marker=".", markersize=3)
    _label(panel, "Risk and coverage", "share of masks kept, by score", "risk: mean of 1 − IoU")


def _label(panel: "Axes", title: str, x: str, y: str) -> None:
    panel.set_title(title, fontsize=10)
    panel.set_xlabel(x, fontsize=9)
    panel.set_ylabel(y, fontsize=9)
