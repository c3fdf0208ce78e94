"""Mask AP of pixellm-mini's detections on the 80 categories of COCO-format images: every detection, segmented.

    python benchmarks/instances.py MODEL annotations.json images [--limit N]

Masks are those of `InstanceDecoder.segment` alone, at image size; no language model and no pixel decoder takes part.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

import pixellm
from pixellm.imaging.images import load_image
from pixellm.imaging.postprocess import binarize
from pixellm.mini.instances import OUTSIDE
from pixellm.mini.mask_head import paste, with_margin
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.model import PixelLMProcessor

GRID = 2  # pixels of the encoder's square in a cell that masks are placed on


@dataclass
class Segmenting:
    """A model with a detector, and the seconds that its vision encoder took."""

    model: MiniForConditionalGeneration
    processor: PixelLMProcessor
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if getattr(self.model, "instances", None) is None:
            raise ValueError("expected a model with a detector, got one without. Train its recipe with `detector`.")

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> Iterator[tuple[str, float, dict[str, Any]]]:
        """Yield category, score and mask (COCO RLE at image size) of each detection, the surest first."""
        inputs = self.processor.images([image]).to(self.model.device)
        pixels, hw = inputs["pixel_values"].to(self.model.dtype), inputs["resized_hw"]
        before = time.perf_counter()
        features = self.model.vision_encoder(pixels, hw)
        self.seconds.append(time.perf_counter() - before)
        assert features.objects is not None
        boxes, classes, scores = features.objects.detections.image(0)
        logits = self._masks(features, boxes, classes)
        resized = (int(hw[0, 0]), int(hw[0, 1]))
        names = self.model.config.vision_config.detector_classes
        for number, score, mask in zip(
            classes.tolist(), scores.tolist(), binarize(logits, resized, (image.height, image.width)), strict=True
        ):
            yield names[number], score, mask.rle

    def _masks(self, features: Any, boxes: Tensor, classes: Tensor) -> Tensor:
        """Return mask logits (K, g, g) over the square."""
        instances, size = self.model.instances, features.objects.pixels.shape[-1]
        enlarged, index = with_margin(boxes), torch.zeros_like(classes)
        maps = instances.prepare(features)
        logits = instances.segment(features.objects, maps, features.class_logits, enlarged, index, classes)
        pasted, inside = paste(logits.float(), enlarged, size, size // GRID)
        return pasted.where(inside, OUTSIDE)


def results_of(segment: Segmenting, coco: COCO, images: Path, limit: int | None) -> tuple[list[int], list[dict]]:
    """Return the ids of the images that were looked at, and COCO results of their detections."""
    ids = {category["name"]: category["id"] for category in coco.dataset["categories"]}
    looked_at = coco.getImgIds()[:limit]
    results = []
    for info in coco.loadImgs(looked_at):
        for name, score, rle in segment(load_image(images / info["file_name"])):
            if name in ids:
                row = {"image_id": info["id"], "category_id": ids[name], "segmentation": dict(rle), "score": score}
                results.append(row)
    return looked_at, results


def evaluate(coco: COCO, looked_at: list[int], results: list[dict]) -> dict[str, float]:
    """Return AP, AP50 and AP of small, medium and large objects; -1 where nothing is annotated."""
    if not results:
        return dict.fromkeys(("AP", "AP50", "small", "medium", "large"), 0.0)
    evaluation = COCOeval(coco, coco.loadRes(results), "segm")
    evaluation.params.imgIds = looked_at
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ap, ap50, _, small, medium, large = (float(value) for value in evaluation.stats[:6])
    return {"AP": ap, "AP50": ap50, "small": small, "medium": medium, "large": large}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Directory or name of a model with a detector.")
    parser.add_argument("annotations", type=Path, help="COCO-format file.")
    parser.add_argument("images", type=Path, help="Directory of its images.")
    parser.add_argument("--limit", type=int, help="Number of images, the first of the file. (default: all)")
    arguments = parser.parse_args()
    predictor = pixellm.load(arguments.model)
    coco, segment = COCO(str(arguments.annotations)), Segmenting(predictor.model, predictor.processor)
    looked_at, results = results_of(segment, coco, arguments.images, arguments.limit)
    for name, value in evaluate(coco, looked_at, results).items():
        print(f"{name} {value:.3f}")
    seconds = segment.seconds[1:] or segment.seconds  # the first is slower
    print(f"{sum(seconds) / max(1, len(seconds)):.3f} s of encoding an image, {len(looked_at)} images")


if __name__ == "__main__":
    main()
