"""Metrics of the detector of pixellm-mini alone, on COCO-format images: what NanoDet knows without any training.

    python benchmarks/nanodet.py nanodet_g instances_val.json images

`nanodet_g` holds nanodet.json and nanodet.bin, see `pixellm.mini.parts.read_detector`. Images are stretched to a
square, as they were in its training; pixellm-mini shows it letterboxed ones.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.stats import rankdata
from torch import Tensor

from pixellm.mini.detections import select_detections
from pixellm.mini.nanodet import NanoDet
from pixellm.mini.parts import read_detector

SIDE = 416  # pixels
CLASSES = 80
DETECTIONS = 100  # of an image, as COCO counts


def load(folder: Path) -> NanoDet:
    model = NanoDet(CLASSES)
    model.load_state_dict(read_detector(folder))
    return model.eval()


def prepare(model: NanoDet, image: Image.Image) -> Tensor:
    """Image → (1, 3, SIDE, SIDE), normalised."""
    stretched = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return model.normalise(torch.from_numpy(np.array(stretched, dtype=np.float32)).permute(2, 0, 1)[None])


def detections(scores: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[tuple[int, float, list[float]]]:
    """Return class, score and box (x, y, width, height) in pixels of an image of `size` (W, H).

    `scores` (1, N, C) and `boxes` (1, N, 4) are the detector's.
    """
    corners, classes, best = select_detections(scores, boxes, torch.tensor([[SIDE, SIDE]]), DETECTIONS).image(0)
    corners = corners * torch.tensor([*size, *size]) / SIDE
    corners[:, 2:] -= corners[:, :2]
    return list(zip(classes.tolist(), best.tolist(), corners.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    arguments = parser.parse_args()
    coco, model = COCO(str(arguments.annotations)), load(arguments.weights)
    categories = sorted(coco.cats)  # the classes are COCO's 80 categories in the order of their ids
    results, presence, present = [], [], []
    for info in coco.loadImgs(coco.getImgIds()):
        with Image.open(arguments.images / info["file_name"]) as image, torch.inference_mode():
            output = model(prepare(model, image))
            rows = detections(output.scores, output.boxes, image.size)
        results += [
            {"image_id": info["id"], "category_id": categories[index], "bbox": box, "score": score}
            for index, score, box in rows
        ]
        annotated = {entry["category_id"] for entry in coco.loadAnns(coco.getAnnIds(info["id"]))}
        presence.append(output.scores[0].amax(dim=0).numpy())
        present.append([category in annotated for category in categories])
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ranks, positive = rankdata(np.concatenate(presence)), np.concatenate(present)
    count = positive.sum()
    area = (ranks[positive].sum() - count * (count + 1) / 2) / (count * (~positive).sum())
    print(f"presence of a category, by its best score in the image: AUC {area:.3f}")


if __name__ == "__main__":
    main()
