"""LISA, LISA_rec, LISA_aug, a SEEM-style model and PixelLM at nano size: trained alike, asked alike, compared.

    data → train (4 recipes × seeds) → ask each system the same questions → table and plot

Photographs are COCO's with instance masks; questions that need reasoning ask for what a thing is for, made of or eaten
(`pixellm.data.knowledge`). LISA is trained on questions for one thing, LISA_aug and PixelLM also on questions for
several, and all three on answers in words alone, with which LISA_rec names what LISA then segments.

    python benchmarks/baselines.py --data DIR --out runs/baselines [--seeds 3] [--jobs 2]

DIR holds instances_train.json, instances_val.json and images. What is finished is not done again.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

from pixellm import masks
from pixellm.baselines.two_stage import IN_WORDS
from pixellm.data.coco import CocoSource, Photograph
from pixellm.data.phrasing import Turn, askable_attributes, knowledge_turn
from pixellm.files import write_text
from pixellm.types import SEG_SLOT

RECIPES = Path(__file__).parents[1] / "recipes"
TRAINED = ("baseline_pixellm", "baseline_lisa", "baseline_lisa_aug", "baseline_seem")
REASONING_QUESTIONS, WORD_QUESTIONS = 4, 2  # of a photograph
MIN_AREA = 0.001  # of the image: what covers less is not asked for together with other things


def write_data(source: CocoSource, folder: Path) -> None:
    """Questions that need reasoning: with all their masks, those with one mask alone, and answered in words."""
    rows: dict[str, list[dict]] = {"reasoning": [], "reasoning_single": [], "words": []}
    for index in range(len(source)):
        photograph = source[index]
        image = os.path.relpath(source.images / source.records[index]["file_name"], folder)
        turns = list(_turns(photograph))
        for turn in turns[:REASONING_QUESTIONS]:
            stacks = [[photograph.things[i].mask for i in target] for target in turn.targets]
            stored = [masks.encode(masks.union(stack, *stack[0].shape)) for stack in stacks]
            row = {"image": image, "question": turn.question, "answer": turn.answer, "masks": stored}
            rows["reasoning"].append(row)
            if len(stored) == 1:
                rows["reasoning_single"].append(row)
        for turn in turns[:WORD_QUESTIONS]:
            words = turn.answer.replace(f" {SEG_SLOT}", "")
            rows["words"].append({"image": image, "question": f"{turn.question} {IN_WORDS}", "answer": words})
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in rows.items():
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _turns(photograph: Photograph) -> Iterator[Turn]:
    """Every question that needs reasoning and can be answered with certainty, those with most targets first."""
    turns = [knowledge_turn(key, photograph.things) for key in askable_attributes(photograph.things, photograph.known)]
    yield from sorted((turn for turn in turns if turn.targets), key=lambda turn: -len(turn.targets))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/baselines"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each with its share of the cores")
    arguments = parser.parse_args()
    folder = arguments.out / "data"
    if not (folder / "words.jsonl").is_file():
        write_data(CocoSource(arguments.data / "instances_train.json", arguments.data / "images"), folder)


if __name__ == "__main__":
    main()
