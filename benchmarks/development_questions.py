"""80 reasoning questions about 51 photographs of LVIS, written by hand, for decisions during development.

    python benchmarks/development_questions.py lvis_val.json images --out questions.jsonl
    pixellm eval --data questions.jsonl --out runs/development

`development_questions.json` names the annotations that answer each question; images and masks come from LVIS v0.5
(`lvis_val.json` and its images in a folder). Never train on them, nor write templates after them.
"""

import argparse
import json
import os
from pathlib import Path

from pixellm.imaging import masks
from pixellm.utils.files import write_text

QUESTIONS = Path(__file__).with_suffix(".json")


def rows(annotations: Path, images: Path, folder: Path) -> list[dict]:
    """Return the questions in the form of one's own data (`pixellm.data.jsonl`), with image paths from `folder`."""
    data = json.loads(annotations.read_text(encoding="utf-8"))
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    segmentations = {annotation["id"]: annotation["segmentation"] for annotation in data["annotations"]}
    result = []
    for question in json.loads(QUESTIONS.read_text(encoding="utf-8")):
        hw = sizes[question["image_id"]]
        targets = [
            masks.as_text(masks.union([masks.to_rles(segmentations[number], *hw) for number in numbers], *hw))
            for numbers in question["instances"]
        ]
        image = os.path.relpath(images / question["image"], folder)
        texts = {name: question[name] for name in ("kind", "question", "answer")}
        result.append({"image": image, **texts, "masks": targets})
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    lines = (json.dumps(row) + "\n" for row in rows(arguments.annotations, arguments.images, arguments.out.parent))
    write_text(arguments.out, "".join(lines))


if __name__ == "__main__":
    main()
