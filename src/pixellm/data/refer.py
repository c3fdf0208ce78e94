"""Referring expressions: RefCOCO, RefCOCO+, RefCOCOg, RefCLEF, and gRefCOCO with several targets or none.

Layout below the data root (`refs(SPLIT_BY).p` is a pickle of plain lists and dicts, written by Python 2):

    refer_seg/refcoco/{refs(unc).p, instances.json}              the same for refcoco+ and refclef
    refer_seg/refcocog/{refs(umd).p, instances.json}
    refer_seg/grefcoco/{grefs(unc).json | grefs(unc).p, instances.json}
    refer_seg/images/mscoco/images/train2014, refer_seg/images/saiapr_tc-12
"""

import pickle
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from pixellm.data.datasets import MAX_BAD_FRACTION, Faults, RecordList, read_json, size_of
from pixellm.data.records import Exchange, Instance, Record, Segments
from pixellm.data.templates import join
from pixellm.utils.checks import expect

NO_TARGET = -1  # gRefCOCO's annotation id where nothing fits
MULTI_SIZES = (6, 5, 4)  # targets of a multi-referring question, in turn, as the released code groups them


def read_references(
    directory: Path, folder: Path, split_by: str, split: str, max_bad_fraction: float = MAX_BAD_FRACTION
) -> RecordList:
    """Read a referring dataset: one record for each image, one instance for each sentence.

    Args:
        directory: folder of the refs and `instances.json`.
        folder: folder of the images.
        split_by: "unc", "umd" or "google".
        split: "train", "val", "testA", "testB", "test".
        max_bad_fraction: more bad references than this share are an error.

    Raises:
        ValueError: a missing or malformed file, code in a pickle, no references of that split.
    """
    faults = Faults(directory, max_bad_fraction)
    annotated = expect(read_json(directory / "instances.json"), dict, f"COCO's lists in {directory / 'instances.json'}")
    images, annotations = (
        expect(annotated.get(key), list, f"a list `{key}` in instances.json") for key in ("images", "annotations")
    )
    files = faults.index(images, "image", lambda row: (folder / expect(row["file_name"], str, "a file"), size_of(row)))
    segmentations = faults.index(annotations, "annotation", lambda row: row["segmentation"])
    categories = {row["id"]: str(row.get("name", "")) for row in annotated.get("categories") or () if "id" in row}
    references = _references(directory, split_by)
    of_split = [reference for reference in references if reference.get("split") == split]
    if not of_split:
        splits = sorted({str(reference.get("split")) for reference in references})
        raise ValueError(f"{directory}: expected references of the split {split!r}, found {', '.join(splits)}.")
    instances: dict[int, list[Instance]] = defaultdict(list)
    for reference in of_split:
        with faults.guard(reference.get("ref_id", "?")):
            if reference["image_id"] not in files:
                raise ValueError(f"no image {reference['image_id']} in instances.json")
            of_reference = _instances(reference, segmentations, categories)  # before the image gets an entry
            instances[reference["image_id"]] += of_reference
    records = (Record(str(image_id), *files[image_id], tuple(group)) for image_id, group in instances.items())
    return RecordList(records, faults.check(len(of_split)))


def _instances(reference: dict[str, Any], segmentations: dict[int, Any], categories: dict[int, str]) -> list[Instance]:
    annotations = reference["ann_id"] if isinstance(reference["ann_id"], list) else [reference["ann_id"]]
    targets = [annotation for annotation in annotations if annotation != NO_TARGET]
    if absent := [annotation for annotation in targets if annotation not in segmentations]:
        raise ValueError(f"no annotation {absent[0]} in instances.json")
    mask = Segments(tuple(segmentations[annotation] for annotation in targets)).checked() if targets else None
    sentences = [expect(sentence["sent"], str, "a sentence").strip() for sentence in reference["sentences"]]
    if not any(sentences):
        raise ValueError("no sentence")
    category = reference.get("category_id")  # of gRefCOCO a list, one for each target
    name = categories.get(category, "") if isinstance(category, int) else ""
    return [Instance((sentence,), mask, name) for sentence in sentences if sentence]


def multi_referring(records: Sequence[Record]) -> RecordList:
    """Ask for several targets each: sentences in file order, `MULTI_SIZES` in turn, the rest in the last one.

    Sentences that nothing fits are left out.
    """
    return RecordList(
        replace(record, instances=(), exchanges=tuple(_several(group) for group in _groups(record.instances)))
        for record in records
    )


def _groups(instances: Sequence[Instance]) -> Iterator[tuple[Instance, ...]]:
    fitting, sizes = iter([instance for instance in instances if instance.mask is not None]), cycle(MULTI_SIZES)
    while group := tuple(islice(fitting, next(sizes))):
        yield group


def _several(instances: tuple[Instance, ...]) -> Exchange:
    return Exchange(join([instance.names[0] for instance in instances]), None, instances, "phrase")


def _references(directory: Path, split_by: str) -> list[dict[str, Any]]:
    names = [f"grefs({split_by}).json", f"grefs({split_by}).p", f"refs({split_by}).p", f"refs({split_by}).json"]
    for name in names:
        path = directory / name
        if path.is_file():
            content = read_json(path) if path.suffix == ".json" else read_plain_pickle(path)
            if not isinstance(content, list) or not all(isinstance(reference, dict) for reference in content):
                raise ValueError(f"{path}: expected a list of references, got {type(content).__name__}.")
            return content
    raise ValueError(f"{directory}: expected {' or '.join(names)}, found none of them. See `pixellm data layout`.")


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler of containers, numbers and texts: whatever names a class or a function could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of plain containers, numbers and texts; a ValueError for anything else, whose code is not run."""
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="utf-8", errors="replace").load()
    except OSError as error:
        raise ValueError(f"expected a file at {path} ({error.strerror}).") from None
    # A damaged pickle makes the unpickler fail in any way.
    except Exception as error:
        raise ValueError(
            f"{path}: expected a pickle of plain lists, dicts, numbers and texts, got one that can't be read as such "
            f"({error}). It is damaged, or holds code, which is never run. Fetch it again."
        ) from None
