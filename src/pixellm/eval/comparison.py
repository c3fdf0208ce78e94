"""Experiments side by side: the figures of several runs of each, from what their trainings wrote."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from pixellm.utils.files import atomic_write, write_text

RUN = "run.json"  # in a run's directory: its recipe, and at the end its figures
BAR, BASE_COLOUR, COLOUR = 0.55, "#0072B2", "#56B4E9"


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in their seeds alone."""

    name: str
    runs: tuple[Mapping[str, float], ...]

    def of(self, figure: str) -> list[float]:
        """A figure of each run."""
        return [run[figure] for run in self.runs if figure in run]

    def told(self, figure: str) -> str:
        """Mean ± standard deviation over the runs, in percent."""
        values = [100 * value for value in self.of(figure)]
        if not values:
            return ""
        return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def read_runs(folders: Sequence[Path]) -> list[Experiment]:
    """All finished runs below some folders, by the names of their recipes.

    Raises:
        ValueError: there is none; two of a name are of different recipes or of one seed; they were not asked the same
            questions; or no training wrote a file.
    """
    found: dict[str, dict[int, Mapping[str, float]]] = {}
    seen: dict[str, tuple[Path, dict]] = {}  # of each name the first run's file, and its recipe
    files = sorted({file.resolve() for folder in folders for file in folder.rglob(RUN)})
    for file in files:
        try:
            run = json.loads(file.read_text(encoding="utf-8"))
            recipe, figures = dict(run["recipe"]), dict(run["figures"])
            name, seed = str(recipe["name"]), int(recipe.pop("seed"))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: expected what a training wrote, got something else ({error!r}).") from None
        if not figures:
            continue
        first, described = seen.setdefault(name, (file, recipe))
        if described != recipe:
            raise ValueError(f"expected the same recipe in all runs of {name}, got others in {first} and {file}.")
        if seed in found.setdefault(name, {}):
            raise ValueError(f"expected one run of {name} with the seed {seed}, got {file} and another one.")
        found[name][seed] = figures
    if not found:
        raise ValueError(
            f"expected finished runs in {', '.join(map(str, folders))}, found none. A training writes its figures to "
            f"{RUN} at its end, if its recipe has a validation."
        )
    (one, recipe), *others = seen.values()
    for file, other in others:
        if other["validation"] != recipe["validation"]:
            raise ValueError(f"expected runs that were asked the same questions, got {one} and {file}.")
    return [Experiment(name, tuple(runs[seed] for seed in sorted(runs))) for name, runs in found.items()]


def with_base(experiments: Sequence[Experiment], base: str | None) -> list[Experiment]:
    """The experiment `base` first, which the others are compared with; by default the one of the shortest name."""
    names = [experiment.name for experiment in experiments]
    base = base or min(names, key=len)
    if base not in names:
        raise ValueError(f"--base: expected one of {', '.join(names)}, got {base!r}.")
    return sorted(experiments, key=lambda experiment: experiment.name != base)


def difference(experiment: Experiment, base: Experiment, figure: str) -> tuple[float, float, float] | None:
    """Mean difference from the base, and its 95 % interval (Welch's); None with fewer than two runs of either."""
    from scipy.stats import ttest_ind

    ours, theirs = experiment.of(figure), base.of(figure)
    if min(len(ours), len(theirs)) < 2:
        return None
    low, high = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    return mean(ours) - mean(theirs), float(low), float(high)


def markdown(experiments: Sequence[Experiment]) -> str:
    """A table: the base, then the others, each figure with its spread, the first one also as a difference."""
    base = experiments[0]
    figures = _figures(experiments)
    lines = [f"| experiment | runs | {' | '.join(figures)} | {figures[0]}, less that of {base.name} (95 %) | |"]
    lines.append("|---|---:|" + "---:|" * (len(figures) + 1) + "---|")
    for one in experiments:
        found = difference(one, base, figures[0]) if one is not base else None
        cells = [one.name, str(len(one.runs)), *(one.told(figure) for figure in figures)]
        if found:
            change, low, high = (100 * value for value in found)
            cells += [f"{change:+.1f} ({low:+.1f} to {high:+.1f})", verdict(low, high)]
        else:
            cells += ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _figures(experiments: Sequence[Experiment]) -> list[str]:
    """Names of all figures that any run has."""
    return list(dict.fromkeys(name for one in experiments for run in one.runs for name in run))


def verdict(low: float, high: float) -> str:
    """What the confidence interval of a difference says."""
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
    """A panel for each figure: every run a dot, the mean a bar."""
    from matplotlib.figure import Figure

    figures = _figures(experiments)
    picture = Figure(figsize=(2.4 + 2.8 * len(figures), 0.9 + 0.36 * len(experiments)), layout="constrained")
    panels = picture.subplots(1, len(figures), sharey=True, squeeze=False)[0]
    places = range(len(experiments))
    for panel, figure in zip(panels, figures, strict=True):
        for place, one in zip(places, experiments, strict=True):
            values = [100 * value for value in one.of(figure)]
            if values:
                panel.barh(place, mean(values), BAR, color=COLOUR if place else BASE_COLOUR, alpha=0.75)
                panel.plot(values, [place] * len(values), "o", color="#1A1A1A", markersize=4)
        base = experiments[0].of(figure)
        if base:
            panel.axvline(100 * mean(base), color=BASE_COLOUR, linewidth=1, linestyle="--")
        panel.set_title(f"{figure}, percent", fontsize=10)
        panel.tick_params(labelsize=9)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(list(places), [one.name for one in experiments])
    panels[0].invert_yaxis()
    with atomic_write(path) as temporary:
        picture.savefig(temporary, dpi=120)
