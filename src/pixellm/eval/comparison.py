"""Comparison of experiments: the metrics of several runs of each, from the files that their trainings wrote."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pixellm.utils.files import atomic_write, write_text

logger = logging.getLogger(__name__)

RUN = "run.json"  # in a run's directory: its recipe, and at the end its metrics
OLD_NAMES = {"silence": "no_target_accuracy"}
BAR, BASE_COLOUR, COLOUR = 0.55, "#0072B2", "#56B4E9"


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in their seeds alone."""

    name: str
    runs: tuple[Mapping[str, float], ...]

    def values(self, metric: str) -> list[float]:
        """Return a metric of each run that has it."""
        return [run[metric] for run in self.runs if metric in run]

    def summary(self, metric: str) -> str:
        """Return mean ± standard deviation over the runs, in percent."""
        values = [100 * value for value in self.values(metric)]
        if not values:
            return ""
        return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def read_runs(folders: Sequence[Path]) -> list[Experiment]:
    """Read all finished runs below some folders, by the names of their recipes.

    Raises:
        ValueError: there is none; two of a name are of different recipes or of one seed; they were not asked the same
            questions; or a file is not a training's.
    """
    runs: dict[str, dict[int, Mapping[str, float]]] = {}
    first: dict[str, tuple[Path, dict]] = {}  # of each name the first run's file and recipe
    for file in sorted({file.resolve() for folder in folders for file in folder.rglob(RUN)}):
        name, seed, recipe, metrics = _read_run(file)
        if not metrics:
            continue
        before, described = first.setdefault(name, (file, recipe))
        if described != recipe:
            raise ValueError(f"expected the same recipe in all runs of {name}, got others in {before} and {file}.")
        if seed in runs.setdefault(name, {}):
            raise ValueError(f"expected one run of {name} with the seed {seed}, got {file} and another one.")
        runs[name][seed] = metrics
    if not runs:
        raise ValueError(
            f"expected finished runs in {', '.join(map(str, folders))}, found none. A training writes its metrics to "
            f"{RUN} at its end, if its recipe has a validation."
        )
    (base, recipe), *others = first.values()
    for file, other in others:
        if other["validation"] != recipe["validation"]:
            raise ValueError(f"expected runs that were asked the same questions, got {base} and {file}.")
    return [Experiment(name, tuple(by_seed[seed] for seed in sorted(by_seed))) for name, by_seed in runs.items()]


def _read_run(file: Path) -> tuple[str, int, dict[str, Any], dict[str, float]]:
    """Return the name, seed, other settings and metrics of a run."""
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        recipe, metrics = dict(run["recipe"]), dict(run.get("metrics", run.get("figures")))
        name, seed = str(recipe["name"]), int(recipe.pop("seed"))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file}: expected what a training wrote, got something else ({error!r}).") from None
    for old, new in OLD_NAMES.items():
        if old in metrics:
            logger.warning("%s: the metric %s is called %s now", file, old, new)
            metrics[new] = metrics.pop(old)
    return name, seed, recipe, metrics


def with_base(experiments: Sequence[Experiment], base: str | None) -> list[Experiment]:
    """Put the experiment `base` first, which the others are compared with; by default that of the shortest name."""
    names = [experiment.name for experiment in experiments]
    base = base or min(names, key=len)
    if base not in names:
        raise ValueError(f"--base: expected one of {', '.join(names)}, got {base!r}.")
    return sorted(experiments, key=lambda experiment: experiment.name != base)


def difference(experiment: Experiment, base: Experiment, metric: str) -> tuple[float, float, float] | None:
    """Return the mean difference from the base and its 95 % interval (Welch's); None with fewer than two runs."""
    from scipy.stats import ttest_ind

    ours, theirs = experiment.values(metric), base.values(metric)
    if min(len(ours), len(theirs)) < 2:
        return None
    low, high = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    return mean(ours) - mean(theirs), float(low), float(high)


def markdown(experiments: Sequence[Experiment]) -> str:
    """Return a table: the base, then the others, each metric with its spread, the first one also as a difference."""
    base = experiments[0]
    metrics = _metrics(experiments)
    lines = [f"| experiment | runs | {' | '.join(metrics)} | {metrics[0]}, less that of {base.name} (95 %) | |"]
    lines.append("|---|---:|" + "---:|" * (len(metrics) + 1) + "---|")
    for experiment in experiments:
        change = difference(experiment, base, metrics[0]) if experiment is not base else None
        cells = [experiment.name, str(len(experiment.runs)), *(experiment.summary(metric) for metric in metrics)]
        if change:
            shift, low, high = (100 * value for value in change)
            cells += [f"{shift:+.1f} ({low:+.1f} to {high:+.1f})", verdict(low, high)]
        else:
            cells += ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _metrics(experiments: Sequence[Experiment]) -> list[str]:
    """Return the names of all metrics that any run has."""
    return list(dict.fromkeys(name for experiment in experiments for run in experiment.runs for name in run))


def verdict(low: float, high: float) -> str:
    """Put the confidence interval of a difference into words."""
    if low <= 0 <= high:
        return "no effect seen"
    return "better" if low > 0 else "worse"


def write_into(document: Path, table: str, name: str = "figures") -> None:
    """Put a table between the marks `<!-- name -->` of a document, or make the document of it."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    marked = f"{start}\n{table}{end}"
    text = document.read_text(encoding="utf-8") if document.is_file() else marked + "\n"
    place = re.compile(f"{re.escape(start)}\n.*?{re.escape(end)}", re.DOTALL)
    if not place.search(text):
        raise ValueError(f"{document}: expected the marks {start} and {end}, found none.")
    write_text(document, place.sub(lambda _: marked, text))


def plot(experiments: Sequence[Experiment], path: Path) -> None:
    """Draw a panel for each metric: every run a dot, the mean a bar."""
    from matplotlib.figure import Figure

    metrics = _metrics(experiments)
    figure = Figure(figsize=(2.4 + 2.8 * len(metrics), 0.9 + 0.36 * len(experiments)), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    places = range(len(experiments))
    for panel, metric in zip(panels, metrics, strict=True):
        for place, experiment in zip(places, experiments, strict=True):
            values = [100 * value for value in experiment.values(metric)]
            if values:
                panel.barh(place, mean(values), BAR, color=COLOUR if place else BASE_COLOUR, alpha=0.75)
                panel.plot(values, [place] * len(values), "o", color="#1A1A1A", markersize=4)
        base = experiments[0].values(metric)
        if base:
            panel.axvline(100 * mean(base), color=BASE_COLOUR, linewidth=1, linestyle="--")
        panel.set_title(f"{metric}, percent", fontsize=10)
        panel.tick_params(labelsize=9)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(list(places), [experiment.name for experiment in experiments])
    panels[0].invert_yaxis()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
