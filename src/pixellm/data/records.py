"""What a data set on disk tells of one image, before its image and masks are read.

    refer, semantic, reasoning, dialogue, jsonl → RecordDataset of Records → chat → LazySample → Sample

Annotation files are looked through when a data set is opened: what can't be used is left out, reported with its id and
counted, and too much of it is an error. Masks stay as they are stored until `decode`.

Shapes:  H, W image height and width
"""

import json
import logging
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from PIL import Image

from pixellm.imaging import masks
from pixellm.utils.checks import expect as expect

logger = logging.getLogger(__name__)

MAX_BAD_FRACTION = 0.01
LOGGED_BAD_RECORDS = 10  # bad records that are logged one by one


class MaskSource(Protocol):
    """A mask as it is stored."""

    def decode(self, height: int, width: int) -> np.ndarray:
        """Read it: bool (H, W) for an image of `height` × `width` pixels. A ValueError if it is malformed."""
        ...


@dataclass(frozen=True)
class Segments:
    """The union of COCO segmentations, each a list of polygons, an RLE, or a list of RLEs."""

    parts: tuple[Any, ...]

    def decode(self, height: int, width: int) -> np.ndarray:
        rle = masks.united([self.rles(height, width)], height, width)
        return masks.decode(rle, height, width)

    def rles(self, height: int, width: int) -> list[masks.Rle]:
        """All polygons and RLEs of all parts as compressed RLEs, without decoding any."""
        found = []
        for part in self.parts:
            several = isinstance(part, list) and any(isinstance(one, dict) for one in part)
            for one in part if several else [part]:
                found += masks.to_rles(one, height, width)
        return found

    def checked(self) -> "Segments":
        """Itself, unless something that holds no mask can be told without decoding it: then a ValueError."""
        for part in self.parts:
            if not isinstance(part, list | dict) or not part:
                raise ValueError(f"expected polygons or an RLE, got the segmentation {part!r}")
            polygons = [one for one in part if not isinstance(one, dict)] if isinstance(part, list) else []
            if polygons and not any(isinstance(one, list) and len(one) >= 6 for one in polygons):
                raise ValueError("expected a polygon of at least three points")
        return self


@dataclass(frozen=True)
class Labels:
    """The pixels of a label map that have one of `values`."""

    file: Path
    values: tuple[int, ...]

    def decode(self, height: int, width: int) -> np.ndarray:
        labels = read_labels(self.file)
        if labels.shape != (height, width):
            raise ValueError(
                f"expected a label map of {height}×{width} pixels, as its image, got {self.file} of "
                f"{labels.shape[0]}×{labels.shape[1]}. Fetch both again."
            )
        return np.isin(labels, self.values)


@lru_cache(maxsize=2)  # every instance of an image asks for the same map
def read_labels(file: Path) -> np.ndarray:
    """A label map as an integer array (H, W); a ValueError if the file is missing, broken, or no label map."""
    try:
        with Image.open(file) as image:
            labels = np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"expected a label map at {file}, which can't be read ({error}). Fetch it again.") from None
    if labels.ndim != 2:
        raise ValueError(f"expected one channel of labels in {file}, got an array of shape {labels.shape}.")
    return labels


M_co = TypeVar("M_co", covariant=True)  # MaskSource | None as stored, np.ndarray once decoded


@dataclass(frozen=True)
class Instance(Generic[M_co]):
    """An object, all objects of a category, or what a sentence refers to.

    Args:
        names: what it is called or how it is referred to, the best first.
        mask: as it is stored, or decoded: bool (H, W), never empty; None: nothing in the image fits the names.
        category: singular, lower case, without braces; "" where the data set does not tell it.
        merged: the mask may unite several objects (a crowd, all of a category).
    """

    names: tuple[str, ...]
    mask: M_co
    category: str = ""
    merged: bool = False


@dataclass(frozen=True)
class Exchange:
    """A question that comes with the data, and its answer.

    Args:
        question: as it was written.
        answer: with one `{seg}` for each target, in order; None: to be composed of the targets' names.
        targets: what it asks for.
        asks: how the question is put: "verbatim" as it is, "sentence" with a request for masks after it, "explain" with
            one for an explanation, too, and "phrase" where it is the name of what is wanted.
        ignored: pixels that count neither as target nor as background.
    """

    question: str
    answer: str | None
    targets: tuple[Instance[MaskSource | None], ...]
    asks: Literal["verbatim", "sentence", "explain", "phrase"] = "verbatim"
    ignored: MaskSource | None = None


@dataclass(frozen=True)
class Record:
    """One image of a data set.

    Args:
        record_id: unique in its data set.
        image: its file.
        original_hw: its size, where the annotations say for which one they were made.
        instances: what may be asked for by name, alone or together.
        absent: names of what is surely not in the image.
        exchanges: questions that come with it.
        dialogue: each exchange continues the one before it; otherwise they are independent.
    """

    record_id: str
    image: Path
    original_hw: tuple[int, int] | None = None
    instances: tuple[Instance[MaskSource | None], ...] = ()
    absent: tuple[str, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    dialogue: bool = False


@dataclass(frozen=True)
class BadRecord:
    """What was left out, and why."""

    record_id: str
    reason: str


class RecordDataset(Protocol):
    """A data set on disk: a sequence of records; `bad` is what was left out when it was opened."""

    bad: Sequence[BadRecord]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class RecordList(Sequence[Record]):
    """Records packed into one buffer.

    As objects, hundreds of thousands of them would be copied, page by page, into every process that only reads them:
    Python counts references inside of each.
    """

    def __init__(self, records: Iterable[Record], bad: Sequence[BadRecord] = ()) -> None:
        packed = [pickle.dumps(record) for record in records]
        self.bad = bad
        self._ends = np.cumsum([len(one) for one in packed], dtype=np.int64)
        self._buffer = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = self._ends[index - 1] if index else 0
        return pickle.loads(self._buffer[start : self._ends[index]].tobytes())


@dataclass
class Faults:
    """Collects the bad records of a file while it is read; more than the share `max_bad_fraction` are an error."""

    where: Path
    max_bad_fraction: float = MAX_BAD_FRACTION
    bad: list[BadRecord] = field(default_factory=list)

    @contextmanager
    def guard(self, record_id: object) -> Iterator[None]:
        """Whatever is missing or malformed inside makes `record_id` a bad record."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            self.add(record_id, f"no field {error}" if isinstance(error, KeyError) else str(error))

    def add(self, record_id: object, reason: str) -> None:
        """Note a bad record."""
        self.bad.append(BadRecord(str(record_id), reason))
        if len(self.bad) <= LOGGED_BAD_RECORDS:
            logger.warning("%s: record %s is left out: %s", self.where, record_id, reason)

    def check(self, total: int) -> list[BadRecord]:
        """The bad ones of `total` records; a ValueError if they are more than `max_bad_fraction`."""
        if len(self.bad) > self.max_bad_fraction * total:
            first = "; ".join(f"{bad.record_id}: {bad.reason}" for bad in self.bad[:3])
            raise ValueError(
                f"{self.where}: {len(self.bad)} of {total} records can't be used, expected at most "
                f"{self.max_bad_fraction:.0%} ({first}). `pixellm data check` lists them all."
            )
        return self.bad


def read_json(path: Path) -> Any:
    """The content of a JSON file; a ValueError if it is missing or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(
            f"expected a JSON file at {path} ({error.strerror}). Check the path; `pixellm data layout` shows what is "
            "expected where."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Fetch it again.") from None


def name_of(row: Any, default: object = "?") -> object:
    """The id of a row of an annotation file, for messages."""
    return row.get("id", default) if isinstance(row, dict) else default


def size_of(image: dict[str, Any]) -> tuple[int, int] | None:
    """(H, W) that a COCO-like image record states, if it does."""
    return (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None
