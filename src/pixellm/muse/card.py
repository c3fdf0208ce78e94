"""A data set's card: README.md with the fields that Hugging Face reads, and what a user has to know."""

from collections.abc import Iterable, Sequence

from pixellm.muse.export import Exported
from pixellm.muse.journal import Journal
from pixellm.muse.splits import FEW, Shares

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")


def card(found: Exported, journal: Journal, shares: Shares, title: str) -> str:
    """Of what was exported from a journal."""
    pairs = sum(found.makers.values())
    synthetic = sum(count for (*_, made), count in found.makers.items() if made)
    calls, tokens_in, tokens_out, cost = journal.spent()
    reviews = list(journal.reviews().values())
    counts = journal.counts()
    parts = [
        _front_matter(found, pairs),
        f"# {title}",
        "Questions about photographs that take reasoning, with answers that name several things and show each by a "
        "mask (the layout of MUSE, arXiv 2312.02228). `muse_SPLIT.json` is the released layout; `data/` holds the same "
        "as Parquet, one question a row, masks as COCO RLE. The photographs are not in it.",
        "## Content",
        _split_table(found),
        f"Split by photograph with the seed {shares.seed}: none is in two splits. test_less has questions with at most "
        f"{FEW} targets, test_many those with more.",
        _list("Left out", found.left_out.items()),
        "## Origin",
        _table(
            ("engine", "model", "prompt", "synthetic", "pairs"),
            [(*key[:3], "yes" if key[3] else "no", f"{count:,}") for key, count in sorted(found.makers.items())],
        ),
        f"{synthetic:,} of {pairs:,} pairs ({synthetic / pairs:.1%}) are synthetic: made by rules from the "
        "annotations, not by a model that saw the photograph.",
        f"Cost: {calls:,} calls, {tokens_in:,} tokens in, {tokens_out:,} tokens out, {cost:,.4f} in the currency of "
        "the price table.",
        f"Reviewed by people: {reviews.count('keep'):,} kept, {reviews.count('reject'):,} rejected.",
        _list("Rejected by checks", counts["rejected"].most_common()),
        _list("Images without a question", counts["skipped"].most_common()),
        "## Licences of the photographs",
        _table(("licence", "images"), [(name, f"{count:,}") for name, count in found.licences.most_common()]),
        "Each photograph keeps the licence of its owner (`license` of its entry), annotations that of their source.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _front_matter(found: Exported, pairs: int) -> str:
    size = SIZE_NAMES[sum(pairs >= bound for bound in SIZES)]
    files = [
        f"  - split: {name}\n    path: data/{name}-*.parquet" for name, one in found.splits.items() if one.pairs > 0
    ]
    lines = [
        *("---", "language: en", "license: other", "task_categories:", "- image-segmentation"),
        *("- visual-question-answering", "size_categories:", f"- {size}", "configs:", "- config_name: default"),
        *("  data_files:", *files, "---"),
    ]
    return "\n".join(lines)


def _split_table(found: Exported) -> str:
    head = ("split", "images", "pairs", "targets", "categories", "targets per question", "most")
    rows = [
        (
            *(name, f"{one.images:,}", f"{one.pairs:,}", f"{one.instances:,}", f"{len(one.categories):,}"),
            *(f"{one.mean_targets:.2f}", f"{one.max_targets}"),
        )
        for name, one in found.splits.items()
    ]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _list(title: str, counts: Iterable[tuple[str, int]]) -> str:
    lines = [f"- {name}: {count:,}" for name, count in counts]
    return "\n".join([f"{title}:", "", *lines]) if lines else ""
