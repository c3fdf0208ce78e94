"""Small data sets in their published layouts: what many tests of readers need.

Pictures are 40 × 30 pixels; `SQUARE` and `BAR` are polygons in them, 10 × 10 and 30 × 5 pixels.
"""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixellm.imaging import masks

WIDTH, HEIGHT = 40, 30
SQUARE = [5, 5, 15, 5, 15, 15, 5, 15]
BAR = [5, 20, 35, 20, 35, 25, 5, 25]
INNER = [8, 8, 12, 8, 12, 12, 8, 12]  # lies inside SQUARE


def square() -> np.ndarray:
    """The pixels of SQUARE."""
    found = np.zeros((HEIGHT, WIDTH), dtype=bool)
    found[5:15, 5:15] = True
    return found


def bar() -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), dtype=bool)
    found[20:25, 5:35] = True
    return found


def rle(mask: np.ndarray, compressed: bool = True) -> dict[str, Any]:
    """A COCO RLE; as lists of runs where it is not compressed."""
    if compressed:
        return masks.encode(mask)
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.r_[0, changes, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": runs if not flat[0] else [0, *runs]}


def photograph(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (120, 90, 60)).save(path)
    return path


def label_map(path: Path, values: dict[int, np.ndarray], background: int = 0) -> Path:
    """A PNG of labels: `values` on a ground of `background`."""
    labels = np.full((HEIGHT, WIDTH), background, dtype=np.uint8)
    for value, mask in values.items():
        labels[mask] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def image_record(image_id: int, file_name: str, **more: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": file_name, "height": HEIGHT, "width": WIDTH, **more}


def refcoco(root: Path, references: list[dict[str, Any]], annotations: dict[int, Any], name: str = "refcoco") -> Path:
    """RefCOCO's folder with images 1 and 2, and as many annotations as `annotations` has segmentations."""
    folder = root / "refer_seg" / name
    images = [image_record(i, f"COCO_train2014_{i:012}.jpg") for i in (1, 2)]
    for image in images:
        photograph(root / "refer_seg/images/mscoco/images/train2014" / image["file_name"])
    rows = [{"id": key, "image_id": 1, "category_id": 1, "segmentation": s} for key, s in annotations.items()]
    write_json(folder / "instances.json", {"images": images, "annotations": rows, "categories": []})
    start, by = ("grefs", "unc") if name == "grefcoco" else ("refs", "umd" if name == "refcocog" else "unc")
    with (folder / f"{start}({by}).p").open("wb") as file:
        pickle.dump(references, file, protocol=2)
    return folder


def reference(ref_id: int, ann_id: Any, *sentences: str, split: str = "train", image_id: int = 1) -> dict[str, Any]:
    """A reference as REFER publishes them."""
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": 1,
        "image_id": image_id,
        "split": split,
        "file_name": f"COCO_train2014_{image_id:012}_{ref_id}.jpg",
        "sent_ids": list(range(len(sentences))),
        "sentences": [
            {"sent_id": i, "sent": text, "raw": text, "tokens": text.split()} for i, text in enumerate(sentences)
        ],
    }


def muse_entry(questions: list[str], answers: list[list[dict[str, Any]]], **more: Any) -> dict[str, Any]:
    """An image entry of MUSE."""
    return {
        "id": 7,
        "height": HEIGHT,
        "width": WIDTH,
        "coco_url": "http://images.cocodataset.org/train2017/000000000007.jpg",
        "ann_list": [answer for group in answers for answer in group],
        "questions": questions,
        "answers": answers,
        **more,
    }


def muse_answer(segmentation: Any, category: str = "cup", **more: Any) -> dict[str, Any]:
    return {
        "segmentation": segmentation,
        "bbox": [5, 5, 10, 10],
        "category_id": 3,
        "category_name": category,
        "rephrased_name": f"the {category} on the left",
        **more,
    }


def dogs_and_cats(folder: Path) -> Path:
    """A JSONL of one's own data: four pictures, each with a question whose answer has one or two masks."""
    rows = []
    for number in range(4):
        name = photograph(folder / f"{number}.png", (40 - number, 30)).name
        boxes = [SQUARE, [20, 5, 30, 5, 30, 20, 20, 20]][: 1 + number % 2]
        answer = ["The dog {seg}.", "The dog {seg} and the cat {seg}."][number % 2]
        rows.append({"image": name, "question": "Where is the dog?", "answer": answer, "masks": [[b] for b in boxes]})
    path = folder / "my.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path
