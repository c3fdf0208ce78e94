"""Example: convert COCO instances to questions for fine-tuning, and hold some images out for `pixellm eval`.

    python examples/instances_to_jsonl.py instances.json images --held-out 20 --out work
    pixellm data check work/train.jsonl
    pixellm train --data work/train.jsonl --out runs/mine
    pixellm eval --model runs/mine/model --annotations work/held_out.json --images images --out runs/mine/eval

One question per category of an image; all instances of the category are one mask.
"""

import argparse
import json
import os
import random
from pathlib import Path

from pixellm.data.describe import noun
from pixellm.data.semantic import read_instances
from pixellm.data.templates import category_question
from pixellm.imaging import masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--held-out", type=int, default=20, help="number of held-out images")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    data = json.loads(arguments.annotations.read_text(encoding="utf-8"))
    ids = sorted(image["id"] for image in data["images"])
    random.Random(0).shuffle(ids)
    held_out = set(ids[: arguments.held_out])
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = [image for image in data["images"] if image["id"] in held_out]
    (arguments.out / "held_out.json").write_text(json.dumps(data | {"images": kept}), encoding="utf-8")
    with (arguments.out / "train.jsonl").open("w", encoding="utf-8") as file:
        for record in read_instances(arguments.annotations, arguments.images):
            if record.record_id in map(str, held_out):
                continue
            for instance in record.instances:
                name = instance.names[0]
                several = len(instance.mask.parts) > 1
                row = {
                    "image": os.path.relpath(record.image, arguments.out),
                    "question": category_question(name),
                    "answer": f"{noun(name).the(several).capitalize()} {{seg}}.",
                    "masks": [masks.encode(instance.mask.decode(*record.original_hw))],
                }
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
