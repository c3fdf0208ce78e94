"""Corrections by simulated clicks on COCO-format images: clicks to an IoU of 0.85 and 0.90, IoU after some clicks.

    python benchmarks/clicks.py MODEL annotations.json images [--limit N] [--single] [--out clicks.json]

An object begins with the model's own mask of its category, teacher-forced, so that all categories of an image are
decoded at once. Wanted is the union of the category's instances, or with --single one instance of it. The protocol is
that of `pixellm.eval.clicks`. The baseline has no model: each click adds a disk to the mask, or takes one away.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

import pixellm
from pixellm.data.coco import CocoSource
from pixellm.data.describe import noun
from pixellm.eval.clicks import Click, ClickCurves, click_through
from pixellm.predictor import Predictor
from pixellm.types import SEG_SLOT, Target

DISK = 0.03  # the baseline's radius, as a share of the image's longest side
AFTER = (0, 1, 3, 5)
THRESHOLDS = (0.85, 0.90)


@dataclass(frozen=True)
class Wanted:
    """A mask that is wanted of an image: its record in the source, its category, and bool (H, W)."""

    record: int
    category: str
    mask: np.ndarray


def choose(source: CocoSource, single: bool, smallest: int, limit: int | None) -> list[Wanted]:
    """Return the objects of at least `smallest` pixels of the first images, without crowds among single instances."""
    return [wanted for record in range(len(source))[:limit] for wanted in objects_of(source, record, single, smallest)]


def objects_of(source: CocoSource, record: int, single: bool, smallest: int) -> list[Wanted]:
    """Return the objects of one image, see `choose`."""
    annotated = source[record].decode()
    alone = [(i.category, i.mask) for i in annotated.instances if not i.merged]
    rows = alone if single else list(annotated.category_masks().items())
    return [Wanted(record, category, mask) for category, mask in rows if mask.sum() >= smallest]


def with_first_masks(
    predictor: Predictor, source: CocoSource, objects: list[Wanted]
) -> Iterator[tuple[Wanted, Target]]:
    """Yield each object with the model's target of its category; the predictor has its image."""
    by_record = defaultdict(list)
    for wanted in objects:
        by_record[wanted.record].append(wanted)
    for record, rows in sorted(by_record.items()):
        predictor.set_image(source[record].load_image())
        names = list(dict.fromkeys(row.category for row in rows))
        words = [noun(name).singular for name in names]
        answers = predictor.segment_given(
            [f"Where is the {word}?" for word in words], [f"The {word} {SEG_SLOT}." for word in words]
        )
        for row in rows:
            yield row, answers[names.index(row.category)].targets[0]


@dataclass
class Refining:
    """Refines one target of a predictor, click by click; `seconds` that each took."""

    predictor: Predictor
    target: Target
    seconds: list[float] = field(default_factory=list)

    def __call__(self, _: np.ndarray, clicks: list[Click]) -> np.ndarray:
        before = time.perf_counter()
        self.target = self.predictor.refine(self.target, points=clicks[-1:])
        self.seconds.append(time.perf_counter() - before)
        return self.target.mask


def add_disk(mask: np.ndarray, clicks: list[Click]) -> np.ndarray:
    """Add a disk around the newest click to a mask, or take it away."""
    x, y, positive = clicks[-1]
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    disk = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= (DISK * max(mask.shape)) ** 2
    return mask | disk if positive else mask & ~disk


def rows_of(curves: ClickCurves, most: int) -> dict[str, float]:
    """Return the metrics of all objects."""
    rows = {f"mean IoU after {count}": curves.mean_iou(count) for count in AFTER if count <= most}
    for threshold in THRESHOLDS:
        rows[f"clicks to {threshold:.2f}"] = curves.clicks_to(threshold, most)
        rows[f"share that reaches {threshold:.2f}"] = curves.reached(threshold, most)
    means = [curves.mean_iou(count) for count in range(most + 1)]
    rows["largest fall of the mean after a click"] = max(0.0, *(a - b for a, b in pairwise(means)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Directory or name of a model that takes visual prompts.")
    parser.add_argument("annotations", type=Path, help="COCO-format file.")
    parser.add_argument("images", type=Path, help="Directory of its images.")
    parser.add_argument("--limit", type=int, help="Number of images, the first of the file. (default: all)")
    parser.add_argument("--single", action="store_true", help="Want single instances. (default: whole categories)")
    parser.add_argument("--smallest", type=int, default=100, help="Smallest object in pixels. (default: 100)")
    parser.add_argument("--clicks", type=int, default=20, help="Most clicks of an object. (default: 20)")
    parser.add_argument("--out", type=Path, help="JSON file of IoU before and after each click. (default: none)")
    arguments = parser.parse_args()
    predictor = pixellm.load(arguments.model)
    source = CocoSource(arguments.annotations, arguments.images)
    objects = choose(source, arguments.single, arguments.smallest, arguments.limit)
    refined, disks, seconds = ClickCurves(), ClickCurves(), list[float]()
    for wanted, target in with_first_masks(predictor, source, objects):
        refining = Refining(predictor, target)
        refined.curves.append(click_through(target.mask, wanted.mask, refining, arguments.clicks))
        disks.curves.append(click_through(target.mask, wanted.mask, add_disk, arguments.clicks))
        seconds += refining.seconds
        if arguments.out:  # as far as it is: all of it takes long
            arguments.out.write_text(json.dumps({"model": refined.curves, "disks": disks.curves}))
    results = {"model": rows_of(refined, arguments.clicks), "disks": rows_of(disks, arguments.clicks)}
    print(f"{len(objects)} objects, {np.median(seconds):.3f} s a click (median)")
    for name, value in results["model"].items():
        print(f"{name:42} {value:7.3f}   disks {results['disks'][name]:7.3f}")


if __name__ == "__main__":
    main()
