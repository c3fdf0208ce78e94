"""Train a tiny model of a family on drawn scenes until it knows them by heart; print what it then answers as JSON.

    python tests/support/by_heart.py FAMILY lora|full [--scenes 32] [--steps 1600]

The recipe is the same for all families; the ways differ in nothing but the adapters.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

import pixellm
from pixellm.backbones.create import NewParts, extend
from pixellm.data.records import Segments
from pixellm.train.recipe import AdapterConfig, ModelSource, Recipe, TrainingData, TrainingStage
from pixellm.train.run import train
from pixellm.training import KNOWN_MODELS
from tests.support.shapes import write_scenes
from tests.support.tiny_vlms import FAMILIES, tiny_vlm

WAYS = {"lora": AdapterConfig(rank=16, alpha=32), "full": AdapterConfig(rank=0)}
SIDE = 112  # pixels of an image
BATCH = 4


@dataclass(frozen=True)
class ByHeart:
    """Answers to the questions that a model was trained on.

    Args:
        wrong: texts that are not those of the training data, with these.
        iou: mean IoU of the masks of the other answers.
        masks: number of them.
    """

    wrong: list[tuple[str, str]]
    iou: float
    masks: int


def by_heart(family: str, way: str, scenes: int, steps: int, folder: Path) -> ByHeart:
    """Train a tiny model of a family on scenes, and ask it their questions."""
    data, start = write_scenes(folder / "data", scenes, SIDE), folder / "start"
    for part in extend(*tiny_vlm(family), NewParts(decoder_dim=64, mask_grid=16)):
        part.save_pretrained(start)
    stage = TrainingStage(
        steps=steps,
        batch_size=BATCH,
        device_batch_size=BATCH,
        learning_rate=3e-3,
        warmup_steps=20,
        workers=0,
        bf16=False,
    )
    mixture = TrainingData({str(data): 1.0}, data.parent)
    result = train(Recipe("shapes", ModelSource(str(start)), mixture, stage, WAYS[way]), folder / "run", KNOWN_MODELS)
    predictor, wrong, overlaps = pixellm.load(result), [], []
    for line in map(json.loads, data.read_text(encoding="utf-8").splitlines()):
        answer = predictor(data.parent / line["image"], line["question"], max_new_tokens=80)
        expected = line["answer"].replace(" {seg}", "")
        if answer.text != expected or len(answer.targets) != len(line["masks"]):
            wrong.append((answer.text, expected))
            continue
        for target, (polygon,) in zip(answer.targets, line["masks"], strict=True):
            true = Segments(((polygon,),)).decode(SIDE, SIDE)
            overlaps.append((target.mask & true).sum() / (target.mask | true).sum())
    return ByHeart(wrong, float(np.mean(overlaps)) if overlaps else 0.0, len(overlaps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1600)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = by_heart(arguments.family, arguments.way, arguments.scenes, arguments.steps, Path(folder))
    print(json.dumps({**vars(arguments), **vars(found)}, ensure_ascii=False))


if __name__ == "__main__":
    main()
