"""Example: the same questions before and after a fine-tuning, side by side, from two evaluations.

pixellm eval --annotations held_out.json --images images --model MODEL --out runs/before
python examples/before_after.py runs/before runs/after held_out.json images --out before_after.jpg
"""

import argparse
from dataclasses import replace
from pathlib import Path

from pixellm.eval.answer_page import choose
from pixellm.eval.coco_benchmark import load_coco
from pixellm.eval.predictions import read_predictions
from pixellm.eval.protocols import choose_protocol
from pixellm.eval.report import score
from pixellm.imaging.contact_sheet import contact_sheet
from pixellm.imaging.images import load_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=6, help="number of questions")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    benchmark, protocol = load_coco(arguments.annotations, arguments.images), choose_protocol("coco", None)
    before, after = (
        {
            answer.question.id: answer
            for answer in score(benchmark, read_predictions(folder / "predictions.jsonl"), protocol).scored
        }
        for folder in (arguments.before, arguments.after)
    )
    cards = []
    for scored in choose([answer for answer in after.values() if answer.question.targets], arguments.count):
        image = load_image(scored.question.image)
        for when, result in (("before", before[scored.question.id]), ("after", scored)):
            cards.append(replace(result.answer, image=image).card(f"{when}: IoU {result.iou:.2f}"))
    contact_sheet(cards, arguments.out)


if __name__ == "__main__":
    main()
