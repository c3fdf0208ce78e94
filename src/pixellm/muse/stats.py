"""What a MUSE data set has: pairs, instances, categories, targets per question, lengths of descriptions."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pixellm.muse.layout import pairs_of, photograph

# A word, a number or a mark counts as one token: a language model's tokens are a few more.
TOKEN = re.compile(r"\w+|[^\w\s]")


class Published:
    """Of the released data set: the numbers from its README and the paper, the points read off its figures, roughly."""

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
class Statistics:
    """Counts of entries, added one by one.

    Args:
        images: photographs, each once.
        pairs: questions.
        texts: questions with a text for the answer.
        categories: instances that are targets, by category.
        targets: questions by how many targets they have.
        tokens: descriptions by how many tokens they have.
    """

    photographs: set[str] = field(default_factory=set)
    pairs: int = 0
    texts: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    targets: Counter[int] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)

    def add(self, one: Mapping[str, Any]) -> None:
        """Count an entry; one without questions counts as no image. A ValueError if it isn't one."""
        pairs = pairs_of(one)
        if pairs:
            self.photographs.add(photograph(one))
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
        return len(self.photographs)

    @property
    def instances(self) -> int:
        """Targets of all questions; one that two ask for counts twice, as in the published number."""
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
        """Every number and histogram."""
        return {
            **{"images": self.images, "pairs": self.pairs, "texts": self.texts, "instances": self.instances},
            **{"categories": len(self.categories), "mean_targets": self.mean_targets, "max_targets": self.max_targets},
            **{"mean_description_tokens": self.mean_tokens, "max_description_tokens": max(self.tokens, default=0)},
            "instances_by_category": dict(self.categories.most_common()),
            "questions_by_targets": dict(sorted(self.targets.items())),
            "descriptions_by_tokens": dict(sorted(self.tokens.items())),
        }


def statistics(entries: Iterable[Mapping[str, Any]]) -> Statistics:
    """Of all entries together."""
    found = Statistics()
    for one in entries:
        found.add(one)
    return found


def table(found: Statistics) -> list[tuple[str, str, str]]:
    """What is counted, in these data, and as published."""
    low, high = Published.description_range
    mode = max(found.tokens, key=lambda length: found.tokens[length], default=0)
    lengths = (min(found.tokens, default=0), max(found.tokens, default=0))
    return [
        ("question-answer pairs", f"{found.pairs:,}", f"{Published.pairs:,}"),
        ("with a text", f"{found.texts:,}", "most"),
        ("images", f"{found.images:,}", "not stated"),
        ("instances (targets)", f"{found.instances:,}", f"{Published.instances:,}"),
        ("categories", f"{len(found.categories):,}", f"> {Published.categories:,}"),
        ("targets per question, mean", f"{found.mean_targets:.2f}", f"{Published.mean_targets}"),
        ("targets per question, most", f"{found.max_targets}", f"{Published.max_targets}"),
        ("description tokens, mean", f"{found.mean_tokens:.1f}", "not stated"),
        ("description tokens, commonest", f"{mode}", "{}-{}".format(*Published.description_mode)),
        ("description tokens, range", f"{lengths[0]}-{lengths[1]}", f"{low}-{high}"),
    ]
