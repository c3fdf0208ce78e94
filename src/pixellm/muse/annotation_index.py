"""Index of COCO or LVIS annotations in an SQLite file: memory does not grow with their number.

JSON (read as a stream) → index → images, rare categories first → annotations of one image
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

from pixellm.muse.layout import image_key
from pixellm.muse.records import ImageAnnotations, MuseImage, MuseRecord, MuseTarget
from pixellm.utils.checks import expect
from pixellm.utils.files import atomic_write, real_path

FILE = "source.sqlite"  # in the output directory of a generation
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


class AnnotationIndex:
    """Index that `build` wrote; use it as a context, or close it."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(f"{real_path(path).as_uri()}?mode=ro", uri=True, check_same_thread=False)
        self.about = dict(self._db.execute("SELECT key, value FROM about"))
        self._names: dict[int, str] = dict(self._db.execute("SELECT id, name FROM categories"))

    @classmethod
    def find(cls, directory: Path) -> "AnnotationIndex | None":
        """Open the index in the output of a generation; None: there is none."""
        path = directory / FILE
        return cls(path) if path.is_file() else None

    @classmethod
    def build(cls, annotations: Path, path: Path, captions: Path | None = None) -> "AnnotationIndex":
        """Index a COCO or LVIS file of instances, and COCO's captions; an index of the same files is kept.

        Raises:
            ValueError: a file is missing or something else.
        """
        about = digests(annotations, captions)
        if path.is_file():
            index = cls(path)
            if index.about == about:
                return index
            index.close()
        with atomic_write(path) as temporary, closing(sqlite3.connect(temporary, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = OFF")  # it is renamed once it is finished
            db.execute("PRAGMA journal_mode = OFF")
            db.executescript(SCHEMA)
            db.execute("BEGIN")
            _fill(db, annotations, captions)
            db.executemany("INSERT INTO about VALUES (?, ?)", about.items())
            db.execute("COMMIT")
            db.execute("ANALYZE")
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    @property
    def category_ids(self) -> dict[str, int]:
        """Category numbers by name."""
        return {name: number for number, name in self._names.items()}

    def count(self) -> int:
        """Return the number of images."""
        return self._db.execute("SELECT COUNT(*) FROM images").fetchone()[0]

    def images_by_category(self, min_area: float) -> dict[str, int]:
        """Count the images with an instance of each category of at least `min_area`, a fraction of the image."""
        query = (
            "SELECT category_id, COUNT(DISTINCT image_id) FROM annotations WHERE NOT crowd AND share >= ? GROUP BY 1"
        )
        return {self._names[number]: images for number, images in self._db.execute(query, (min_area,))}

    def rarest_first(self, min_area: float) -> Iterator[int]:
        """Yield the ids of all images, those with the rarest categories first, those without instances last.

        Args:
            min_area: fraction of the image; smaller instances, and crowds, don't count.
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
        """Return the annotations as the file has them, with `category_name`."""
        query = "SELECT body, category_id FROM annotations WHERE image_id = ? ORDER BY number"
        return [
            json.loads(body) | {"category_name": self._names[category]}
            for body, category in self._db.execute(query, (image_id,))
        ]

    def instances(self, record: MuseRecord) -> list[MuseTarget]:
        """Return all instances in a record's image but crowds, without descriptions; see `QualityRules.others`."""
        return [_target(row) for row in self.annotations(record.image.image_id) if not row.get("iscrowd")]

    def repeated(self, image_id: int) -> bool:
        """Return True if the same image is in the file under a smaller id."""
        query = "SELECT 1 FROM images AS a JOIN images AS b USING (photograph) WHERE a.id = ? AND b.id < a.id LIMIT 1"
        return self._db.execute(query, (image_id,)).fetchone() is not None

    def image(self, image_id: int) -> ImageAnnotations:
        """Return an image with all its annotations; its `others` are the crowds."""
        row = self._db.execute("SELECT * FROM images WHERE id = ?", (image_id,)).fetchone()
        number, file_name, height, width, coco_url, licence, partial, _ = row
        rows = self.annotations(image_id)
        captions = self._db.execute("SELECT text FROM captions WHERE image_id = ? ORDER BY rowid", (image_id,))
        return ImageAnnotations(
            MuseImage(number, file_name, height, width, coco_url, licence),
            instances=tuple(_target(row) for row in rows if not row.get("iscrowd")),
            others=tuple(_target(row) for row in rows if row.get("iscrowd")),
            complete=self._complete(json.loads(partial), rows),
            captions=tuple(text for (text,) in captions),
            exhaustive=not json.loads(partial),
        )

    def _complete(self, partial: dict[str, list[int]], rows: list[dict[str, Any]]) -> frozenset[str]:
        """Return complete categories: LVIS annotates some of each image (arXiv 1908.03195); COCO all but crowds."""
        if partial:
            known = {row["category_id"] for row in rows} | set(partial["absent"])
            known -= set(partial["not_exhaustive"])
        else:
            known = set(self._names)
        known -= {row["category_id"] for row in rows if row.get("iscrowd")}
        return frozenset(self._names[number] for number in known if number in self._names)


def _target(row: dict[str, Any]) -> MuseTarget:
    box = tuple(float(side) for side in row["bbox"])
    area = float(row.get("area") or box[2] * box[3])
    return MuseTarget(row["id"], row["category_name"], "", row.get("segmentation"), box, area)  # type: ignore[arg-type]


def digests(annotations: Path, captions: Path | None) -> dict[str, str]:
    """Return the digests of the files that an index is made from.

    Raises:
        ValueError: a file can't be read.
    """
    digests = {"version": str(VERSION), "annotations": _digest(annotations)}
    return digests | ({"captions": _digest(captions)} if captions else {})


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"expected a JSON file at {path} ({error.strerror}). Check the path.") from None


def _fill(db: sqlite3.Connection, annotations: Path, captions: Path | None) -> None:
    try:
        names = [(row["id"], row["name"].replace("_", " ")) for row in _items(annotations, "categories")]
        db.executemany("INSERT INTO categories VALUES (?, ?)", names)
        licences = {row["id"]: row.get("url") or row.get("name") for row in _items(annotations, "licenses")}
        rows = (_image_row(row, licences) for row in _items(annotations, "images"))
        db.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        _fill_annotations(db, annotations, {number for number, _ in names})
        if captions:
            texts = ((row["image_id"], row["caption"]) for row in _items(captions, "annotations"))
            db.executemany("INSERT INTO captions VALUES (?, ?)", texts)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{annotations}: expected COCO or LVIS instances, got something else ({error!r}).") from None
    except sqlite3.IntegrityError as error:
        raise ValueError(f"{annotations}: expected ids and names that are unique, got one twice ({error}).") from None
    if not (names and db.execute("SELECT 1 FROM images LIMIT 1").fetchone()):
        raise ValueError(f"{annotations}: expected images and categories, got none. Is it a file of COCO instances?")


def _fill_annotations(db: sqlite3.Connection, path: Path, categories: set[int]) -> None:
    size_query = "SELECT height, width FROM images WHERE id = ?"
    for number, row in enumerate(_items(path, "annotations")):
        size = db.execute(size_query, (row["image_id"],)).fetchone()
        if size is None or row["category_id"] not in categories:
            kind = "image" if size is None else "category"
            raise ValueError(
                f"{path}: annotation {row.get('id')} is of the {kind} {row[f'{kind}_id']}, which isn't there."
            )
        box = expect(row.get("bbox"), list, f"a bbox of annotation {row.get('id')} in {path}")
        share = float(row.get("area") or box[2] * box[3]) / (size[0] * size[1])
        body = json.dumps({key: row[key] for key in KEPT if key in row})
        values = (row["image_id"], number, row["category_id"], share, int(bool(row.get("iscrowd"))), body)
        db.execute("INSERT INTO annotations VALUES (?, ?, ?, ?, ?, ?)", values)


def _image_row(row: dict[str, Any], licences: dict[int, str]) -> tuple[Any, ...]:
    # LVIS 1.0 has no file_name: its images are of train2017 and val2017, as the address says.
    name = row.get("file_name") or "/".join(row["coco_url"].rsplit("/", 2)[-2:])
    partial = {}
    if "neg_category_ids" in row:
        partial = {"absent": row["neg_category_ids"], "not_exhaustive": row.get("not_exhaustive_category_ids", [])}
    return (
        *(row["id"], name, row["height"], row["width"], row.get("coco_url"), licences.get(row.get("license", -1))),
        *(json.dumps(partial), image_key({"coco_url": row.get("coco_url"), "file_name": name})),
    )


def _items(path: Path, section: str) -> Iterable[dict[str, Any]]:
    """Stream the objects of one of a file's lists."""
    import ijson

    try:
        with path.open("rb") as file:
            yield from ijson.items(file, f"{section}.item", use_float=True)
    except ijson.JSONError as error:
        raise ValueError(f"{path} is not JSON ({error}). Fetch it again.") from None
