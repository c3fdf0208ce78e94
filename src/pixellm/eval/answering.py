"""A model answers a benchmark's questions: batched, resumable, on one process or several.

Each process takes every n-th image and appends to a part file of its own; the first one puts the parts together when
all are done. After an interruption any number of processes goes on with what is missing.
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from pixellm import __version__
from pixellm.eval.benchmarks import Benchmark, BenchmarkQuestion
from pixellm.eval.predictions import read_answer
from pixellm.eval.report import digest
from pixellm.eval.resumable import CHUNK, append, ask_all, read, resume, write
from pixellm.types import Answer, Segmenter
from pixellm.utils.files import exclusive_lock

GENERATED = "by generation: the model is asked and writes its answer freely"
TEACHER_FORCED = "teacher-forced: the words and the number of masks were given, one forward pass (released validation)"
FILE, PARTS = "predictions.jsonl", "parts"
LONGEST_WAIT = timedelta(days=7)  # for the slowest process


def processes() -> tuple[int, int]:
    """The number of this process and how many there are (`torchrun` says)."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def fingerprint(benchmark: Benchmark, model: str, name: str, teacher_forced: bool) -> dict[str, Any]:
    """What the answers depend on.

    Args:
        benchmark: the questions.
        model: what identifies the model's weights.
        name: what it is called.
        teacher_forced: see `answer_all`.
    """
    return {
        "pixellm": __version__,
        "model": model,
        "name": name,
        "questions": digest(benchmark),
        "answers": TEACHER_FORCED if teacher_forced else GENERATED,
    }


def answer_all(
    segmenter: Segmenter, benchmark: Benchmark, out: Path, made: dict[str, Any], teacher_forced: bool, progress: bool
) -> Path | None:
    """Answer all questions that are not answered yet.

    Args:
        segmenter: gets each image once; with an `ask_many`, several questions on it at a time.
        benchmark: the questions.
        out: directory for `predictions.jsonl`; until it is complete, for `parts/`.
        made: the fingerprint.
        teacher_forced: the answer "{seg}." is given (`BenchmarkQuestion.given_answer`), which not every segmenter can.
        progress: show a progress bar.

    Returns:
        The file of all answers; None on all processes but the first.

    Raises:
        ValueError: `out` holds answers of something else, another process works on it, or the segmenter can't be
            teacher-forced.
    """
    if teacher_forced and not hasattr(segmenter, "segment_given"):
        raise ValueError("--teacher-forced: expected a PixelLM model, got one that can't be given an answer.")
    rank, world = processes()
    path = out / FILE
    if path.is_file():
        read(path, made)  # it is complete, or of something else
        return path if rank == 0 else None
    meet(world)
    part = out / PARTS / f"{rank}.jsonl"
    with exclusive_lock(part):
        _answer_mine(segmenter, benchmark, part, made, teacher_forced, progress)
    meet(world)
    return _join(benchmark, out, made) if rank == 0 else None


def _answer_mine(
    segmenter: Segmenter, benchmark: Benchmark, part: Path, made: dict[str, Any], teacher_forced: bool, progress: bool
) -> None:
    """Of the questions that are not answered yet, the share of this process."""
    from rich.console import Console
    from rich.progress import Progress

    rank, world = processes()
    done = {
        row["id"] for other in sorted(part.parent.glob("[0-9]*.jsonl")) if other != part for row in read(other, made)
    }
    done |= {answer.id for answer in resume(part, made, read_answer)}
    mine = _by_image(benchmark.questions)[rank::world]
    pending = [[question for question in asked if question.id not in done] for asked in mine]
    total = sum(map(len, mine))
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("questions", total=total, completed=total - sum(map(len, pending)))
        for asked in filter(None, pending):
            answers = _answers(segmenter, asked, teacher_forced)
            rows = [replace(a, id=q.id, image_path=str(q.image)) for q, a in zip(asked, answers, strict=True)]
            append(part, (row.to_json() for row in rows))
            bar.advance(task, len(asked))


def _by_image(questions: Sequence[BenchmarkQuestion]) -> list[list[BenchmarkQuestion]]:
    images: dict[Path, list[BenchmarkQuestion]] = defaultdict(list)
    for question in questions:
        images[question.image].append(question)
    return list(images.values())


def _answers(segmenter: Segmenter, asked: Sequence[BenchmarkQuestion], teacher_forced: bool) -> list[Answer]:
    """To questions on one image."""
    segmenter.set_image(str(asked[0].image))
    if not teacher_forced:
        return ask_all(segmenter, [question.text for question in asked])
    given = [(question.text, question.given_answer) for question in asked]
    return [
        answer
        for at in range(0, len(given), CHUNK)
        for answer in segmenter.segment_given(*zip(*given[at : at + CHUNK], strict=True))  # type: ignore[attr-defined]
    ]


def meet(world: int) -> None:
    """Wait until all processes are here; one that dies ends all (`torchrun`).

    They meet at the start, too: later, whoever brought them together may be gone.
    """
    if world == 1:
        return
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    dist.barrier()


def _join(benchmark: Benchmark, out: Path, made: dict[str, Any]) -> Path:
    """All parts → one file, in the order of the questions."""
    rows = {row["id"]: row for part in sorted((out / PARTS).glob("[0-9]*.jsonl")) for row in read(part, made)}
    write(out / FILE, made, (rows[question.id] for question in benchmark.questions))
    shutil.rmtree(out / PARTS)
    return out / FILE
