"""Rows of measurements → tables and pictures of docs/performance.md. Seconds stay in the rows; tables have ratios."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pixellm.cost.report import TextTable
from pixellm.eval.comparison import write_into
from pixellm.utils.files import atomic_write

ROOT = Path(__file__).parents[2]
DOCUMENT, IMAGES = ROOT / "docs" / "performance.md", ROOT / "docs" / "images"
Measured = Sequence[dict]
# Okabe and Ito's colours, as in the product's own pictures.
LOOKS = {
    "released": ("#D55E00", "the released code's way"),
    "cached": ("#0072B2", "generate, cached"),
    "ours": ("#009E73", "pixellm"),
    "products": ("#1A1A1A", "its matrix products alone"),
}


def write_report(rows: Measured) -> None:
    """Whatever was measured so far goes into the document, between its marks."""
    tables = {"question": question, "sharing": sharing, "decoder": decoder, "start": start}
    for part, table in tables.items():
        found = [row for row in rows if row["part"] == part]
        if found:
            write_into(DOCUMENT, table(found), part)
    shown = [row for row in rows if row["part"] == "question" and row["dtype"] == "float32" and not _order(row)[0]]
    plot(shown, IMAGES / "performance.png")


def question(rows: Measured) -> str:
    heads = [
        "device",
        "size",
        "dtype",
        "targets",
        "tokens",
        "first text",
        "first mask",
        "end",
        "released ÷ ours",
        "ours ÷ limit",
    ]
    lines = []
    for (device, size, dtype, targets), ways in grouped(rows, "device", "size", "dtype", "targets").items():
        ours, cached = ways["ours"], ways["cached"]
        mask = f"{cached['first_mask'] / ours['first_mask']:.2f}" if targets else ""
        lines.append(
            [
                *(device, size, dtype, targets, ours["tokens"]),
                f"{cached['first_text'] / ours['first_text']:.2f}",
                mask,
                f"{cached['end'] / ours['end']:.2f}",
                f"{ways['released']['end'] / ours['end']:.1f}",
                f"{ours['end'] / ways['products']['end']:.2f}" if "products" in ways else "",
            ]
        )
    return markdown(heads, lines)


def sharing(rows: Measured) -> str:
    heads = ["device", "size", "dtype", "what", "count", "calls of generate ÷ ours"]
    order = sorted(rows, key=lambda row: (*_order(row), row["kind"] != "questions"))
    names = {"questions": "questions on one image", "photographs": "images, one question each"}
    return markdown(
        heads,
        [
            [
                row["device"],
                row["size"],
                row["dtype"],
                names[row["kind"]],
                row["count"],
                f"{row['cached'] / row['ours']:.2f}",
            ]
            for row in order
        ],
    )


def decoder(rows: Measured) -> str:
    heads = [
        "device",
        "size",
        "dtype",
        "time of a further target ÷ released layout",
        "memory of a further target ÷ same",
    ]
    lines = []
    for (device, size, dtype), ways in grouped(rows, "device", "size", "dtype", key=("way", "targets")).items():
        shares = [slope(ways, "ours", figure) / slope(ways, "released", figure) for figure in ("seconds", "peak_mb")]
        lines.append([device, size, dtype, *(f"{share:.2f}" for share in shares)])
    return markdown(heads, lines)


def slope(ways: dict, way: str, figure: str) -> float:
    """What each target beyond the first adds."""
    counts = [targets for name, targets in ways if name == way]
    low, high = min(counts), max(counts)
    return (ways[way, high][figure] - ways[way, low][figure]) / (high - low)


def start(rows: Measured) -> str:
    lines = []
    for (device, size, dtype), ways in grouped(rows, "device", "size", "dtype").items():
        lines.append([device, size, dtype, *(f"{ways[way]['seconds']:.2f} s" for way in ("cold", "imports", "warm"))])
    return markdown(
        ["device", "size", "dtype", "process to answer", "of that imports", "asked again, same process"], lines
    )


def grouped(rows: Measured, *by: str, key: str | tuple[str, ...] = "way") -> dict[tuple, dict]:
    """TextTable by some of their fields, and within each group by `key`."""
    found: dict[tuple, dict] = {}
    for row in sorted(rows, key=lambda row: (*_order(row), row.get("targets", 0))):
        inner = row[key] if isinstance(key, str) else tuple(row[part] for part in key)
        found.setdefault(tuple(row[field] for field in by), {})[inner] = row
    return found


def _order(row: dict) -> tuple:
    return (not row["device"].endswith("cores"), row["size"], row["dtype"] != "float32")


def markdown(heads: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    return TextTable("", tuple(heads), tuple(tuple(map(str, line)) for line in lines)).markdown()


def plot(rows: Measured, path: Path) -> None:
    """Time to the end over the number of targets, for each size, as multiples of ours without a target."""
    from matplotlib.figure import Figure

    sizes = sorted({row["size"] for row in rows})
    if not sizes:
        return
    picture = Figure(figsize=(4.6 * len(sizes), 3.8), layout="constrained")
    for panel, size in zip(picture.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        own = [row for row in rows if row["size"] == size]
        unit = next(row["end"] for row in own if row["way"] == "ours" and row["targets"] == 0)
        for way, (colour, label) in LOOKS.items():
            points = sorted((row["targets"], row["end"] / unit) for row in own if row["way"] == way)
            panel.plot(*zip(*points, strict=True), "o-", color=colour, label=label, markersize=4)
        panel.set(yscale="log", title=size, xlabel="targets", ylabel="time to the end, ours without a target = 1")
        panel.grid(alpha=0.3, which="both")
        panel.legend(fontsize=8, frameon=False)
    with atomic_write(path) as temporary:
        picture.savefig(temporary, dpi=110)
