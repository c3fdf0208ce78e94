"""What became of each key of a released checkpoint."""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Report:
    """What became of each released key.

    Args:
        used: released key (or CLIP's) → ours.
        dropped: released keys that no part of the model of this configuration reads.
        unknown: keys that nothing here knows; left out, too.
        missing: our keys that nothing gave, so that the model cannot be complete.
        mismatched: our key → (expected, got) shapes.
        constants: our keys written from the released code's constants.
    """

    used: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.mismatched or self.unknown)


def describe_faults(report: Report, name: str) -> str:
    """What makes a checkpoint of the model called `name` unusable, in a sentence."""
    parts = [
        f"{len(keys)} {what} ({', '.join(list(keys)[:3])}{', …' if len(keys) > 3 else ''})"
        for what, keys in (
            ("keys missing", report.missing),
            ("keys unknown", report.unknown),
            ("keys of the wrong shape", report.mismatched),
        )
        if keys
    ]
    return "; ".join(parts) + f". Is it a {name} checkpoint, with the CLIP that it was trained with?"


def report_lines(report: Report) -> Iterator[str]:
    """The report, a line for each group of keys."""
    yield f"used {len(report.used)} keys"
    if report.constants:
        yield f"written from the released code's constants: {', '.join(report.constants)}"
    for what, keys in (("dropped", report.dropped), ("unknown", report.unknown), ("missing", report.missing)):
        yield f"{what} {len(keys)} keys" + (f": {', '.join(keys)}" if keys else "")
    for key, (expected, got) in report.mismatched.items():
        yield f"{key}: expected shape {expected}, got {got}"
