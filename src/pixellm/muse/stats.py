"""Statistics of a MUSE data set (pairs, instances, categories, targets, descriptions), beside the published ones."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixellm.muse.layout import image_key, pairs_of
from pixellm.utils.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A word, a number or a mark counts as one token: a language model's tokens are a few more.
TOKEN = re.compile(r"\w+|[^\w\s]")
OURS, THEIRS = "#2a6f97", "#d1495b"  # colours of the plots


class PublishedMuse:
    """Released data set: numbers from its README and the paper, points read off its plots, roughly."""

    pairs = 246_000
    instances = 900_000  # "0.9 M"
    categories = 1_000  # "more than"
    mean_targets = 3.7
    max_targets = 34
    # (targets, questions that have as many)
    questions_with = ((2, 100_000), (3, 70_000), (4, 30_000), (5, 12_000), (10, 1_000), (18, 100))
    # (rank of a category, its instances): the largest, and the last with more than a hundred; the axis ends at 1,180.
    category_sizes = ((1, 6_000), (480, 100))
    description_mode = (12, 14)  # tokens
    description_range = (2, 105)


@dataclass
class MuseStatistics:
    """Counts of entries, added one by one.

    Args:
        keys: images, each once.
        pairs: questions.
        texts: questions whose answer has a text.
        categories: instances that are targets, by category.
        targets: questions by their number of targets.
        tokens: descriptions by their number of tokens.
    """

    keys: set[str] = field(default_factory=set)
    pairs: int = 0
    texts: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    targets: Counter[int] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Count an entry; an image without questions doesn't count. ValueError if it is no entry."""
        pairs = pairs_of(entry)
        if pairs:
            self.keys.add(image_key(entry))
        for pair in pairs:
            self.pairs += 1
            self.texts += pair.text is not None
            self.targets[len(pair.answer)] += 1
            for target in pair.answer:
                self.categories[str(target.get("category_name") or target.get("category_id"))] += 1
                if description := target.get("rephrased_name"):
                    self.tokens[len(TOKEN.findall(description))] += 1

    @property
    def images(self) -> int:
        return len(self.keys)

    @property
    def instances(self) -> int:
        """Targets of all questions; an instance of two questions counts twice, as in the published number."""
        return sum(self.categories.values())

    @property
    def mean_targets(self) -> float:
        return self.instances / max(1, self.pairs)

    @property
    def max_targets(self) -> int:
        return max(self.targets, default=0)

    @property
    def mean_tokens(self) -> float:
        return sum(length * count for length, count in self.tokens.items()) / max(1, self.tokens.total())

    def to_json(self) -> dict[str, Any]:
        """Return all numbers and histograms."""
        return {
            **{"images": self.images, "pairs": self.pairs, "texts": self.texts, "instances": self.instances},
            **{"categories": len(self.categories), "mean_targets": self.mean_targets, "max_targets": self.max_targets},
            **{"mean_description_tokens": self.mean_tokens, "max_description_tokens": max(self.tokens, default=0)},
            "instances_by_category": dict(self.categories.most_common()),
            "questions_by_targets": dict(sorted(self.targets.items())),
            "descriptions_by_tokens": dict(sorted(self.tokens.items())),
        }


def table(stats: MuseStatistics) -> list[tuple[str, str, str]]:
    """Return rows of (name, value here, published value)."""
    low, high = PublishedMuse.description_range
    mode = max(stats.tokens, key=lambda length: stats.tokens[length], default=0)
    lengths = (min(stats.tokens, default=0), max(stats.tokens, default=0))
    return [
        ("question-answer pairs", f"{stats.pairs:,}", f"{PublishedMuse.pairs:,}"),
        ("with a text", f"{stats.texts:,}", "most"),
        ("images", f"{stats.images:,}", "not stated"),
        ("instances (targets)", f"{stats.instances:,}", f"{PublishedMuse.instances:,}"),
        ("categories", f"{len(stats.categories):,}", f"> {PublishedMuse.categories:,}"),
        ("targets per question, mean", f"{stats.mean_targets:.2f}", f"{PublishedMuse.mean_targets}"),
        ("targets per question, most", f"{stats.max_targets}", f"{PublishedMuse.max_targets}"),
        ("description tokens, mean", f"{stats.mean_tokens:.1f}", "not stated"),
        ("description tokens, commonest", f"{mode}", "{}-{}".format(*PublishedMuse.description_mode)),
        ("description tokens, range", f"{lengths[0]}-{lengths[1]}", f"{low}-{high}"),
    ]


def plot(stats: MuseStatistics, path: Path, name: str) -> None:
    """Draw the paper's three plots into one .png, .pdf or .svg: categories, descriptions, targets."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    for axes, draw in zip(panels, (_plot_categories, _plot_descriptions, _plot_targets), strict=True):
        draw(axes, stats)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    counts = f"{stats.pairs:,} pairs, {stats.instances:,} instances, {len(stats.categories):,} categories"
    figure.suptitle(f"{name}: {counts}")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def _plot_categories(axes: "Axes", stats: MuseStatistics) -> None:
    sizes = [count for _, count in stats.categories.most_common()]
    axes.plot(range(1, len(sizes) + 1), sizes, color=OURS, label="here")
    axes.plot(*zip(*PublishedMuse.category_sizes, strict=True), "o", color=THEIRS, label="published, read off")
    axes.set(title="Instances per category", xlabel="category, the largest first", ylabel="instances")


def _plot_descriptions(axes: "Axes", stats: MuseStatistics) -> None:
    lengths = sorted(stats.tokens)
    axes.bar(lengths, [stats.tokens[length] for length in lengths], width=1, color=OURS, label="here")
    axes.axvspan(*PublishedMuse.description_mode, color=THEIRS, alpha=0.3, label="published: commonest")
    axes.axvline(PublishedMuse.description_range[1], color=THEIRS, linestyle=":", label="published: longest")
    axes.set(title="Tokens per description", xlabel="words and marks", ylabel="descriptions")


def _plot_targets(axes: "Axes", stats: MuseStatistics) -> None:
    counts = sorted(stats.targets)
    axes.bar(counts, [stats.targets[count] for count in counts], width=0.8, color=OURS, label="here")
    axes.plot(*zip(*PublishedMuse.questions_with, strict=True), "o", color=THEIRS, label="published, read off")
    axes.axvline(PublishedMuse.max_targets, color=THEIRS, linestyle=":", label="published: most")
    axes.set(title="Targets per question", xlabel="targets", ylabel="questions")
