"""`pixellm predictions`: output files of other systems in the format that `score` and `export` read."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pixellm.cli.common import output_file, print_lines, reserve_stdout


class OtherSystem(StrEnum):
    SA2VA = "sa2va"
    FALCON = "falcon-perception"
    SAM3_AGENT = "sam3-agent"


def predictions(
    system: Annotated[OtherSystem, typer.Argument(help="System that wrote the files.")],
    files: Annotated[
        list[Path], typer.Argument(exists=True, help="Files, or directories of them, see docs/evaluation.md.")
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="JSON-lines file to write; -: to standard output.")],
    questions: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="File of `pixellm questions` whose ids the answers get. Default: ids IMAGE/NUMBER.",
        ),
    ] = None,
) -> None:
    """Convert output files of Sa2VA, Falcon-Perception or the SAM 3 agent into a file of predictions."""
    reserve_stdout(out)
    from pixellm.eval.other_systems import match_questions, number, read_outputs, write_answers

    outputs = read_outputs(system.value, files)
    answers = number(outputs) if questions is None else match_questions(outputs, questions)
    with output_file(out) as path:
        write_answers(answers, system.value, path)
    print_lines(f"{len(answers)} answers, {sum(len(answer.targets) for answer in answers)} masks: {out}")
