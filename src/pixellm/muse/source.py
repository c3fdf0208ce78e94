"""The annotations that records are made from, in an SQLite file: memory does not grow with their number.

COCO or LVIS JSON (read as a stream) → index → images, rarest categories first → annotations of one image
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pixellm.muse.layout import photograph
from pixellm.muse.records import MuseImage, MuseRecord, MuseTarget
from pixellm.utils.checks import expect
from pixellm.utils.files import atomic_write

FILE = "source.sqlite"  # in the output of a generation
VERSION = 1
KEPT = ("id", "segmentation", "bbox", "area", "category_id", "iscrowd")
SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE categories (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE images (
    id INTEGER PRIMARY KEY, file_name TEXT NOT NULL, height INTEGER NOT NULL, width INTEGER NOT NULL,
    coco_url TEXT, licence TEXT, partial TEXT NOT NULL, photograph TEXT NOT NULL
);
CREATE TABLE annotations (
    image_id INTEGER NOT NULL, number INTEGER NOT NULL, category_id INTEGER NOT NULL, share REAL NOT NULL,
    crowd INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (image_id, number)
) WITHOUT ROWID;
CREATE TABLE captions (image_id INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX captions_of ON captions (image_id);
CREATE INDEX shown ON images (photograph);
"""


@dataclass(frozen=True)
class Annotated:
    """A photograph with all that is annotated in it.

    Args:
        image: the photograph.
        things: without crowds, descriptions empty.
        crowds: annotations that stand for many.
        complete: categories of which no instance is left out, see `Scene`.
        captions: what people wrote about it.
        exhaustive: whether all categories were looked for.
    """

    image: MuseImage
    things: tuple[MuseTarget, ...]
    crowds: tuple[MuseTarget, ...]
    complete: frozenset[str]
    captions: tuple[str, ...]
    exhaustive: bool


class Source:
    """An index that `build` made; use it as a context, or close it."""

    def __init__(self, index: Path) -> None:
        self._db = sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        self.about = dict(self._db.execute("SELECT key, value FROM about"))
        self._names: dict[int, str] = dict(self._db.execute("SELECT id, name FROM categories"))

    @classmethod
    def of(cls, directory: Path) -> "Source | None":
        """The index that a generation left in its output, if it is there."""
        path = directory / FILE
        return cls(path) if path.is_file() else None

    @classmethod
    def build(cls, annotations: Path, index: Path, captions: Path | None = None) -> "Source":
        """Index a COCO or LVIS file of instances, and COCO's captions; an index of the same files is kept as it is.

        Raises:
            ValueError: a file is missing or something else.
        """
        about = digests(annotations, captions)
        if index.is_file():
            kept = cls(index)
            if kept.about == about:
                return kept
            kept.close()
        with atomic_write(index) as temporary, closing(sqlite3.connect(temporary, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = OFF")  # whole or not at all: it is renamed once it is finished
            db.execute("PRAGMA journal_mode = OFF")
            db.executescript(SCHEMA)
            db.execute("BEGIN")
            _fill(db, annotations, captions)
            db.executemany("INSERT INTO about VALUES (?, ?)", about.items())
            db.execute("COMMIT")
            db.execute("ANALYZE")
        return cls(index)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    @property
    def category_ids(self) -> dict[str, int]:
        """The categories' numbers in the source, by name."""
        return {name: number for number, name in self._names.items()}

    def count(self) -> int:
        """Photographs."""
        return self._db.execute("SELECT COUNT(*) FROM images").fetchone()[0]

    def images_by_category(self, min_area: float) -> dict[str, int]:
        """In how many images there is a thing of a category that is at least so large, in parts of the image."""
        query = (
            "SELECT category_id, COUNT(DISTINCT image_id) FROM annotations WHERE NOT crowd AND share >= ? GROUP BY 1"
        )
        return {self._names[number]: images for number, images in self._db.execute(query, (min_area,))}

    def rarest_first(self, min_area: float) -> Iterator[int]:
        """Ids of all images: those with the category that fewest images have come first, those with nothing last.

        Args:
            min_area: of the image; what is smaller, or a crowd, doesn't count.
        """
        usable = "FROM annotations WHERE NOT crowd AND share >= :least"
        query = (
            f"WITH common AS (SELECT category_id, COUNT(DISTINCT image_id) AS images {usable} GROUP BY category_id), "
            f"rank AS (SELECT image_id, MIN(images) AS rarest FROM (SELECT image_id, category_id {usable}) "
            "JOIN common USING (category_id) GROUP BY image_id) "
            "SELECT id FROM images LEFT JOIN rank ON image_id = id ORDER BY rarest IS NULL, rarest, id"
        )
        for (image_id,) in self._db.execute(query, {"least": min_area}):
            yield image_id

    def annotations(self, image_id: int) -> list[dict[str, Any]]:
        """As the source has them, with `category_name`."""
        query = "SELECT body, category_id FROM annotations WHERE image_id = ? ORDER BY number"
        return [
            json.loads(body) | {"category_name": self._names[category]}
            for body, category in self._db.execute(query, (image_id,))
        ]

    def things(self, record: MuseRecord) -> list[MuseTarget]:
        """Everything annotated in a record's image but crowds, without descriptions; see `Rules.others`."""
        return [_target(row) for row in self.annotations(record.image.image_id) if not row.get("iscrowd")]

    def repeated(self, image_id: int) -> bool:
        """Whether the same photograph is in the source under a smaller id."""
        query = "SELECT 1 FROM images AS a JOIN images AS b USING (photograph) WHERE a.id = ? AND b.id < a.id LIMIT 1"
        return self._db.execute(query, (image_id,)).fetchone() is not None

    def image(self, image_id: int) -> Annotated:
        """A photograph of the source."""
        row = self._db.execute("SELECT * FROM images WHERE id = ?", (image_id,)).fetchone()
        number, file_name, height, width, coco_url, licence, partial, _ = row
        rows = self.annotations(image_id)
        things = tuple(_target(one) for one in rows if not one.get("iscrowd"))
        crowds = tuple(_target(one) for one in rows if one.get("iscrowd"))
        said = self._db.execute("SELECT text FROM captions WHERE image_id = ? ORDER BY rowid", (image_id,))
        return Annotated(
            MuseImage(number, file_name, height, width, coco_url, licence),
            things,
            crowds,
            self._complete(json.loads(partial), rows),
            tuple(text for (text,) in said),
            not json.loads(partial),
        )

    def _complete(self, partial: dict[str, list[int]], rows: list[dict[str, Any]]) -> frozenset[str]:
        """LVIS looks for some categories only in each image (arXiv 1908.03195); COCO for all, but merges crowds."""
        if partial:
            found = {row["category_id"] for row in rows} | set(partial["absent"])
            known = found - set(partial["not_exhaustive"])
        else:
            known = set(self._names)
        known -= {row["category_id"] for row in rows if row.get("iscrowd")}
        return frozenset(self._names[number] for number in known if number in self._names)


def _target(row: dict[str, Any]) -> MuseTarget:
    box = tuple(float(side) for side in row["bbox"])
    area = float(row.get("area") or box[2] * box[3])
    return MuseTarget(row["id"], row["category_name"], "", row.get("segmentation"), box, area)  # type: ignore[arg-type]


def digests(annotations: Path, captions: Path | None) -> dict[str, str]:
    """What an index depends on.

    Raises:
        ValueError: a file can't be read.
    """
    found = {"version": str(VERSION), "annotations": _digest(annotations)}
    return found | ({"captions": _digest(captions)} if captions else {})


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"expected a JSON file at {path} ({error.strerror}). Check the path.") from None


def _fill(db: sqlite3.Connection, annotations: Path, captions: Path | None) -> None:
    try:
        names = [(one["id"], one["name"].replace("_", " ")) for one in _items(annotations, "categories")]
        db.executemany("INSERT INTO categories VALUES (?, ?)", names)
        licences = {one["id"]: one.get("url") or one.get("name") for one in _items(annotations, "licenses")}
        rows = (_image_row(one, licences) for one in _items(annotations, "images"))
        db.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        _fill_annotations(db, annotations, {number for number, _ in names})
        if captions:
            said = ((one["image_id"], one["caption"]) for one in _items(captions, "annotations"))
            db.executemany("INSERT INTO captions VALUES (?, ?)", said)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{annotations}: expected COCO or LVIS instances, got something else ({error!r}).") from None
    except sqlite3.IntegrityError as error:
        raise ValueError(f"{annotations}: expected ids and names that are unique, got one twice ({error}).") from None
    if not (names and db.execute("SELECT 1 FROM images LIMIT 1").fetchone()):
        raise ValueError(f"{annotations}: expected images and categories, got none. Is it a file of COCO instances?")


def _fill_annotations(db: sqlite3.Connection, path: Path, categories: set[int]) -> None:
    sizes: Callable[[int], tuple[int, int] | None] = lambda number: db.execute(  # noqa: E731
        "SELECT height, width FROM images WHERE id = ?", (number,)
    ).fetchone()
    for number, one in enumerate(_items(path, "annotations")):
        size = sizes(one["image_id"])
        if size is None or one["category_id"] not in categories:
            what = "image" if size is None else "category"
            raise ValueError(
                f"{path}: annotation {one.get('id')} is of the {what} {one[f'{what}_id']}, which isn't there."
            )
        box = expect(one.get("bbox"), list, f"a bbox of annotation {one.get('id')} in {path}")
        share = float(one.get("area") or box[2] * box[3]) / (size[0] * size[1])
        body = json.dumps({key: one[key] for key in KEPT if key in one})
        row = (one["image_id"], number, one["category_id"], share, int(bool(one.get("iscrowd"))), body)
        db.execute("INSERT INTO annotations VALUES (?, ?, ?, ?, ?, ?)", row)


def _image_row(one: dict[str, Any], licences: dict[int, str]) -> tuple[Any, ...]:
    # LVIS 1.0 has no file_name: its images are of train2017 and val2017, as the address says.
    name = one.get("file_name") or "/".join(one["coco_url"].rsplit("/", 2)[-2:])
    partial = {}
    if "neg_category_ids" in one:
        partial = {"absent": one["neg_category_ids"], "not_exhaustive": one.get("not_exhaustive_category_ids", [])}
    return (
        *(one["id"], name, one["height"], one["width"], one.get("coco_url"), licences.get(one.get("license", -1))),
        *(json.dumps(partial), photograph({"coco_url": one.get("coco_url"), "file_name": name})),
    )


def _items(path: Path, section: str) -> Iterable[dict[str, Any]]:
    """The objects of one of the lists of a file, one by one."""
    import ijson

    try:
        with path.open("rb") as file:
            yield from ijson.items(file, f"{section}.item", use_float=True)
    except ijson.JSONError as error:
        raise ValueError(f"{path} is not JSON ({error}). Fetch it again.") from None
