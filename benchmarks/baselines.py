"""LISA, LISA_rec, LISA_aug, a SEEM-style model and PixelLM at nano size: trained alike, asked alike, compared.

    data → train (4 recipes × seeds) → ask every system the same questions → table and plot

Photographs are COCO's with instance masks. Questions that need reasoning ask for what a thing is for, made of, eaten …
(`pixellm.data.knowledge`). LISA is trained on questions for one thing, LISA_aug and PixelLM also on questions for
several, and all three on answers in words alone, with which LISA_rec names what LISA then segments.

    python benchmarks/baselines.py --data DIR [--out runs/baselines] [--seeds 3] [--jobs 2] [--report docs/baselines.md]

DIR holds instances_train.json, instances_val.json and images. What is finished is not done again.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pixellm.baselines.two_stage import IN_WORDS
from pixellm.data.coco import CocoSource
from pixellm.data.grammar import DecodedExchange, knowledge_exchanges
from pixellm.data.records import AnnotatedImage
from pixellm.eval import comparison
from pixellm.eval.answering import answer_all, fingerprint
from pixellm.eval.benchmarks import Benchmark
from pixellm.eval.coco_benchmark import build_questions, make_question
from pixellm.eval.overlap import IouSum
from pixellm.eval.predictions import read_predictions
from pixellm.eval.protocols import choose_protocol
from pixellm.eval.report import BenchmarkReport, score
from pixellm.imaging import masks
from pixellm.segmenter import load_segmenter
from pixellm.types import SEG_SLOT, Segmenter
from pixellm.utils.files import write_text

RECIPES = Path(__file__).parents[1] / "recipes"
TRAINED = ("pixellm", "lisa_aug", "lisa", "seem")
REASONING_QUESTIONS, WORD_QUESTIONS = 4, 2  # of a photograph
ANSWER_BUDGET = 96  # tokens: a small model's answers may not end


def write_data(source: CocoSource, folder: Path) -> None:
    """Questions that need reasoning: with all their masks, those with one mask alone, and answered in words."""
    rows: dict[str, list[dict]] = {"reasoning": [], "reasoning_single": [], "words": []}
    for record in source:
        image = os.path.relpath(record.image, folder)
        exchanges = reasoning_exchanges(record.decode())
        for exchange in exchanges[:REASONING_QUESTIONS]:
            stored = [masks.encode(target.mask) for target in exchange.targets]
            row = {"image": image, "question": exchange.question, "answer": exchange.answer, "masks": stored}
            rows["reasoning"].append(row)
            if len(stored) == 1:
                rows["reasoning_single"].append(row)
        for exchange in exchanges[:WORD_QUESTIONS]:
            words = exchange.answer.replace(f" {SEG_SLOT}", "")
            rows["words"].append({"image": image, "question": f"{exchange.question} {IN_WORDS}", "answer": words})
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in rows.items():
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def reasoning_exchanges(annotated: AnnotatedImage) -> list[DecodedExchange]:
    """Every question that needs reasoning and can be answered with certainty, those with most targets first."""
    exchanges = knowledge_exchanges(annotated).values()
    return sorted((e for e in exchanges if e.targets), key=lambda exchange: -len(exchange.targets))


def held_out_questions(source: CocoSource) -> Benchmark:
    """Choose of each image a question for a category, one for several, one of reasoning, all of them for several."""
    built = build_questions(source)
    questions = [question for question in built if question.kind == "several"]
    for index, row in enumerate(source.rows):
        annotated, image_id = source[index].decode(), f"{row['id']}"
        single = [question for question in built if question.image_id == image_id and question.kind == "category"]
        questions += random.Random(index).sample(single, min(1, len(single)))
        exchanges = reasoning_exchanges(annotated)
        several = [exchange for exchange in exchanges if len(exchange.targets) > 1]
        chosen = several + [exchange for exchange in exchanges if len(exchange.targets) == 1][:1]
        for number, exchange in enumerate(chosen, len(built)):  # numbers that no other question has
            categories = [target.category for target in exchange.targets]
            if exchange.question not in {q.text for q in questions if q.image_id == image_id}:
                text = ("knowledge", exchange.question, categories, "reasoning")
                questions.append(make_question(source, index, annotated, number, *text))
    order = {f"{row['id']}": index for index, row in enumerate(source.rows)}
    questions.sort(key=lambda question: order[question.image_id])
    return Benchmark("coco", source.annotations.name, "", tuple(questions), categories=source.categories)


def figures(report: BenchmarkReport) -> dict[str, float]:
    """Of questions for several objects gIoU and cIoU, by name and by reasoning apart; of those for one object gIoU."""

    def over(selected: Callable[[str, int], bool]) -> IouSum:
        total = IouSum()
        for answer in report.scored:
            for pair in answer.pairs if selected(answer.question.kind, len(answer.question.targets)) else ():
                total.add(pair.counts, pair.iou)
        return total

    several = over(lambda _, targets: targets > 1)
    return {
        "several_giou": several.giou,
        "several_ciou": several.ciou,
        "named_giou": over(lambda kind, targets: targets > 1 and kind == "several").giou,
        "reasoning_giou": over(lambda kind, targets: targets > 1 and kind == "knowledge").giou,
        "single_giou": over(lambda _, targets: targets == 1).giou,
    }


def evaluate(segmenter: Segmenter, questions: Benchmark, out: Path, name: str) -> BenchmarkReport:
    """Ask all questions and score the answers; what is answered in `out` already is not asked again."""
    path = answer_all(segmenter, questions, out, fingerprint(questions, name, name, False), False, True)
    assert path is not None, "one process answers"
    return score(questions, read_predictions(path), choose_protocol("coco", None))


def systems(models: Path, seed: int) -> Iterator[tuple[str, Callable[[], Segmenter]]]:
    """Every system by its name, and what loads it."""

    def system(name: str, namer: str | None = None) -> Callable[[], Segmenter]:
        where = {one: str(models / f"{one}-{seed}" / "model") for one in TRAINED}
        writes = name != "seem" or namer
        sampling = {"max_new_tokens": ANSWER_BUDGET} if writes else None
        return lambda: load_segmenter(where[name], sampling=sampling, namer=where[namer] if namer else None)

    yield "PixelLM", system("pixellm")
    yield "LISA", system("lisa")
    yield "LISA_rec", system("lisa", namer="lisa")
    yield "LISA_aug", system("lisa_aug")
    yield "SEEM-style", system("seem")
    yield "SEEM-style, given names", system("seem", namer="lisa")


def train(recipes: dict[str, Path], out: Path, seeds: int, jobs: int) -> None:
    """All trainings, `jobs` at a time; those that are finished end at once."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))

    def one(run: tuple[str, int]) -> int:
        name, seed = run
        command = [sys.executable, "-m", "pixellm", "train", str(recipes[name])]
        command += ["--seed", str(seed), "--out", str(out / f"{name}-{seed}")]
        with (out / f"{name}-{seed}.log").open("w") as log:
            environment = os.environ | {"OMP_NUM_THREADS": threads}
            return subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode

    runs = [(name, seed) for seed in range(seeds) for name in recipes]
    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(one, runs))
    if failed := [f"{name}-{seed}.log" for (name, seed), code in zip(runs, codes, strict=True) if code]:
        sys.exit(f"expected all trainings to end, see {', '.join(failed)} in {out}")


def compare(questions: Benchmark, out: Path, seed: int) -> None:
    """Ask all systems of one seed, and write their metrics as those of runs."""
    for name, load in systems(out, seed):
        folder = out / "results" / f"{name}-{seed}"
        if (folder / comparison.RUN).is_file():
            continue
        report = evaluate(load(), questions, folder, f"{name} {seed}")
        run = {"recipe": {"name": name, "seed": seed, "validation": questions.digest}, "metrics": figures(report)}
        write_text(folder / comparison.RUN, json.dumps(run, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/baselines"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each with its share of the cores")
    parser.add_argument("--report", type=Path, default=Path("docs/baselines.md"))
    arguments = parser.parse_args()
    folder, images = arguments.out / "data", arguments.data / "images"
    if not (folder / "words.jsonl").is_file():
        write_data(CocoSource(arguments.data / "instances_train.json", images), folder)
    recipes = {name: RECIPES / f"baseline_{name}.yaml" for name in TRAINED}
    train(recipes, arguments.out, arguments.seeds, arguments.jobs)
    source = CocoSource(arguments.data / "instances_val.json", images)
    questions = held_out_questions(source)
    for seed in range(arguments.seeds):
        compare(questions, arguments.out, seed)
    found = comparison.with_base(comparison.read_runs([arguments.out / "results"]), "PixelLM")
    comparison.write_into(arguments.report, comparison.markdown(found))
    comparison.plot(found, arguments.report.with_suffix(".png"))


if __name__ == "__main__":
    main()
