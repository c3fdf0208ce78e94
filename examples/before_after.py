"""Example: compare answers before and after fine-tuning, side by side, from two evaluations with `pixellm eval`.

python examples/before_after.py runs/before runs/after held_out.json images --out before_after.jpg
"""

import argparse
import json
from pathlib import Path

from pixellm.data.coco import CocoSource
from pixellm.eval.photographs import Result
from pixellm.eval.sheet import answer_of, choose
from pixellm.imaging.contact_sheet import contact_sheet


def read(evaluation: Path) -> dict[str, Result]:
    """Return the results of an evaluation by question key."""
    _, *rows = (evaluation / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {result.key: result for result in (Result.from_json(json.loads(row)) for row in rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=6, help="number of questions")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    before, after = read(arguments.before), read(arguments.after)
    source = CocoSource(arguments.annotations, arguments.images)
    index = {record["id"]: at for at, record in enumerate(source.rows)}
    results = [result for result in after.values() if result.scores]  # questions with targets
    items = []
    for result in choose(results, arguments.count):
        image = source[index[result.record_id]].load_image()
        for title, scored in (("before", before[result.key]), ("after", result)):
            items.append(answer_of(scored, image).card(f"{title}: IoU {scored.iou:.2f}"))
    contact_sheet(items, arguments.out)


if __name__ == "__main__":
    main()
