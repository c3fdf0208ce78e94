"""Referring expressions: RefCOCO, RefCOCO+, RefCOCOg, RefCLEF, and gRefCOCO with several targets or none.

Layout below the data root (`refs(SPLIT_BY).p` is a pickle of plain lists and dicts, written by Python 2):

    refer_seg/refcoco/{refs(unc).p, instances.json}              the same for refcoco+ and refclef
    refer_seg/refcocog/{refs(umd).p, instances.json}
    refer_seg/grefcoco/{grefs(unc).json | grefs(unc).p, instances.json}
    refer_seg/images/mscoco/images/train2014, refer_seg/images/saiapr_tc-12
"""

import pickle
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixellm.data.records import (
    MAX_BAD_FRACTION,
    Faults,
    Record,
    RecordList,
    Region,
    Segments,
    expect,
    read_json,
    size_of,
)

NO_TARGET = -1  # gRefCOCO's annotation id where nothing fits
MULTI_SIZES = (6, 5, 4)  # targets of a multi-referring question, in turn, as the released code groups them


def read_references(
    directory: Path, images: Path, split_by: str, split: str, max_bad_fraction: float = MAX_BAD_FRACTION
) -> RecordList:
    """A referring data set: one record for each image, one region for each sentence.

    Args:
        directory: of the refs and `instances.json`.
        images: folder of the images.
        split_by: whose split: "unc", "umd", "google".
        split: "train", "val", "testA", "testB", "test".
        max_bad_fraction: more bad references than this share are an error.

    Raises:
        ValueError: a missing or malformed file, code in a pickle, no references of that split.
    """
    instances = read_json(directory / "instances.json")
    files = {image["id"]: image for image in instances["images"]}
    segmentations = {a["id"]: a["segmentation"] for a in instances["annotations"]}
    references = _references(directory, split_by)
    chosen = [reference for reference in references if reference.get("split") == split]
    if not chosen:
        found = sorted({str(reference.get("split")) for reference in references})
        raise ValueError(f"{directory}: expected references of the split {split!r}, found {', '.join(found)}.")
    faults = Faults(directory, max_bad_fraction)
    regions: dict[int, list[Region]] = defaultdict(list)
    for reference in chosen:
        with faults.guard(reference.get("ref_id", "?")):
            if reference["image_id"] not in files:
                raise ValueError(f"no image {reference['image_id']} in instances.json")
            regions[reference["image_id"]] += _regions(reference, segmentations)
    records = (
        Record(str(image_id), images / files[image_id]["file_name"], size_of(files[image_id]), tuple(found))
        for image_id, found in regions.items()
    )
    return RecordList(records, faults.check(len(chosen)))


def _regions(reference: dict[str, Any], segmentations: dict[int, Any]) -> list[Region]:
    annotations = reference["ann_id"] if isinstance(reference["ann_id"], list) else [reference["ann_id"]]
    targets = [annotation for annotation in annotations if annotation != NO_TARGET]
    if absent := [annotation for annotation in targets if annotation not in segmentations]:
        raise ValueError(f"no annotation {absent[0]} in instances.json")
    mask = Segments(tuple(segmentations[annotation] for annotation in targets)).checked() if targets else None
    sentences = [expect(sentence["sent"], str, "a sentence").strip() for sentence in reference["sentences"]]
    if not any(sentences):
        raise ValueError("no sentence")
    return [Region((sentence,), mask) for sentence in sentences if sentence]


def multi_referring(regions: Sequence[Region], sizes: Sequence[int] = MULTI_SIZES) -> list[tuple[Region, ...]]:
    """Regions of an image in file order, cut into questions of `sizes` targets in turn; the last may be smaller."""
    groups, start = [], 0
    while start < len(regions):
        size = sizes[len(groups) % len(sizes)]
        groups.append(tuple(regions[start : start + size]))
        start += size
    return groups


def _references(directory: Path, split_by: str) -> list[dict[str, Any]]:
    names = [f"grefs({split_by}).json", f"grefs({split_by}).p", f"refs({split_by}).p", f"refs({split_by}).json"]
    for name in names:
        path = directory / name
        if path.is_file():
            found = read_json(path) if path.suffix == ".json" else read_plain_pickle(path)
            if not isinstance(found, list) or not all(isinstance(reference, dict) for reference in found):
                raise ValueError(f"{path}: expected a list of references, got {type(found).__name__}.")
            return found
    raise ValueError(f"{directory}: expected {' or '.join(names)}, found none of them. See `pixellm data layout`.")


class _PlainUnpickler(pickle.Unpickler):
    """Admits containers, numbers and texts: whatever names a class or a function could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_plain_pickle(path: Path) -> Any:
    """A pickle of plain containers, numbers and texts; a ValueError for anything else, whose code is not run."""
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="utf-8").load()
    except OSError as error:
        raise ValueError(f"expected a file at {path} ({error.strerror}).") from None
    # A damaged pickle makes the unpickler fail in any way.
    except Exception as error:
        raise ValueError(
            f"{path}: expected a pickle of plain lists, dicts, numbers and texts, got one that can't be read as such "
            f"({error}). It is damaged, or holds code, which is never run. Fetch it again."
        ) from None
