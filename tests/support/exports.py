"""A file of answers with all that makes masks hard to export, and another one of real masks: what tests of it need."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixellm.imaging import masks
from tests.support import tiny

WIDTH, HEIGHT = 40, 30
QUESTION = "What is there?"


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


RING = rectangle(2, 2, 14, 14) & ~rectangle(5, 5, 11, 11)
PARTS = rectangle(20, 2, 25, 10) | rectangle(20, 25, 24, 38) | rectangle(16, 20, 17, 21)  # the last is one pixel
PLAIN = rectangle(3, 10, 18, 30)  # overlaps the ring
NOTHING = rectangle(0, 0, 0, 0)


def row(image: Path, masks_: list[np.ndarray], phrases: list[str], number: int = 0) -> dict[str, Any]:
    """A prediction whose text is its phrases."""
    text, spans = "", []
    for phrase in phrases:
        text += ", " if text else ""
        spans.append([len(text), len(text) + len(phrase)])
        text += phrase
    return {
        **{
            "id": f"{image.parent.name}/{image.stem}/{number}",
            "text": f"{text}.",
            "masks": [masks.encode(mask) for mask in masks_],
        },
        **{"spans": spans, "scores": [0.5] * len(spans), "image": str(image), "question": QUESTION},
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def predictions(folder: Path) -> Path:
    """Three answers about two images of one name; one mask has no pixel, one answer no mask."""
    images = [folder / "a" / "cat.png", folder / "b" / "cat.png"]
    for seed, image in enumerate(images):
        image.parent.mkdir()
        tiny.picture(WIDTH, HEIGHT, seed).save(image)
    return write(
        folder / "predictions.jsonl",
        [
            row(images[0], [RING, PLAIN, NOTHING], ["The black ring", "a box", "nothing"]),
            row(images[1], [PARTS], ["the parts"]),
            row(images[0], [PARTS], ["the parts"], 1),
            row(images[1], [], [], 1) | {"text": "There is none."},
        ],
    )


def wanted() -> dict[str, list[np.ndarray]]:
    """Masks of both images, in the order of their answers."""
    return {"a/cat": [RING, PLAIN, PARTS], "b/cat": [PARTS]}


def real(shared: Path, path: Path, images: int) -> tuple[Path, list[list[np.ndarray]]]:
    """Predictions that are COCO's annotations of some photographs; their masks by image."""
    folder = shared / "data" / "coco_480"
    data = json.loads((folder / "instances_val.json").read_text())
    names = {one["id"]: one["name"] for one in data["categories"]}
    rows, found = [], []
    for image in data["images"][:images]:
        things = [one for one in data["annotations"] if one["image_id"] == image["id"]]
        decoded = [masks.decode(one["segmentation"], image["height"], image["width"]) for one in things]
        kept = [(mask, f"the {names[one['category_id']]}") for mask, one in zip(decoded, things, strict=True)]
        kept = [one for one in kept if one[0].any()]
        if kept:
            rows.append(row(folder / "images" / image["file_name"], *map(list, zip(*kept, strict=True))))
            found.append([mask for mask, _ in kept])
    return write(path, rows), found


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)
