"""Answering of a benchmark's questions by a model: batched, resumable, on one process or several.

Each process takes every n-th image and appends to its own part file; the first one joins the parts when all are done.
After an interruption any number of processes resumes.
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
from pixellm.eval.resumable import CHUNK, append, ask_all, read, resume, write
from pixellm.types import Answer, Segmenter
from pixellm.utils.files import exclusive_lock

GENERATED = "by generation: the model is asked and writes its answer freely"
TEACHER_FORCED = "teacher-forced: the words and the number of masks were given, one forward pass (released validation)"
FILE, PARTS = "predictions.jsonl", "parts"
MAX_WAIT = timedelta(days=7)  # for the slowest process


def processes() -> tuple[int, int]:
    """Return the rank of this process and the number of processes, as `torchrun` sets them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def fingerprint(benchmark: Benchmark, model: str, name: str, teacher_forced: bool) -> dict[str, Any]:
    """Return what the answers depend on.

    Args:
        benchmark: the questions.
        model: digest of the model's weights.
        name: of the model.
        teacher_forced: see `answer_all`.
    """
    return {
        "pixellm": __version__,
        "model": model,
        "name": name,
        "questions": benchmark.digest,
        "answers": TEACHER_FORCED if teacher_forced else GENERATED,
    }


def answer_all(
    segmenter: Segmenter, benchmark: Benchmark, out: Path, made: dict[str, Any], teacher_forced: bool, progress: bool
) -> Path | None:
    """Answer all questions that are not answered yet.

    Args:
        segmenter: gets each image once, and several questions on it at a time.
        benchmark: the questions.
        out: directory for `predictions.jsonl`; until it is complete, for `parts/`.
        made: the fingerprint.
        teacher_forced: let the model only segment `BenchmarkQuestion.reference_answer`.
        progress: show a progress bar.

    Returns:
        The file of all answers; None on all processes but the first.

    Raises:
        ValueError: `out` holds answers of something else, another process works on it, or the segmenter can't be
            teacher-forced.
    """
    if teacher_forced and not segmenter.teacher_forcing:
        raise ValueError("--teacher-forced: expected a PixelLM model, got one that can't be teacher-forced.")
    rank, world = processes()
    path = out / FILE
    if path.is_file():
        read(path, made)  # it is complete, or of something else
        return path if rank == 0 else None
    wait_for_all(world)
    file = out / PARTS / f"{rank}.jsonl"
    with exclusive_lock(file):
        _answer_share(segmenter, benchmark, file, made, teacher_forced, progress)
    wait_for_all(world)
    return _join(benchmark, out, made) if rank == 0 else None


def _answer_share(
    segmenter: Segmenter, benchmark: Benchmark, file: Path, made: dict[str, Any], teacher_forced: bool, progress: bool
) -> None:
    """Answer this process's share of the questions that are not answered yet."""
    from rich.console import Console
    from rich.progress import Progress

    rank, world = processes()
    others = [path for path in sorted(file.parent.glob("[0-9]*.jsonl")) if path != file]
    done = {row["id"] for path in others for row in read(path, made)}
    done |= {answer.id for answer in resume(file, made, read_answer)}
    share = _by_image(benchmark.questions)[rank::world]
    pending = [[question for question in questions if question.id not in done] for questions in share]
    total = sum(map(len, share))
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("questions", total=total, completed=total - sum(map(len, pending)))
        for questions in filter(None, pending):
            append(file, [answer.to_json() for answer in _answers(segmenter, questions, teacher_forced)])
            bar.advance(task, len(questions))


def _by_image(questions: Sequence[BenchmarkQuestion]) -> list[list[BenchmarkQuestion]]:
    images: dict[Path, list[BenchmarkQuestion]] = defaultdict(list)
    for question in questions:
        images[question.image].append(question)
    return list(images.values())


def _answers(segmenter: Segmenter, questions: Sequence[BenchmarkQuestion], teacher_forced: bool) -> list[Answer]:
    """Answer questions on one image."""
    segmenter.set_image(str(questions[0].image))
    if teacher_forced:
        answers = []
        for at in range(0, len(questions), CHUNK):
            chunk = questions[at : at + CHUNK]
            answers += segmenter.segment_given([q.text for q in chunk], [q.reference_answer for q in chunk])
    else:
        answers = ask_all(segmenter, [question.text for question in questions])
    return [
        replace(answer, id=question.id, image_path=str(question.image))
        for question, answer in zip(questions, answers, strict=True)
    ]


def wait_for_all(world: int) -> None:
    """Wait until all processes are here; if one dies, all end (`torchrun`).

    They meet at the start, too: later, the process that brought them together may be gone.
    """
    if world == 1:
        return
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=MAX_WAIT)
    dist.barrier()


def _join(benchmark: Benchmark, out: Path, made: dict[str, Any]) -> Path:
    """Join all parts into one file, in the order of the questions."""
    rows = {row["id"]: row for file in sorted((out / PARTS).glob("[0-9]*.jsonl")) for row in read(file, made)}
    write(out / FILE, made, (rows[question.id] for question in benchmark.questions))
    shutil.rmtree(out / PARTS)
    return out / FILE
