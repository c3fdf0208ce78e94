"""Comparison of two evaluations of the same questions: one table of metrics, one page of answers."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pixellm.eval.answer_page import choose, note
from pixellm.eval.report import TITLES, BenchmarkReport
from pixellm.imaging.contact_sheet import contact_sheet
from pixellm.imaging.images import load_image
from pixellm.utils.files import write_text

if TYPE_CHECKING:
    from rich.table import Table

QUESTIONS = 8  # on the page of answers


def rows(before: BenchmarkReport, after: BenchmarkReport) -> list[list[str]]:
    """Return a heading, then each row of both reports: questions, and each metric "before → after" in percent."""
    titles = {**{name: TITLES[name] for name in after.columns()}, **after.score_titles()}
    cells = [["", "questions", *titles.values()]]
    for (name, old), (_, new) in zip(before.rows(), after.rows(), strict=True):
        values = [
            f"{100 * old.values[c]:.1f} → {100 * new.values[c]:.1f}" if c in new.values and c in old.values else ""
            for c in titles
        ]
        cells.append([name, f"{new.questions}", *values])
    return cells


def table(before: BenchmarkReport, after: BenchmarkReport) -> "Table":
    """Return the metrics for a terminal."""
    from rich.table import Table

    heading, *lines = rows(before, after)
    result = Table(caption="percent, before → after")
    for index, title in enumerate(heading):
        result.add_column(title, justify="right" if index else "left", no_wrap=True)
    for line in lines:
        result.add_row(*line)
    return result


def write_before_after(before: BenchmarkReport, after: BenchmarkReport, out: Path) -> list[Path]:
    """Write `before_after.md`, and `before_after.jpg` with some answers of both, side by side."""
    heading, *lines = rows(before, after)
    text = [*(f"{line}\n" for line in after.about), "Percent, before → after.\n"]
    text += [f"| {' | '.join(heading)} |", "|---|" + "---:|" * (len(heading) - 1)]
    text += [f"| {' | '.join(line)} |" for line in lines]
    paths = [out / "before_after.md", out / "before_after.jpg"]
    write_text(paths[0], "\n".join(text) + "\n")
    old = {scored.question.id: scored for scored in before.scored}
    cards = []
    for scored in choose(after.scored, QUESTIONS):
        question = scored.question
        for when, answered in (("before", old[question.id]), ("after", scored)):
            answer = replace(answered.answer, question=question.text, image=load_image(question.image))
            cards.append(answer.card(f"{when}: {note(answered)}"))
    contact_sheet(cards, paths[1])
    return paths
