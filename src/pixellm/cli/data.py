"""`pixellm data`: data sets on disk."""

from pathlib import Path
from typing import Annotated

import typer

from pixellm.cli.common import STDOUT, err_console, out_console, output_file, print_lines, print_whole, reserve_stdout

app = typer.Typer(help="Find and check data sets on disk.", no_args_is_help=True)


@app.command("layout")
def data_layout(
    root: Annotated[Path, typer.Option(file_okay=False, help="Folder of all data sets.")] = Path("dataset"),
) -> None:
    """Print the folders of the published data sets, and which parts are missing."""
    from rich.tree import Tree

    from pixellm.data.catalogue import layout

    entries = layout(root)
    tree = Tree(str(root))
    folders = {"": tree}
    for entry in entries:
        *above, name = entry.path.split("/")
        for depth in range(1, len(above) + 1):
            path = "/".join(above[:depth])
            if path not in folders:
                folders[path] = folders["/".join(above[: depth - 1])].add(f"{above[depth - 1]}/")
        others = f"; or {', '.join(entry.others)}" if entry.others else ""
        state = "" if entry.present else "MISSING · "
        folders["/".join(above)].add(f"{name}  {state}{', '.join(entry.sets)}{others}")
    print_whole(tree)
    for name in sorted({name for entry in entries for name in entry.sets}):
        absent = sum(name in entry.sets and not entry.present for entry in entries)
        out_console.print(f"{name:<20} {'complete' if not absent else f'{absent} parts missing'}")


@app.command("check")
def data_check(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME|FILE", help="NAME or NAME:SPLIT of `pixellm data layout`, *.jsonl, or *.json."),
    ],
    root: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of all data sets; for a *.json, the folder of its images.")
    ] = Path("dataset"),
    out: Annotated[
        Path | None, typer.Option(help="Image of random samples to write, .jpg or .png; -: to standard output.")
    ] = None,
) -> None:
    """Read a whole data set: count its records, report bad ones; with --out draw random samples."""
    from pixellm.data.catalogue import open_data

    if out not in (None, STDOUT) and out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise ValueError(f"--out: expected a .jpg or .png, got {out}.")
    reserve_stdout(out)
    opened = open_data(name, root, max_bad_fraction=1.0)
    from rich.progress import track

    from pixellm.eval.data_check import check, report_lines, sample_sheet

    counts = check(opened, track(range(len(opened)), "reading", console=err_console, transient=True))
    print_lines(*report_lines(counts))
    if out is not None:
        with output_file(out, ".jpg") as path:
            drawn = sample_sheet(opened, path)
        if drawn:
            out_console.print(f"samples: {out}")
    raise typer.Exit(1 if counts.bad else 0)
