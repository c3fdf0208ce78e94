"""The published data sets by name: where they lie below a data root, and what reads them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixellm.data import semantic
from pixellm.data.datasets import MAX_BAD_FRACTION, RecordDataset
from pixellm.data.jsonl import read_jsonl
from pixellm.data.reasoning import muse, read_dialogues, read_reasonseg
from pixellm.data.refer import multi_referring, read_references

Kind = Literal["semantic", "refer", "vqa", "reasoning"]


INSTANCES = re.compile(r"(?P<file>.+\.json)(?::(?P<folder>.*))?")  # a COCO or LVIS file, and the folder of its images


@dataclass(frozen=True)
class DatasetSpec:
    """A data set.

    Args:
        kind: what it teaches; the mixture of the paper's recipe gives each kind a share.
        splits: the first one is for training.
        parts: files and folders below the data root, `{split}` in them; alternatives are separated by " | ".
        open: root, split and `max_bad_fraction` → the data set.
    """

    kind: Kind
    splits: tuple[str, ...]
    parts: tuple[str, ...]
    open: Callable[[Path, str, float], RecordDataset]


def _referring(name: str, split_by: str, splits: tuple[str, ...], images: str, refs: str = "refs") -> DatasetSpec:
    def read(root: Path, split: str, max_bad_fraction: float) -> RecordDataset:
        folder = root / "refer_seg"
        return read_references(folder / name, folder / "images" / images, split_by, split, max_bad_fraction)

    files = f"refer_seg/{name}/{refs}({split_by}).p"
    if refs == "grefs":
        files = f"refer_seg/{name}/{refs}({split_by}).json | {files}"
    return DatasetSpec("refer", splits, (files, f"refer_seg/{name}/instances.json", f"refer_seg/images/{images}"), read)


TRAIN2014, SAIAPR = "mscoco/images/train2014", "saiapr_tc-12"
UNC = ("train", "val", "testA", "testB")

DATASETS: dict[str, DatasetSpec] = {
    "muse": DatasetSpec(
        "reasoning",
        ("train", "val", "test_less", "test_many"),
        (
            "muse/muse_{split}.json | muse/MUSE_{split}.json | muse_{split}.json | MUSE_{split}.json",
            "refer_seg/images/mscoco/images/train2017 | coco/train2017",
            "refer_seg/images/mscoco/images/val2017 | coco/val2017",
        ),
        muse,
    ),
    "refcoco": _referring("refcoco", "unc", UNC, TRAIN2014),
    "refcoco+": _referring("refcoco+", "unc", UNC, TRAIN2014),
    "refcocog": _referring("refcocog", "umd", ("train", "val", "test"), TRAIN2014),
    "refclef": _referring("refclef", "unc", ("train", "val", "testA", "testB", "testC"), SAIAPR),
    "grefcoco": _referring("grefcoco", "unc", UNC, TRAIN2014, "grefs"),
    "reasonseg": DatasetSpec(
        "reasoning",
        ("train", "val", "test"),
        ("reason_seg/ReasonSeg/{split}",),  # and, if there is one, explanatory/{split}.json beside it
        lambda root, split, bad: read_reasonseg(root / "reason_seg/ReasonSeg", split, bad),
    ),
    "ade20k": DatasetSpec(
        "semantic",
        ("train",),
        ("ade20k/images/training", "ade20k/annotations/training"),
        lambda root, _, bad: semantic.ade20k(root, bad),
    ),
    "cocostuff": DatasetSpec(
        "semantic",
        ("train",),
        ("coco/train2017", "cocostuff/train2017"),
        lambda root, _, bad: semantic.cocostuff(root, bad),
    ),
    "mapillary": DatasetSpec(
        "semantic",
        ("train",),
        ("mapillary/config_v2.0.json", "mapillary/training/images", "mapillary/training/v2.0/labels"),
        lambda root, _, bad: semantic.mapillary(root, bad),
    ),
    "paco_lvis": DatasetSpec(
        "semantic",
        ("train",),
        ("vlpart/paco/annotations/paco_lvis_v1_train.json", "coco/train2017"),
        lambda root, _, bad: semantic.paco_lvis(root, bad),
    ),
    "pascal_part": DatasetSpec(
        "semantic",
        ("train",),
        ("vlpart/pascal_part/train.json", "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages"),
        lambda root, _, bad: semantic.pascal_part(root, bad),
    ),
    "llava_instruct_150k": DatasetSpec(
        "vqa",
        ("train",),
        ("llava_dataset/llava_instruct_150k.json", "coco/train2017"),
        lambda root, _, bad: read_dialogues(
            root / "llava_dataset/llava_instruct_150k.json", root / "coco/train2017", bad
        ),
    ),
}


def open_data(name: str, root: Path, max_bad_fraction: float = MAX_BAD_FRACTION) -> RecordDataset:
    """A data set by its name, `NAME` or `NAME:SPLIT`, or a file of one's own.

    Args:
        name: a key of `DATASETS` (the first split, if none is given), for referring data sets also with "multi" before
            it (`multi_referring`); a JSONL file (`jsonl.py`); a COCO or LVIS instances file *.json, whose images lie in
            `root`, or `FILE.json:FOLDER`.
        root: the data root.
        max_bad_fraction: see `Faults`.

    Raises:
        ValueError: there is no such data set or split, or it can't be read.
    """
    if name.endswith(".jsonl"):
        return read_jsonl(Path(name), max_bad_fraction)
    if instances := INSTANCES.fullmatch(name):
        images = root / (instances["folder"] or "")
        return semantic.read_instances(Path(instances["file"]), images, max_bad_fraction=max_bad_fraction)
    key, _, split = name.partition(":")
    single = key.removeprefix("multi")
    if key != single and single in DATASETS and DATASETS[single].kind == "refer":
        return multi_referring(open_data(name.removeprefix("multi"), root, max_bad_fraction))
    if key not in DATASETS:
        raise ValueError(
            f"expected a data set, got {name!r}. Known: {', '.join(DATASETS)}; or give a file *.jsonl or *.json."
        )
    published = DATASETS[key]
    if split and split not in published.splits:
        raise ValueError(f"expected a split of {key}, got {split!r}. Known: {', '.join(published.splits)}.")
    return published.open(root, split or published.splits[0], max_bad_fraction)


@dataclass(frozen=True)
class DatasetFile:
    """A file or folder of the layout: where it belongs below the root, where else it may lie, whose it is."""

    path: str
    others: tuple[str, ...]
    sets: tuple[str, ...]
    present: bool


def layout(root: Path) -> list[DatasetFile]:
    """Every file and folder that the published data sets need, for all their splits, in the order of their paths."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, published in DATASETS.items():
        for part in published.parts:
            for split in published.splits if "{split}" in part else published.splits[:1]:
                found.setdefault(tuple(part.replace("{split}", split).split(" | ")), []).append(name)
    parts = [
        DatasetFile(choices[0], choices[1:], tuple(sets), any((root / choice).exists() for choice in choices))
        for choices, sets in found.items()
    ]
    return sorted(parts, key=lambda part: part.path)
