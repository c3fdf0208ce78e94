"""Export of records to a data set on disk, written atomically:

    muse_{train,val,test_less,test_many}.json   the released layout
    data/SPLIT-00000-of-00001.parquet           the same for `datasets.load_dataset(DIRECTORY)`; masks as COCO RLE
    README.md                                   the data set's card

Records are read twice, once for the names of their categories, and memory doesn't grow with their number.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixellm.imaging import masks
from pixellm.muse import layout
from pixellm.muse.annotation_index import AnnotationIndex
from pixellm.muse.layout import MusePair, image_key
from pixellm.muse.operations import SPLITS, SplitShares, split_of
from pixellm.muse.quality.checks import DEFAULT, few_targets, mask, schema, slots
from pixellm.muse.records import MuseRecord
from pixellm.muse.stats import MuseStatistics
from pixellm.utils.files import atomic_directory

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 1000  # rows that are kept before they are written
NEEDED = (schema, slots, few_targets, mask)  # no reader could use a record that fails these, say after an edit


@dataclass
class MuseExport:
    """Counts of an export.

    Args:
        splits: statistics of each split.
        left_out: records that are in no file, by reason.
        origins: pairs by engine, model, prompt, and True for synthetic ones.
        licences: images by licence.
    """

    splits: dict[str, MuseStatistics] = field(default_factory=lambda: {name: MuseStatistics() for name in SPLITS})
    left_out: Counter[str] = field(default_factory=Counter)
    origins: Counter[tuple[str, str, str, bool]] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        names = ("engine", "model", "prompt", "synthetic")
        origins = [dict(zip(names, key, strict=True)) | {"pairs": count} for key, count in self.origins.items()]
        return {
            "splits": {name: stats.to_json() for name, stats in self.splits.items()},
            "left_out": dict(self.left_out),
            "makers": origins,
            "licences": dict(self.licences),
        }


def export(
    records: Callable[[], Iterable[MuseRecord]],
    out: Path,
    card: Callable[[MuseExport], str],
    shares: SplitShares = SplitShares(),  # noqa: B008
    index: AnnotationIndex | None = None,
) -> MuseExport:
    """Write a data set.

    Args:
        records: returns them from the first one, each time; those of an image one after another.
        out: directory that doesn't exist, or is empty.
        card: returns the README.md.
        shares: shares of the splits.
        index: None: `ann_list` holds the targets alone, and categories are numbered in the order of their names.

    Raises:
        ValueError: something is in `out`; there is no record to write; an image's records are apart.
    """
    with atomic_directory(out) as directory, ExitStack() as stack:
        numbers = _category_ids(records(), index)
        writers = {name: stack.enter_context(_SplitWriter(directory, name)) for name in SPLITS}
        result = MuseExport()
        for image_id, group in _images(records(), result):
            pairs = [MusePair.from_record(record, numbers) for record in group]
            image = layout.image_fields(group[0].image)
            name, kept = split_of(image_key(image), pairs, shares)
            result.left_out["another number of targets than its test split has"] += len(pairs) - len(kept)
            annotations = index.annotations(image_id) if index else None
            entry = layout.entry(image, annotations or _instances(pairs), kept)
            if kept:
                writers[name].add(entry, kept)
                result.splits[name].add(entry)
                result.licences[entry.get("license") or "not stated"] += 1
            for origin in (pair.provenance or {} for pair in kept):
                result.origins[(origin["engine"], origin["model"], origin["prompt"], origin["synthetic"])] += 1
        if not result.origins:
            raise ValueError(f"expected records to export, got none that can be used ({dict(result.left_out)}).")
        result.left_out = +result.left_out
        (directory / "README.md").write_text(card(result), encoding="utf-8")
    return result


def _category_ids(records: Iterable[MuseRecord], index: AnnotationIndex | None) -> dict[str, int]:
    names = sorted({target.category for record in records for target in record.targets if _is_name(target.category)})
    if index is None:
        return {name: number for number, name in enumerate(names, 1)}
    unknown = [name for name in names if name not in index.category_ids]
    if unknown:
        raise ValueError(f"expected the annotations that the records were made from; they lack {unknown[:5]}.")
    return index.category_ids


def _is_name(category: object) -> bool:
    return isinstance(category, str) and bool(category.strip())


def _images(records: Iterable[MuseRecord], result: MuseExport) -> Iterator[tuple[int, list[MuseRecord]]]:
    """Yield the usable records by image, and count the others."""
    seen = set()
    for image_id, group in groupby(records, key=lambda record: record.image.image_id):
        if image_id in seen:
            raise ValueError(f"expected the records of an image one after another, got image {image_id} again.")
        seen.add(image_id)
        good = []
        for record in group:
            failed = next((check.__name__ for check in NEEDED if check(record, DEFAULT)), None)
            if failed:
                result.left_out[f"check {failed}"] += 1
            else:
                good.append(record)
        if good:
            yield image_id, good


def _instances(pairs: Iterable[MusePair]) -> list[dict[str, Any]]:
    """Return every target once, in place of the annotations."""
    targets = {target["id"]: target for pair in pairs for target in pair.answer}
    return [{key: value for key, value in row.items() if key != "rephrased_name"} for row in targets.values()]


class _SplitWriter:
    """JSON and Parquet file of one split."""

    def __init__(self, directory: Path, name: str) -> None:
        import pyarrow.parquet as pq

        (directory / "data").mkdir(exist_ok=True)
        self._file = (directory / f"muse_{name}.json").open("w", encoding="utf-8")
        self._json = layout.EntryWriter(self._file)
        self._schema = parquet_schema()
        self._parquet = pq.ParquetWriter(directory / f"data/{name}-00000-of-00001.parquet", self._schema)
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> "_SplitWriter":
        return self

    def add(self, entry: Mapping[str, Any], pairs: Iterable[MusePair]) -> None:
        self._json.add(entry)
        self._rows += [parquet_row(entry, pair) for pair in pairs]
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._parquet.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self._flush()
            self._json.close()
        self._parquet.close()
        self._file.close()


def parquet_schema() -> "pa.Schema":
    """Return the schema; one row is one question."""
    import pyarrow as pa

    target = [
        *(("annotation_id", pa.int64()), ("category_id", pa.int64()), ("category", pa.string())),
        *(("description", pa.string()), ("area", pa.float64()), ("bbox", pa.list_(pa.float64()))),
        ("mask", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])),
    ]
    columns = [
        *(("record_id", pa.string()), ("image_id", pa.int64()), ("file_name", pa.string()), ("coco_url", pa.string())),
        *(("height", pa.int32()), ("width", pa.int32()), ("license", pa.string())),
        *(("question", pa.string()), ("answer", pa.string()), ("targets", pa.list_(pa.struct(target)))),
        *(("engine", pa.string()), ("model", pa.string()), ("prompt", pa.string()), ("synthetic", pa.bool_())),
    ]
    return pa.schema(columns)


def parquet_row(entry: Mapping[str, Any], pair: MusePair) -> dict[str, Any]:
    """Return a question as a row of `parquet_schema`."""
    height, width = entry["height"], entry["width"]
    renamed = {"annotation_id": "id", "category": "category_name", "description": "rephrased_name"}
    targets = []
    for target in pair.answer:
        rle = masks.union([masks.to_rles(target["segmentation"], height, width)], height, width)
        fields = {name: target[name] for name in ("category_id", "area", "bbox")}
        fields |= {name: target[key] for name, key in renamed.items()}
        targets.append(fields | {"mask": masks.as_text(rle)})
    image = {name: entry.get(name) for name in ("file_name", "coco_url", "height", "width", "license")}
    question = {"question": pair.question, "answer": pair.text, "targets": targets}
    return {"image_id": entry["id"], **image, **(pair.provenance or {}), **question}
