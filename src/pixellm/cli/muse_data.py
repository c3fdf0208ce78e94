"""`pixellm muse check, export, validate, stats, merge, subset, split`: commands on generated data."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pixellm.cli.common import STDOUT, err_console, out_console, output_file, print_lines, reserve_stdout

if TYPE_CHECKING:
    from pixellm.muse.quality.checks import QualityRules
    from pixellm.muse.records import MuseRecord

JournalDir = Annotated[
    Path,
    typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Output directory of `pixellm muse generate`."),
]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", exists=True, dir_okay=False, help="JSON file in the layout of MUSE.")
]
OneFile = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="JSON file in the layout of MUSE.")
]
OutFile = Annotated[Path, typer.Option("--out", dir_okay=False, help="JSON file to write, or `-`.")]
Json = Annotated[
    Path | None, typer.Option("--json", dir_okay=False, help="Write all results as JSON; `-`: to standard output.")
]
Val = Annotated[float, typer.Option(min=0, max=1, help="Share of the images for val.")]
Test = Annotated[float, typer.Option(min=0, max=1, help="Share of the images for test_less and test_many.")]
Seed = Annotated[int, typer.Option(help="Sampling seed.")]
SHOWN = 5  # problems of a kind that are printed


def check(
    directory: JournalDir,
    reject: Annotated[
        bool, typer.Option("--reject", help="Move records with issues to the rejects, with the reason.")
    ] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Inject each kind of fault into the records, and measure the checks.")
    ] = False,
    unsafe_words: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="File of unsafe words, one a line, in place of the built-in list."
        ),
    ] = None,
    language: Annotated[str, typer.Option(help="Language of questions and answers, an ISO 639-1 code.")] = "en",
    repeats: Annotated[
        int,
        typer.Option(min=0, help="Number of records about other images that may share almost the text of a first one."),
    ] = 0,
    json_path: Json = None,
) -> None:
    """Check generated records, each by itself and all together; exit code 1 if any has an issue."""
    from pixellm.muse.journal import Journal
    from pixellm.muse.quality.checks import Issue
    from pixellm.muse.quality.duplicates import check_all

    reserve_stdout(json_path)
    with Journal(directory) as journal:
        rules = _rules(unsafe_words, directory, language, repeats)
        records = list(_progress(journal.records(), "reading"))
        if self_test:
            _self_test(records, rules, json_path)
            return
        rows: list[tuple[str, Issue]] = []
        for record, issues in check_all(_progress(records, "checking"), rules):
            rows += [(record.record_id, issue) for issue in issues]
        first = {record_id: issue for record_id, issue in reversed(rows)}
        if reject:
            for record_id, issue in first.items():
                journal.reject(record_id, issue.check, issue.reason)
    _report([(issue.check, f"{record_id}: {issue.reason}") for record_id, issue in rows])
    kept = f"{len(records) - len(first):,} of {len(records):,} records are good"
    print_lines(kept + (f", {len(first):,} were moved to the rejects" if reject and first else ""))
    _write_json(json_path, [{"record_id": name, "check": row.check, "reason": row.reason} for name, row in rows])
    raise typer.Exit(1 if first and not reject else 0)


def _rules(unsafe_words: Path | None, directory: Path, language: str, repeats: int) -> "QualityRules":
    from pixellm.muse.annotation_index import AnnotationIndex
    from pixellm.muse.quality.checks import DEFAULT, QualityRules
    from pixellm.muse.quality.wording import word_list

    rule = word_list(unsafe_words.read_text(encoding="utf-8").splitlines()) if unsafe_words else DEFAULT.unsafe
    index = AnnotationIndex.find(directory)
    return QualityRules(rule, language, index.instances if index else DEFAULT.others, repeats)


def _self_test(records: list["MuseRecord"], rules: "QualityRules", json_path: Path | None) -> None:
    from dataclasses import asdict

    from pixellm.muse.quality.fault_injection import measure

    if not records:
        raise ValueError("--self-test: expected records to inject faults into, got none.")
    scores = measure(records, rules)
    head = ("check", "faults", "caught", "false alarms", "in good ones", "precision", "recall")
    rows = [
        (
            *(row.check, f"{row.injected:,}", f"{row.caught:,}", f"{row.alarms:,}", f"{row.good:,}"),
            *(f"{row.precision:.3f}", f"{row.recall:.3f}"),
        )
        for row in scores
    ]
    _print_table(head, rows)
    _write_json(json_path, [asdict(row) for row in scores])


def export(
    directory: JournalDir,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output directory: new or empty.")],
    val: Val = 0.02,
    test: Test = 0.04,
    seed: Seed = 0,
    title: Annotated[str, typer.Option(help="Title of the data set's card.")] = "MUSE",
    json_path: Json = None,
) -> None:
    """Export generated records as a data set: MUSE's JSON by split, Parquet, and a card."""
    from pixellm.muse.annotation_index import AnnotationIndex
    from pixellm.muse.card import card
    from pixellm.muse.export import export as write
    from pixellm.muse.journal import Journal
    from pixellm.muse.operations import SplitShares

    reserve_stdout(json_path)
    shares = SplitShares(val, test, seed)
    index = AnnotationIndex.find(directory)
    with Journal(directory) as journal:
        result = write(
            lambda: _progress(journal.records(), "exporting"),
            out,
            lambda counts: card(counts, journal, shares, title),
            shares,
            index,
        )
    for name, row in result.splits.items():
        print_lines(f"{name:<10} {row.images:>9,} images {row.pairs:>9,} pairs {row.instances:>9,} targets")
    print_lines(*(f"left out: {count:,} · {reason}" for reason, count in result.left_out.items()), f"written: {out}")
    _write_json(json_path, result.to_json())


def validate(
    files: Files,
    images: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder of images, or of train2017, val2017 …, to compare with."
        ),
    ] = None,
    json_path: Json = None,
) -> None:
    """Validate MUSE files, one for each split; exit code 1 if anything is inconsistent."""
    from dataclasses import asdict

    from pixellm.muse.layout import read_any
    from pixellm.muse.validate import LayoutValidator

    reserve_stdout(json_path)
    validator = LayoutValidator(images)
    problems, total = [], 0
    for path in files:
        for number, entry in enumerate(_progress(read_any(path), path.name)):
            problems += validator.problems(str(path), number, entry)
            total += 1
    _report([(row.kind, f"{row.file}, {row.record}: {row.reason}") for row in problems])
    print_lines(f"{total:,} entries, {len(problems):,} problems")
    _write_json(json_path, [asdict(row) for row in problems])
    raise typer.Exit(1 if problems else 0)


def stats(
    files: Files,
    plot: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="File for the paper's three plots, .png, .pdf or .svg; `-`: PNG."),
    ] = None,
    json_path: Json = None,
) -> None:
    """Count pairs, instances, categories, targets and words of MUSE files, beside the published numbers."""
    if plot is not None and plot != STDOUT and plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--plot: expected a .png, .pdf or .svg, got {plot}.")
    from pixellm.muse import stats as statistics
    from pixellm.muse.layout import read

    reserve_stdout(plot, json_path)
    counts = statistics.MuseStatistics()
    for path in files:
        for entry in _progress(read(path), path.name):
            counts.add(entry)
    _print_table(("", "here", "MUSE, published"), statistics.table(counts))
    _write_json(json_path, counts.to_json())
    if plot:
        with output_file(plot, ".png") as out:
            statistics.plot(counts, out, ", ".join(path.stem for path in files))
        print_lines(f"plots: {plot}")


def merge(files: Files, out: OutFile) -> None:
    """Merge MUSE files: one entry for each image, each question once."""
    from pixellm.muse import layout, operations

    _write_entries(out, operations.merge(entry for path in files for entry in layout.read(path)))


def subset(
    file: OneFile,
    out: OutFile,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Number of questions, about randomly sampled images.")
    ] = None,
    categories: Annotated[
        str, typer.Option(help="Categories that all targets of a question must have, separated by commas.")
    ] = "",
    min_targets: Annotated[int, typer.Option(min=1, help="Least number of targets of a question.")] = 1,
    max_targets: Annotated[int, typer.Option(min=1, help="Largest number of targets of a question.")] = 1_000_000,
    synthetic: Annotated[
        bool | None,
        typer.Option("--synthetic/--no-synthetic", help="Take only questions made by rules, or none of them."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Take a subset of a MUSE file."""
    from pixellm.muse import layout, operations

    names = {name.strip() for name in categories.split(",") if name.strip()}
    spec = operations.SubsetSpec(pairs, names, (min_targets, max_targets), synthetic, seed)
    entries = operations.subset(layout.read(file), spec)
    if not entries:
        raise ValueError(
            f"expected questions of that kind in {file}, got none. `pixellm muse stats` shows what is there."
        )
    _write_entries(out, entries)


def split(
    files: Files,
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="Output directory for muse_SPLIT.json.")],
    val: Val = 0.02,
    test: Test = 0.04,
    seed: Seed = 0,
) -> None:
    """Split MUSE files anew by image: train, val, test_less, test_many."""
    from pixellm.muse import layout, operations

    shares = operations.SplitShares(val, test, seed)
    splits, left_out = operations.split((entry for path in files for entry in layout.read(path)), shares)
    for path, entries in zip(operations.write_splits(splits, out), splits.values(), strict=True):
        print_lines(f"{path}: {_counted(entries)}")
    if left_out:
        print_lines(f"left out: {left_out:,} questions of test images with another number of targets")


COMMANDS = (check, export, validate, stats, merge, subset, split)


def _write_entries(out: Path, entries: list[dict[str, Any]]) -> None:
    from pixellm.muse import layout

    reserve_stdout(out)
    with output_file(out) as path:
        layout.write(path, entries)
    print_lines(_counted(entries), f"written: {out}")


def _counted(entries: list[dict[str, Any]]) -> str:
    return f"{len(entries):,} images, {sum(len(row['questions']) for row in entries):,} pairs"


def _progress(items: Iterable[Any], title: str) -> Iterator[Any]:
    return iter(track(items, title, console=err_console, transient=True))


def _report(problems: list[tuple[str, str]]) -> None:
    """Print the number of problems by kind, and the first of each."""
    for kind, count in Counter(kind for kind, _ in problems).most_common():
        print_lines(f"{kind}: {count:,}" + (f", the first {SHOWN} of them:" if count > SHOWN else ""))
        print_lines(*[f"  {reason}" for other, reason in problems if other == kind][:SHOWN])


def _print_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    first, *others = head
    table = Table(first, box=None)
    for name in others:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    # A minimum width, because columns that are squeezed can't be read.
    width = max(out_console.width, 100)
    Console(highlight=False, markup=False, width=width, stderr=out_console.stderr).print(table)


def _write_json(out: Path | None, content: object) -> None:
    from pixellm.utils.files import write_text

    if out:
        with output_file(out) as path:
            write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
