"""LISA, LISA_rec, LISA_aug, a SEEM-style model and PixelLM at nano size: trained alike, asked alike, compared.

    data → train (4 recipes × seeds) → ask every system the same questions → table and plot

Photographs are COCO's with instance masks. Questions that need reasoning ask for what a thing is for, made of, eaten …
(`pixellm.data.knowledge`). LISA is trained on questions for one thing, LISA_aug and PixelLM also on questions for
several, and all three on answers in words alone, with which LISA_rec names what LISA then segments.

    python benchmarks/baselines.py --data DIR [--out runs/baselines] [--seeds 3] [--jobs 2] [--report docs/baselines.md]

DIR holds instances_train.json, instances_val.json and images. What is finished is not done again.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pixellm.baselines.two_stage import IN_WORDS
from pixellm.data.coco import CocoSource
from pixellm.data.grammar import DecodedExchange, knowledge_exchanges
from pixellm.data.records import AnnotatedImage
from pixellm.eval import comparison
from pixellm.eval.metrics import IouSum, Overlap
from pixellm.eval.photographs import Question, Report, build_questions, evaluate
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


def held_out_questions(source: CocoSource) -> list[Question]:
    """For each image: one for a category, one for several, and of reasoning one for an object, all for several."""
    built = build_questions(source)
    questions = [question for question in built if question.kind == "several"]
    for index, row in enumerate(source.rows):
        single = [question for question in built if question.index == index and question.kind == "category"]
        questions += random.Random(index).sample(single, min(1, len(single)))
        exchanges = reasoning_exchanges(source[index].decode())
        several = [exchange for exchange in exchanges if len(exchange.targets) > 1]
        for exchange in several + [exchange for exchange in exchanges if len(exchange.targets) == 1][:1]:
            names = tuple(target.category for target in exchange.targets)
            texts = {question.text for question in questions if question.index == index}
            if exchange.question not in texts:
                where = (index, row["id"], row["file_name"])
                questions.append(Question(*where, "knowledge", exchange.question, names, "reasoning"))
    return sorted(questions, key=lambda question: question.index)


def figures(report: Report) -> dict[str, float]:
    """Of questions for several things gIoU and cIoU, by name and by reasoning apart; of those for one thing gIoU."""

    def over(chosen: Callable[[str, int], bool]) -> IouSum:
        total = IouSum()
        for result in report.results:
            wanted = sum(score.name is not None for score in result.scores)
            for score in result.scores if chosen(result.kind, wanted) else ():
                total.add(Overlap(score.intersection, score.union), score.iou)
        return total

    several = over(lambda _, wanted: wanted > 1)
    return {
        "several_giou": several.giou,
        "several_ciou": several.ciou,
        "named_giou": over(lambda kind, wanted: wanted > 1 and kind == "several").giou,
        "reasoning_giou": over(lambda kind, wanted: wanted > 1 and kind == "knowledge").giou,
        "single_giou": over(lambda _, wanted: wanted == 1).giou,
    }


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


def compare(source: CocoSource, questions: Sequence[Question], out: Path, seed: int) -> None:
    """Ask all systems of one seed, and write their figures as those of runs."""
    asked = hashlib.sha256("".join(question.key for question in questions).encode()).hexdigest()[:16]
    for name, load in systems(out, seed):
        folder = out / "results" / f"{name}-{seed}"
        if (folder / comparison.RUN).is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        report = evaluate(load(), source, questions, True, folder / "answers.jsonl", f"{name} {seed}")
        run = {"recipe": {"name": name, "seed": seed, "validation": asked}, "figures": figures(report)}
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
        compare(source, questions, arguments.out, seed)
    found = comparison.with_base(comparison.read_runs([arguments.out / "results"]), "PixelLM")
    comparison.write_into(arguments.report, comparison.markdown(found))
    comparison.plot(found, arguments.report.with_suffix(".png"))


if __name__ == "__main__":
    main()
