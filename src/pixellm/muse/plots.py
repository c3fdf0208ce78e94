"""The paper's three plots of MUSE, with what is published beside what is here."""

from pathlib import Path
from typing import TYPE_CHECKING

from pixellm.muse.stats import Published, Statistics
from pixellm.utils.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, THEIRS = "#2a6f97", "#d1495b"


def draw(found: Statistics, path: Path, name: str) -> None:
    """Instances per category, tokens per description, targets per question: one picture, .png, .pdf or .svg."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    _categories(left, found)
    _descriptions(middle, found)
    _targets(right, found)
    for axes in (left, middle, right):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    right.legend(frameon=False)
    middle.legend(frameon=False)
    figure.suptitle(
        f"{name}: {found.pairs:,} pairs, {found.instances:,} instances, {len(found.categories):,} categories"
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def _categories(axes: "Axes", found: Statistics) -> None:
    sizes = [count for _, count in found.categories.most_common()]
    axes.plot(range(1, len(sizes) + 1), sizes, color=OURS, label="here")
    axes.plot(*zip(*Published.category_sizes, strict=True), "o", color=THEIRS, label="published, read off")
    axes.set(title="Instances per category", xlabel="category, the largest first", ylabel="instances")


def _descriptions(axes: "Axes", found: Statistics) -> None:
    lengths = sorted(found.tokens)
    axes.bar(lengths, [found.tokens[length] for length in lengths], width=1, color=OURS, label="here")
    axes.axvspan(*Published.description_mode, color=THEIRS, alpha=0.3, label="published: commonest")
    axes.axvline(Published.description_range[1], color=THEIRS, linestyle=":", label="published: longest")
    axes.set(title="Tokens per description", xlabel="words and marks", ylabel="descriptions")


def _targets(axes: "Axes", found: Statistics) -> None:
    counts = sorted(found.targets)
    axes.bar(counts, [found.targets[count] for count in counts], width=0.8, color=OURS, label="here")
    axes.plot(*zip(*Published.questions_with, strict=True), "o", color=THEIRS, label="published, read off")
    axes.axvline(Published.max_targets, color=THEIRS, linestyle=":", label="published: most")
    axes.set(title="Targets per question", xlabel="targets", ylabel="questions")
