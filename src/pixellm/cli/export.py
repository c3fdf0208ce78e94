"""`pixellm export`: answers in the formats of other tools."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixellm.cli.common import STDOUT, MinScoreOption, output_file, print_lines, reserve_stdout

if TYPE_CHECKING:
    from pixellm.export.formats import ExportSummary


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
            help="File of answers, such as `pixellm ask --json` or `pixellm batch` write (docs/evaluation.md).",
        ),
    ],
    to: Annotated[Format, typer.Option(help="Format to write.")],
    out: Annotated[Path, typer.Option(help="New file to write for coco, lvis and muse, else a new directory.")],
    image: Annotated[
        str | None, typer.Option(help="Image of the answers, if the file does not say: a path, or example:NAME.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="File of questions that names the images."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Pixels that polygons may be off, for fewer points. Default: 0; coco and muse are run lengths without "
            "it, polygons with it.",
        ),
    ] = None,
    min_score: MinScoreOption = 0.0,
    merge_iou: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            help="Merge masks of several questions on an image whose IoU is at least this; the one with the highest "
            "score stays. Default: none are merged.",
        ),
    ] = None,
) -> None:
    """Write answers for other tools: COCO, LVIS, labelme, YOLO, masks and cut-outs as PNG, MUSE."""
    reserve_stdout(out)
    from pixellm.export.answers import read_answers
    from pixellm.export.formats import FILES, export

    if out == STDOUT and to not in FILES:
        raise ValueError(f"--out -: expected one of {', '.join(FILES)}, got {to}, which is a directory. Name one.")
    kept = [answer.above(min_score) for answer in read_answers(answers, image, questions)]
    with output_file(out, ".json") as path:
        summary = export(kept, to.value, path, tolerance, merge_iou)
    print_lines(*_report(summary, to, out))


def _report(summary: "ExportSummary", to: Format, out: Path) -> list[str]:
    lines = [f"{to}: {summary.masks:,} masks of {summary.images:,} images: {out}"]
    if ious := summary.ious:
        lines.append(f"polygons, filled again: IoU {sum(ious) / len(ious):.4f} on average, {min(ious):.4f} at least")
    if summary.empty:
        lines.append(f"left out: {summary.empty:,} masks without a pixel")
    if summary.merged:
        lines.append(f"merged: {summary.merged:,} masks with nearly equal ones")
    if summary.unusable:
        lines.append(f"left out: {summary.unusable:,} answers without a mask or a question")
    return lines
