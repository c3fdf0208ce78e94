"""Published datasets by name: where they lie below a data root, and what reads them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixellm.data import reasoning, semantic
from pixellm.data.datasets import MAX_BAD_FRACTION, RecordDataset
from pixellm.data.jsonl import read_jsonl
from pixellm.data.refer import multi_referring, read_references

Kind = Literal["semantic", "refer", "vqa", "reasoning"]


INSTANCES = re.compile(r"(?P<file>.+\.json)(?::(?P<folder>.*))?")  # a COCO or LVIS file, and the folder of its images


@dataclass(frozen=True)
class DatasetSpec:
    """A published dataset.

    Args:
        kind: what it teaches; the mixture of the paper's recipe gives each kind a share.
        files: files and folders below the data root, `{split}` in them; alternatives are separated by " | ".
        open: root, split and `max_bad_fraction` → the dataset.
        splits: the first one is for training.
    """

    kind: Kind
    files: tuple[str, ...]
    open: Callable[[Path, str, float], RecordDataset]
    splits: tuple[str, ...] = ("train",)


def _referring(name: str, split_by: str, splits: tuple[str, ...], images: str, refs: str = "refs") -> DatasetSpec:
    def read(root: Path, split: str, max_bad_fraction: float) -> RecordDataset:
        folder = root / "refer_seg"
        return read_references(folder / name, folder / "images" / images, split_by, split, max_bad_fraction)

    files = f"refer_seg/{name}/{refs}({split_by}).p"
    if refs == "grefs":
        files = f"refer_seg/{name}/{refs}({split_by}).json | {files}"
    return DatasetSpec("refer", (files, f"refer_seg/{name}/instances.json", f"refer_seg/images/{images}"), read, splits)


TRAIN2014, SAIAPR = "mscoco/images/train2014", "saiapr_tc-12"
UNC = ("train", "val", "testA", "testB")
MUSE_FILES = (
    "muse/muse_{split}.json | muse/MUSE_{split}.json | muse_{split}.json | MUSE_{split}.json",
    "refer_seg/images/mscoco/images/train2017 | coco/train2017",
    "refer_seg/images/mscoco/images/val2017 | coco/val2017",
)
REASONSEG_FILES = ("reason_seg/ReasonSeg/{split}",)  # and, if there is one, explanatory/{split}.json beside it
ADE20K_FILES = ("ade20k/images/training", "ade20k/annotations/training")
MAPILLARY_FILES = ("mapillary/config_v2.0.json", "mapillary/training/images", "mapillary/training/v2.0/labels")
PACO_FILES = ("vlpart/paco/annotations/paco_lvis_v1_train.json", "coco/train2017")
PASCAL_FILES = ("vlpart/pascal_part/train.json", "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages")
LLAVA_FILES = ("llava_dataset/llava_instruct_150k.json", "coco/train2017")

DATASETS: dict[str, DatasetSpec] = {
    "muse": DatasetSpec("reasoning", MUSE_FILES, reasoning.muse, ("train", "val", "test_less", "test_many")),
    "refcoco": _referring("refcoco", "unc", UNC, TRAIN2014),
    "refcoco+": _referring("refcoco+", "unc", UNC, TRAIN2014),
    "refcocog": _referring("refcocog", "umd", ("train", "val", "test"), TRAIN2014),
    "refclef": _referring("refclef", "unc", ("train", "val", "testA", "testB", "testC"), SAIAPR),
    "grefcoco": _referring("grefcoco", "unc", UNC, TRAIN2014, "grefs"),
    "reasonseg": DatasetSpec("reasoning", REASONSEG_FILES, reasoning.reasonseg, ("train", "val", "test")),
    "ade20k": DatasetSpec("semantic", ADE20K_FILES, semantic.ade20k),
    "cocostuff": DatasetSpec("semantic", ("coco/train2017", "cocostuff/train2017"), semantic.cocostuff),
    "mapillary": DatasetSpec("semantic", MAPILLARY_FILES, semantic.mapillary),
    "paco_lvis": DatasetSpec("semantic", PACO_FILES, semantic.paco_lvis),
    "pascal_part": DatasetSpec("semantic", PASCAL_FILES, semantic.pascal_part),
    "llava_instruct_150k": DatasetSpec("vqa", LLAVA_FILES, reasoning.llava_instruct),
}


def open_data(name: str, root: Path, max_bad_fraction: float = MAX_BAD_FRACTION) -> RecordDataset:
    """Open a dataset by its name, `NAME` or `NAME:SPLIT`, or one of your own files.

    Args:
        name: a key of `DATASETS` (the first split, if none is given), for referring datasets also with "multi" before
            it (`multi_referring`); a JSONL file (`jsonl.py`); a COCO or LVIS instances file *.json, whose images lie in
            `root`, or `FILE.json:FOLDER`.
        root: the data root.
        max_bad_fraction: see `Faults`.

    Raises:
        ValueError: there is no such dataset or split, or it can't be read.
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
            f"expected a dataset, got {name!r}. Known: {', '.join(DATASETS)}; or give a file *.jsonl or *.json."
        )
    spec = DATASETS[key]
    if split and split not in spec.splits:
        raise ValueError(f"expected a split of {key}, got {split!r}. Known: {', '.join(spec.splits)}.")
    return spec.open(root, split or spec.splits[0], max_bad_fraction)


@dataclass(frozen=True)
class DatasetFile:
    """A file or folder below the data root: its path, alternative paths, and the datasets that need it."""

    path: str
    others: tuple[str, ...]
    sets: tuple[str, ...]
    present: bool


def layout(root: Path) -> list[DatasetFile]:
    """Return every file and folder that the published datasets need, for all their splits, sorted by path."""
    datasets: dict[tuple[str, ...], list[str]] = {}
    for name, spec in DATASETS.items():
        for file in spec.files:
            for split in spec.splits if "{split}" in file else spec.splits[:1]:
                datasets.setdefault(tuple(file.replace("{split}", split).split(" | ")), []).append(name)
    files = [
        DatasetFile(choices[0], choices[1:], tuple(sets), any((root / choice).exists() for choice in choices))
        for choices, sets in datasets.items()
    ]
    return sorted(files, key=lambda file: file.path)
