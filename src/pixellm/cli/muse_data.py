"""`pixellm muse check, export, validate, stats, merge, subset, split`: the data once they are made."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pixellm.cli.common import err_console, out_console, print_lines

if TYPE_CHECKING:
    from pixellm.muse.quality import Rules
    from pixellm.muse.records import MuseRecord

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Output of `pixellm muse generate`.")
]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", exists=True, dir_okay=False, help="JSON in the layout of MUSE.")
]
OneFile = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="JSON in the layout of MUSE.")
]
OutFile = Annotated[Path, typer.Option("--out", dir_okay=False, help="JSON file to write.")]
Json = Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write everything as JSON.")]
Val = Annotated[float, typer.Option(min=0, max=1, help="Share of the photographs for val.")]
Test = Annotated[float, typer.Option(min=0, max=1, help="Share of the photographs for test_less and test_many.")]
Seed = Annotated[int, typer.Option(help="Of what is drawn.")]


def check(
    directory: Directory,
    reject: Annotated[
        bool, typer.Option("--reject", help="Move what is faulty to the rejects, with the reason.")
    ] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Put each kind of fault into the records, and measure the checks.")
    ] = False,
    unsafe_words: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Words, one a line, in place of the short list that comes along."
        ),
    ] = None,
    language: Annotated[str, typer.Option(help="Of questions and answers, as an ISO 639-1 code.")] = "en",
    repeats: Annotated[
        int, typer.Option(min=0, help="How many records of other images may have almost the words of a first one.")
    ] = 0,
    json_path: Json = None,
) -> None:
    """Check generated records, each by itself and all together; exit code 1 if any is faulty."""
    from pixellm.muse.journal import Journal
    from pixellm.muse.quality import Fault, check_all

    with Journal(directory) as journal:
        rules = _rules(unsafe_words, directory, language, repeats)
        records = list(_progress(journal.records(), "reading"))
        if self_test:
            _self_test(records, rules, json_path)
            return
        found: list[tuple[str, Fault]] = []
        for record, faults in check_all(_progress(records, "checking"), rules):
            found += [(record.record_id, fault) for fault in faults]
        first = {record_id: fault for record_id, fault in reversed(found)}
        if reject:
            for record_id, fault in first.items():
                journal.reject(record_id, fault.check, fault.reason)
    _report([(fault.check, f"{record_id}: {fault.reason}") for record_id, fault in found])
    kept = f"{len(records) - len(first):,} of {len(records):,} records are good"
    print_lines(kept + (f", {len(first):,} were moved to the rejects" if reject and first else ""))
    if json_path:
        rows = [{"record_id": record_id, "check": f.check, "reason": f.reason} for record_id, f in found]
        _write_json(json_path, rows)
    raise typer.Exit(1 if first and not reject else 0)


def _rules(unsafe_words: Path | None, directory: Path, language: str, repeats: int) -> "Rules":
    from pixellm.muse.quality import Rules
    from pixellm.muse.quality.wording import unsafe_words as default
    from pixellm.muse.quality.wording import word_list
    from pixellm.muse.source import Source

    rule = word_list(unsafe_words.read_text(encoding="utf-8").splitlines()) if unsafe_words else default
    source = Source.of(directory)
    return Rules(rule, language, source.things if source else Rules.others, repeats)


def _self_test(records: list["MuseRecord"], rules: "Rules", json_path: Path | None) -> None:
    from dataclasses import asdict

    from pixellm.muse.quality.faults import measure

    if not records:
        raise ValueError("--self-test: expected records to put faults into, got none.")
    measured = measure(records, rules)
    head = ("check", "faults", "found", "false alarms", "in good ones", "precision", "recall")
    rows = [
        (
            *(one.check, f"{one.injected:,}", f"{one.caught:,}", f"{one.alarms:,}", f"{one.good:,}"),
            *(f"{one.precision:.3f}", f"{one.recall:.3f}"),
        )
        for one in measured
    ]
    _print_table(head, rows)
    if json_path:
        _write_json(json_path, [asdict(one) for one in measured])


def export(
    directory: Directory,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to write; new or empty.")],
    val: Val = 0.02,
    test: Test = 0.04,
    seed: Seed = 0,
    title: Annotated[str, typer.Option(help="Of the data set's card.")] = "MUSE",
    json_path: Json = None,
) -> None:
    """Write generated records as a data set: MUSE's JSON by split, Parquet, and a card."""
    from pixellm.muse.card import card
    from pixellm.muse.export import export as write
    from pixellm.muse.export import write_summary
    from pixellm.muse.journal import Journal
    from pixellm.muse.source import Source
    from pixellm.muse.splits import Shares

    shares = Shares(val, test, seed)
    source = Source.of(directory)
    with Journal(directory) as journal:
        found = write(
            lambda: _progress(journal.records(), "exporting"),
            out,
            lambda exported: card(exported, journal, shares, title),
            shares,
            source,
        )
    for name, one in found.splits.items():
        print_lines(f"{name:<10} {one.images:>9,} images {one.pairs:>9,} pairs {one.instances:>9,} targets")
    print_lines(*(f"left out: {count:,} · {reason}" for reason, count in found.left_out.items()), f"written: {out}")
    if json_path:
        write_summary(found, json_path)


def validate(
    files: Files,
    images: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of images, or of train2017, val2017 …")
    ] = None,
    json_path: Json = None,
) -> None:
    """Look for inconsistent records in MUSE files, one for each split; exit code 1 if there are any."""
    from dataclasses import asdict

    from pixellm.muse import validate as checks
    from pixellm.muse.layout import read_any

    validator = checks.Validator(images)
    problems, total = [], 0
    for path in files:
        for number, one in enumerate(_progress(read_any(path), path.name)):
            problems += validator.problems(str(path), number, one)
            total += 1
    _report([(one.kind, f"{one.file}, {one.record}: {one.reason}") for one in problems])
    print_lines(f"{total:,} entries, {len(problems):,} problems")
    if json_path:
        _write_json(json_path, [asdict(one) for one in problems])
    raise typer.Exit(1 if problems else 0)


def stats(
    files: Files,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Picture with the paper's three plots, .png, .pdf or .svg.")
    ] = None,
    json_path: Json = None,
) -> None:
    """Count pairs, instances, categories, targets and words of MUSE files, beside the published numbers."""
    if plot is not None and plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--plot: expected a .png, .pdf or .svg, got {plot}.")
    from pixellm.muse import stats as counting
    from pixellm.muse.layout import read

    found = counting.Statistics()
    for path in files:
        for one in _progress(read(path), path.name):
            found.add(one)
    _print_table(("", "here", "MUSE, published"), counting.table(found))
    if json_path:
        _write_json(json_path, found.to_json())
    if plot:
        from pixellm.muse.plots import draw

        draw(found, plot, ", ".join(path.stem for path in files))
        print_lines(f"plots: {plot}")


def merge(files: Files, out: OutFile) -> None:
    """Put MUSE files together: one entry for each photograph, each question once."""
    from pixellm.muse import layout, operations

    entries = operations.merge(one for path in files for one in layout.read(path))
    layout.write(out, entries)
    print_lines(_counted(entries), f"written: {out}")


def subset(
    file: OneFile,
    out: OutFile,
    pairs: Annotated[int | None, typer.Option(min=1, help="So many questions, of photographs drawn at random.")] = None,
    categories: Annotated[str, typer.Option(help="Only questions whose targets are all of these, with commas.")] = "",
    min_targets: Annotated[int, typer.Option(min=1)] = 1,
    max_targets: Annotated[int, typer.Option(min=1)] = 1_000_000,
    synthetic: Annotated[
        bool | None, typer.Option("--synthetic/--no-synthetic", help="Only those made by rules, or none of them.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Take a part of a MUSE file."""
    from pixellm.muse import layout, operations

    names = {name.strip() for name in categories.split(",") if name.strip()}
    part = operations.Part(pairs, names, (min_targets, max_targets), synthetic, seed)
    entries = operations.subset(layout.read(file), part)
    if not entries:
        raise ValueError(
            f"expected questions of that kind in {file}, got none. `pixellm muse stats` shows what is there."
        )
    layout.write(out, entries)
    print_lines(_counted(entries), f"written: {out}")


def split(
    files: Files,
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="Directory for muse_SPLIT.json.")],
    val: Val = 0.02,
    test: Test = 0.04,
    seed: Seed = 0,
) -> None:
    """Split MUSE files anew by photograph: train, val, test_less, test_many."""
    from pixellm.muse import layout, operations
    from pixellm.muse.splits import Shares

    shares = Shares(val, test, seed)
    found, left_out = operations.split((one for path in files for one in layout.read(path)), shares)
    for path, entries in zip(operations.write_splits(found, out), found.values(), strict=True):
        print_lines(f"{path}: {_counted(entries)}")
    if left_out:
        print_lines(f"left out: {left_out:,} questions of test images with another number of targets")


COMMANDS = (check, export, validate, stats, merge, subset, split)


def _counted(entries: list[dict[str, Any]]) -> str:
    return f"{len(entries):,} images, {sum(len(one['questions']) for one in entries):,} pairs"


def _progress(items: Iterable[Any], what: str) -> Iterator[Any]:
    return iter(track(items, what, console=err_console, transient=True))


SHOWN = 5  # of each kind


def _report(faults: list[tuple[str, str]]) -> None:
    """How many of each kind, and the first of them."""
    for kind, count in Counter(kind for kind, _ in faults).most_common():
        print_lines(f"{kind}: {count:,}")
        print_lines(*[f"  {reason}" for found, reason in faults if found == kind][:SHOWN])


def _print_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    first, *others = head
    table = Table(first, box=None)
    for name in others:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    # Squeezed figures say nothing.
    Console(highlight=False, markup=False, width=max(out_console.width, 100)).print(table)


def _write_json(path: Path, content: object) -> None:
    from pixellm.utils.files import write_text

    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
