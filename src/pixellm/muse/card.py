"""Data set card: README.md with the fields that Hugging Face reads, and what users have to know."""

from collections.abc import Iterable, Sequence

from pixellm.muse.export import MuseExport
from pixellm.muse.journal import Journal
from pixellm.muse.operations import FEW, SplitShares

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")


def card(result: MuseExport, journal: Journal, shares: SplitShares, title: str) -> str:
    """Return the card of an export from a journal."""
    pairs = sum(result.origins.values())
    synthetic = sum(count for (*_, is_synthetic), count in result.origins.items() if is_synthetic)
    reviews = list(journal.reviews().values())
    counts = journal.counts()
    parts = [
        _front_matter(result, pairs),
        f"# {title}",
        "Questions about images that take reasoning, with answers that name several objects and segment each "
        "(MUSE, arXiv 2312.02228). `muse_SPLIT.json` is the released layout; `data/` holds the same as Parquet, one "
        "question a row, masks as COCO RLE. The images are not in it.",
        "## Content",
        _split_table(result),
        f"Split by image with the seed {shares.seed}: no image is in two splits. test_less has questions with at most "
        f"{FEW} targets, test_many those with more.",
        _list("Left out", result.left_out.items()),
        "## Origin",
        _table(
            ("engine", "model", "prompt", "synthetic", "pairs"),
            [(*key[:3], "yes" if key[3] else "no", f"{count:,}") for key, count in sorted(result.origins.items())],
        ),
        f"{synthetic:,} of {pairs:,} pairs ({synthetic / pairs:.1%}) are synthetic: made by rules from the "
        "annotations, not by a model that saw the image.",
        _bullets("Cost", journal.account()),
        f"Reviewed by people: {reviews.count('keep'):,} kept, {reviews.count('reject'):,} rejected.",
        _list("Rejected by checks", counts["rejected"].most_common()),
        _list("Images without a question", counts["skipped"].most_common()),
        "## Licences of the images",
        _table(("licence", "images"), [(name, f"{count:,}") for name, count in result.licences.most_common()]),
        "Each image keeps the licence of its owner (`license` of its entry), annotations that of their source.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _front_matter(result: MuseExport, pairs: int) -> str:
    size = SIZE_NAMES[sum(pairs >= bound for bound in SIZES)]
    splits = [name for name, stats in result.splits.items() if stats.pairs > 0]
    files = [f"  - split: {name}\n    path: data/{name}-*.parquet" for name in splits]
    lines = [
        *("---", "language: en", "license: other", "task_categories:", "- image-segmentation"),
        *("- visual-question-answering", "size_categories:", f"- {size}", "configs:", "- config_name: default"),
        *("  data_files:", *files, "---"),
    ]
    return "\n".join(lines)


def _split_table(result: MuseExport) -> str:
    head = ("split", "images", "pairs", "targets", "categories", "targets per question", "most")
    rows = [
        (
            *(name, f"{row.images:,}", f"{row.pairs:,}", f"{row.instances:,}", f"{len(row.categories):,}"),
            *(f"{row.mean_targets:.2f}", f"{row.max_targets}"),
        )
        for name, row in result.splits.items()
    ]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _list(title: str, counts: Iterable[tuple[str, int]]) -> str:
    return _bullets(title, [f"{name}: {count:,}" for name, count in counts])


def _bullets(title: str, lines: Iterable[str]) -> str:
    lines = [f"- {line}" for line in lines]
    return "\n".join([f"{title}:", "", *lines]) if lines else ""
