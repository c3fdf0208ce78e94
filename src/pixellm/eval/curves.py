"""Loss curves of a training run, from the `trainer_state.json` that transformers' Trainer writes."""

import json
from pathlib import Path

import numpy as np

PANEL_INCHES = (4.2, 2.9)  # (width, height)
MAX_COLUMNS = 3
SMOOTH_SHARE = 0.02  # of the logged steps: standard deviation of the smoothing window


def loss_curves(trainer_state: Path, path: Path) -> list[str]:
    """Draw every logged loss over the steps, raw and smoothed, one panel each, to an image file.

    Args:
        trainer_state: the file; its `log_history` holds rows with `step` and `loss`, `loss_dice`, `eval_loss` …
        path: where to write, by its suffix as PNG, PDF or SVG.

    Returns:
        The names of the losses, in the order of the panels.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: not a trainer's state, or one without losses.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("expected matplotlib to draw loss curves. Run: pip install 'pixellm[train]'") from error

    series = read_losses(trainer_state)
    columns = min(MAX_COLUMNS, len(series))
    rows = -(-len(series) // columns)
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (name, (steps, values)) in zip(panels, series.items(), strict=False):
        panel.plot(steps, values, color="#56B4E9", linewidth=0.8, alpha=0.6, label="raw")
        panel.plot(steps, smooth(values), color="#0072B2", linewidth=1.8, label="smoothed")
        panel.set_title(f"{name}   (last, smoothed: {smooth(values)[-1]:.4g})", fontsize=10)
        panel.set_xlabel("step", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3)
        panel.set_ylim(*_limits(values))
    for panel in panels[len(series) :]:
        panel.set_visible(False)
    panels[0].legend(fontsize=8, frameon=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return list(series)


def read_losses(trainer_state: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values, both (N,), of every loss in a `trainer_state.json`; the total first."""
    try:
        history = json.loads(Path(trainer_state).read_text(encoding="utf-8"))["log_history"]
    except FileNotFoundError:
        raise ValueError(f"expected a trainer_state.json, got {trainer_state}, which does not exist.") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"expected a trainer_state.json with a log_history, got {trainer_state} ({error!r}). "
            "It lies in each checkpoint-… folder of a training run."
        ) from error
    points: dict[str, list[tuple[float, float]]] = {}
    for row in history:
        for name, value in row.items():
            if name in ("loss", "eval_loss") or name.startswith(("loss_", "eval_loss_")):
                points.setdefault(name, []).append((row["step"], float(value)))
    if not points:
        raise ValueError(f"expected losses in the log_history of {trainer_state}, got none. Was logging_steps reached?")
    names = sorted(points, key=lambda name: (name.startswith("eval"), name))
    return {name: (np.array(points[name])[:, 0], np.array(points[name])[:, 1]) for name in names}


def smooth(values: np.ndarray) -> np.ndarray:
    """Gaussian-weighted mean around each of (N,) values: without the lag of a moving average; NaN is passed over."""
    width = max(1.0, SMOOTH_SHARE * len(values))
    reach = round(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), kernel)[reach:-reach]
    weight = np.convolve(finite.astype(float), kernel)[reach:-reach]
    return np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 1e-9)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Of the vertical axis, so that a few spikes do not flatten the curve: up to the 99th percentile."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(np.percentile(finite, 99))
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin
