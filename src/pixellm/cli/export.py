"""`pixellm export`: answers in the formats of other tools."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixellm.cli.common import print_lines

if TYPE_CHECKING:
    from pixellm.export.formats import Exported


class Format(StrEnum):
    COCO = "coco"
    LVIS = "lvis"
    LABELME = "labelme"
    YOLO = "yolo-seg"
    PNG = "png"
    CUTOUT = "cutout"
    MUSE = "muse"


def export(
    answers: Annotated[
        Path,
        typer.Argument(
            metavar="ANSWERS",
            exists=True,
            dir_okay=False,
            help="What `pixellm ask --json` or `pixellm batch` writes, or other predictions (docs/evaluation.md).",
        ),
    ],
    to: Annotated[Format, typer.Option(help="The format.")],
    out: Annotated[Path, typer.Option(help="File for coco, lvis and muse, else a new directory.")],
    image: Annotated[
        str | None, typer.Option(help="What the answers are about, where they don't say: a path, or example:NAME.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="For predictions that don't say: the file of questions, with images."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Pixels that polygons may be off, for fewer points; by default 0. coco and muse are run lengths "
            "without it, polygons with it.",
        ),
    ] = None,
) -> None:
    """Write answers for other tools: COCO, LVIS, labelme, YOLO, masks and cut-outs as PNG, MUSE."""
    from pixellm.export.answers import read_answers
    from pixellm.export.formats import export

    done = export(read_answers(answers, image, questions), to.value, out, tolerance)
    print_lines(*_report(done, to, out))


def _report(done: "Exported", to: Format, out: Path) -> list[str]:
    lines = [f"{to}: {done.masks:,} masks of {done.images:,} images: {out}"]
    if done.ious:
        mean = sum(done.ious) / len(done.ious)
        lines.append(f"polygons, filled again: IoU {mean:.4f} on average, {min(done.ious):.4f} at least")
    if done.empty:
        lines.append(f"left out: {done.empty:,} masks without a pixel")
    if done.unusable:
        lines.append(f"left out: {done.unusable:,} answers without a mask or a question")
    return lines
