"""Datasets on disk: sequences of records, what was left out of them, and what their readers share.

Annotation files are looked through when a dataset is opened: what can't be used is left out, reported with its id and
counted, and too much of it is an error.
"""

import json
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pixellm.data.records import Record
from pixellm.utils.checks import shown

logger = logging.getLogger(__name__)

MAX_BAD_FRACTION = 0.01
LOGGED_BAD_RECORDS = 10  # bad records that are logged one by one


@dataclass(frozen=True)
class BadRecord:
    """Record that was left out, and the reason."""

    record_id: str
    reason: str


class RecordDataset(Protocol):
    """Dataset on disk: a sequence of records; `bad` is what was left out when it was opened."""

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
        self._ends = np.cumsum([len(entry) for entry in packed], dtype=np.int64)
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
    """Collection of the bad records of a file while it is read; more than `max_bad_fraction` of all are an error."""

    where: Path
    max_bad_fraction: float = MAX_BAD_FRACTION
    bad: list[BadRecord] = field(default_factory=list)

    @contextmanager
    def guard(self, record_id: object) -> Iterator[None]:
        """Make `record_id` a bad record if something inside is missing or malformed."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            self.add(record_id, f"no field {error}" if isinstance(error, KeyError) else str(error))

    def index(self, rows: Iterable[Any], kind: str, value: Callable[[Any], Any] = lambda row: row) -> dict[Any, Any]:
        """Return `value` of each row by the row's id; a row without is a bad record."""
        indexed = {}
        for row in rows:
            with self.guard(f"{kind} {name_of(row)}"):
                indexed[row["id"]] = value(row)
        return indexed

    def add(self, record_id: object, reason: str) -> None:
        """Note a bad record."""
        record_id, reason = shown(record_id), shown(reason)
        self.bad.append(BadRecord(record_id, reason))
        if len(self.bad) <= LOGGED_BAD_RECORDS:
            logger.warning("%s: record %s is left out: %s", self.where, record_id, reason)

    def check(self, total: int) -> list[BadRecord]:
        """Return the bad ones of `total` records; a ValueError if they are more than `max_bad_fraction`."""
        if len(self.bad) > self.max_bad_fraction * total:
            first = "; ".join(f"{bad.record_id}: {bad.reason}" for bad in self.bad[:3])
            raise ValueError(
                f"{self.where}: {len(self.bad)} of {total} records can't be used, expected at most "
                f"{self.max_bad_fraction:.0%} ({first}). `pixellm data check` lists them all."
            )
        return self.bad


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; a ValueError if it is missing or malformed."""
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
    """Return the id of a row of an annotation file, for messages."""
    return row.get("id", default) if isinstance(row, dict) else default


def size_of(image: dict[str, Any]) -> tuple[int, int] | None:
    """Return (H, W) that a COCO-like image row states, if it does."""
    return (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None
