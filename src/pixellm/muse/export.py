"""Records → a data set on disk, whole or not at all:

    muse_{train,val,test_less,test_many}.json   the released layout
    data/SPLIT-00000-of-00001.parquet           the same for `datasets.load_dataset(DIRECTORY)`; masks as COCO RLE
    README.md                                   the data set's card

Records are read twice, once for the names of their categories, and never all kept.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixellm.imaging import masks
from pixellm.muse import layout
from pixellm.muse.layout import Pair, photograph
from pixellm.muse.quality.checks import DEFAULT, few_targets, mask, schema, slots
from pixellm.muse.records import MuseRecord
from pixellm.muse.source import Source
from pixellm.muse.splits import SPLITS, Shares, split_of
from pixellm.muse.stats import Statistics
from pixellm.utils.files import atomic_directory

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 1000  # rows that are kept before they are written
# What no reader of the layout could use, however it came into a record (a reviewer's edit, say).
NEEDED = (schema, slots, few_targets, mask)


@dataclass
class Exported:
    """What came of it.

    Args:
        splits: statistics of each.
        left_out: records that are in no file, by reason.
        makers: pairs by engine, model, prompt, and whether they are synthetic.
        licences: images by what their owners allow.
    """

    splits: dict[str, Statistics] = field(default_factory=lambda: {name: Statistics() for name in SPLITS})
    left_out: Counter[str] = field(default_factory=Counter)
    makers: Counter[tuple[str, str, str, bool]] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)


def export(
    records: Callable[[], Iterable[MuseRecord]],
    out: Path,
    card: Callable[[Exported], str],
    shares: Shares = Shares(),  # noqa: B008
    source: Source | None = None,
) -> Exported:
    """Write a data set.

    Args:
        records: gives them, from the first one, each time; those of an image one after another.
        out: a directory that isn't there, or is empty.
        card: its README.md.
        shares: of the splits.
        source: without it, `ann_list` holds the targets alone, and categories are numbered in the order of their names.

    Raises:
        ValueError: something is in `out`; there is no record to write; an image's records are apart.
    """
    with atomic_directory(out) as directory, ExitStack() as stack:
        numbers = _category_ids(records(), source)
        writers = {name: stack.enter_context(_SplitWriter(directory, name)) for name in SPLITS}
        found = Exported()
        for image_id, group in _images(records(), found):
            pairs = [Pair.of(one, numbers) for one in group]
            image = layout.image_fields(group[0].image)
            name, kept = split_of(photograph(image), pairs, shares)
            found.left_out["another number of targets than its test split has"] += len(pairs) - len(kept)
            every = source.annotations(image_id) if source else None
            _write_image(found, writers[name], layout.entry(image, every or _instances(pairs), kept), name, kept)
        if not found.makers:
            raise ValueError(f"expected records to export, got none that can be used ({dict(found.left_out)}).")
        found.left_out = +found.left_out
        (directory / "README.md").write_text(card(found), encoding="utf-8")
    return found


def _write_image(found: Exported, writer: "_SplitWriter", entry: dict[str, Any], name: str, kept: list[Pair]) -> None:
    if not kept:
        return
    writer.add(entry, kept)
    found.splits[name].add(entry)
    found.licences[entry.get("license") or "not stated"] += 1
    for pair in kept:
        maker = pair.provenance or {}
        found.makers[(maker["engine"], maker["model"], maker["prompt"], maker["synthetic"])] += 1


def _category_ids(records: Iterable[MuseRecord], source: Source | None) -> dict[str, int]:
    names = sorted({target.category for record in records for target in record.targets if _named(target.category)})
    if source is None:
        return {name: number for number, name in enumerate(names, 1)}
    unknown = [name for name in names if name not in source.category_ids]
    if unknown:
        raise ValueError(f"expected the annotations that the records were made from; they lack {unknown[:5]}.")
    return source.category_ids


def _named(category: object) -> bool:
    return isinstance(category, str) and bool(category.strip())


def _images(records: Iterable[MuseRecord], found: Exported) -> Iterator[tuple[int, list[MuseRecord]]]:
    """Records by image, those that can be used."""
    seen = set()
    for image_id, group in groupby(records, key=lambda one: one.image.image_id):
        if image_id in seen:
            raise ValueError(f"expected the records of an image one after another, got image {image_id} again.")
        seen.add(image_id)
        good = []
        for record in group:
            fault = next((check.__name__ for check in NEEDED if check(record, DEFAULT)), None)
            if fault:
                found.left_out[f"check {fault}"] += 1
            else:
                good.append(record)
        if good:
            yield image_id, good


def _instances(pairs: Iterable[Pair]) -> list[dict[str, Any]]:
    """Without the annotations: every target once."""
    targets = {target["id"]: target for pair in pairs for target in pair.answer}
    return [{key: value for key, value in one.items() if key != "rephrased_name"} for one in targets.values()]


class _SplitWriter:
    """One split: its JSON and its Parquet file."""

    def __init__(self, directory: Path, name: str) -> None:
        import pyarrow.parquet as pq

        (directory / "data").mkdir(exist_ok=True)
        self._file = (directory / f"muse_{name}.json").open("w", encoding="utf-8")
        self._json = layout.Writer(self._file)
        self._schema = parquet_schema()
        self._parquet = pq.ParquetWriter(directory / f"data/{name}-00000-of-00001.parquet", self._schema)
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> "_SplitWriter":
        return self

    def add(self, entry: Mapping[str, Any], pairs: Iterable[Pair]) -> None:
        self._json.add(entry)
        self._rows += [row(entry, pair) for pair in pairs]
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
    """One row is one question."""
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


def row(entry: Mapping[str, Any], pair: Pair) -> dict[str, Any]:
    """A question as a row of `parquet_schema`."""
    height, width = entry["height"], entry["width"]
    named = {"annotation_id": "id", "category": "category_name", "description": "rephrased_name"}
    targets = []
    for target in pair.answer:
        rle = masks.united([masks.to_rles(target["segmentation"], height, width)], height, width)
        same = {name: target[name] for name in ("category_id", "area", "bbox")}
        renamed = {name: target[key] for name, key in named.items()}
        targets.append(same | renamed | {"mask": masks.as_text(rle)})
    image = {name: entry.get(name) for name in ("file_name", "coco_url", "height", "width", "license")}
    made = dict(pair.provenance or {})
    return {
        "image_id": entry["id"],
        **image,
        **made,
        "question": pair.question,
        "answer": pair.text,
        "targets": targets,
    }


def summary(found: Exported) -> dict[str, Any]:
    """For `--json`."""
    makers = [dict(zip(("engine", "model", "prompt", "synthetic"), key, strict=True)) for key in found.makers]
    return {
        "splits": {name: one.to_json() for name, one in found.splits.items()},
        "left_out": dict(found.left_out),
        "makers": [maker | {"pairs": count} for maker, count in zip(makers, found.makers.values(), strict=True)],
        "licences": dict(found.licences),
    }


def write_summary(found: Exported, path: Path) -> None:
    """As JSON."""
    from pixellm.utils.files import write_text

    write_text(path, json.dumps(summary(found), ensure_ascii=False, indent=2) + "\n")
