"""What a generation has done so far, on disk: nothing is lost, done twice or paid twice, whenever it is killed.

One SQLite file in the output directory. Whatever `save_call` and `finish_image` return from is on the disk. One process
works on a directory at a time; its threads may write.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, Literal, Self

from filelock import FileLock, Timeout

from pixellm.muse.records import MuseRecord

FILE, LOCK = "journal.sqlite", ".journal.lock"
Verdict = Literal["keep", "reject"]
SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, reply TEXT NOT NULL,
    tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, cost REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS lost (tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, cost REAL NOT NULL);
CREATE TABLE IF NOT EXISTS images (image_id INTEGER PRIMARY KEY, reason TEXT);
CREATE TABLE IF NOT EXISTS left_out (reason TEXT PRIMARY KEY, things INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS records (record_id TEXT PRIMARY KEY, image_id INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rejects (
    record_id TEXT NOT NULL, body TEXT NOT NULL, fault TEXT NOT NULL, reason TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS reviews (record_id TEXT PRIMARY KEY, verdict TEXT NOT NULL, body TEXT);
"""


@dataclass(frozen=True)
class Call:
    """An answered request: the reply, and what it took (`cost` in the currency of the price table)."""

    key: str
    reply: str
    tokens_in: int
    tokens_out: int
    cost: float


@dataclass(frozen=True)
class Reject:
    """A record that did not pass: the name of the check (`fault`), and its reason in words; `body` as it was made."""

    record_id: str
    body: dict[str, Any]
    fault: str
    reason: str


class Journal:
    """Opens, or begins, the journal of a directory; use it as a context.

    Args:
        directory: of the output.
        settings: what the generation depends on; None: only to read and review.

    Raises:
        ValueError: another process works on it, or it was begun with other settings.
    """

    def __init__(self, directory: Path, settings: dict[str, Any] | None = None) -> None:
        self.path = directory / FILE
        if settings is None and not self.path.is_file():
            raise ValueError(f"expected the output of `pixellm muse generate` in {directory}, found no {FILE} there.")
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(directory / LOCK)
        self._writing = Lock()  # a transaction of one thread must not hold another's statements
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"expected to work on {directory} alone, but another process does. Wait for it.") from None
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(SCHEMA)
            if settings is not None:
                self._check(settings)
        except sqlite3.DatabaseError as error:
            self._lock.release()
            raise ValueError(f"{self.path}: expected a journal, got something else ({error}). Move it away.") from None
        except ValueError:
            self.close()
            raise

    def _check(self, settings: dict[str, Any]) -> None:
        found = {key: json.loads(value) for key, value in self._db.execute("SELECT key, value FROM settings")}
        wanted = json.loads(json.dumps(settings))
        different = [key for key in {*found, *wanted} if found.get(key) != wanted.get(key)]
        if found and different:
            changes = "; ".join(f"{key}: {found.get(key)}, now {wanted.get(key)}" for key in sorted(different))
            raise ValueError(
                f"{self.path.parent} holds a generation of other settings ({changes}). Give another output directory."
            )
        rows = [(key, json.dumps(value)) for key, value in wanted.items()]
        self._db.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?)", rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others work on the directory."""
        self._db.close()
        self._lock.release()

    def call(self, key: str) -> Call | None:
        """The reply to a request that was answered before."""
        row = self._db.execute("SELECT * FROM calls WHERE key = ?", (key,)).fetchone()
        return Call(*row) if row else None

    def save_call(self, call: Call) -> None:
        """Keep a reply; it is on disk when this returns."""
        row = (call.key, call.reply, call.tokens_in, call.tokens_out, call.cost)
        with self._writing:
            self._db.execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?)", row)

    def save_lost(self, tokens_in: int, tokens_out: int, cost: float) -> None:
        """Keep that a reply was lost, and the most that it can have taken."""
        with self._writing:
            self._db.execute("INSERT INTO lost VALUES (?, ?, ?)", (tokens_in, tokens_out, cost))

    def is_done(self, image_id: int) -> bool:
        """Whether an image is finished, used or not."""
        return self._db.execute("SELECT 1 FROM images WHERE image_id = ?", (image_id,)).fetchone() is not None

    def finish_image(
        self,
        image_id: int,
        records: Sequence[MuseRecord] = (),
        rejects: Sequence[Reject] = (),
        reason: str | None = None,
        left_out: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """All that came of an image, at once.

        Args:
            image_id: of an image that is not finished.
            records: what is good.
            rejects: what is not.
            reason: why nothing was asked about it.
            left_out: things in it that were not to be asked about, by reason.
        """
        with self._writing, closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                cursor.execute("INSERT INTO images VALUES (?, ?)", (image_id, reason))
                rows = [(one.record_id, image_id, json.dumps(one.to_json())) for one in records]
                cursor.executemany("INSERT INTO records VALUES (?, ?, ?)", rows)
                bad = [(one.record_id, json.dumps(one.body), one.fault, one.reason) for one in rejects]
                cursor.executemany("INSERT INTO rejects VALUES (?, ?, ?, ?)", bad)
                more = "INSERT INTO left_out VALUES (?, ?) ON CONFLICT DO UPDATE SET things = things + excluded.things"
                cursor.executemany(more, left_out.items())
                cursor.execute("COMMIT")
            except BaseException:
                cursor.execute("ROLLBACK")
                raise

    def records(self, reviewed: bool = True) -> Iterator[MuseRecord]:
        """Records in the order of their ids; `reviewed`: as edited, without those that a reviewer rejected."""
        query = (
            "SELECT records.body, reviews.verdict, reviews.body FROM records LEFT JOIN reviews USING (record_id) "
            "ORDER BY image_id, record_id"
        )
        for body, verdict, edited in self._db.execute(query):
            if not reviewed or verdict != "reject":
                yield MuseRecord.from_json(json.loads(edited if reviewed and edited else body))

    def record_ids(self) -> list[str]:
        """In the order of `records`, those that a reviewer rejected among them."""
        return [row[0] for row in self._db.execute("SELECT record_id FROM records ORDER BY image_id, record_id")]

    def record(self, record_id: str, reviewed: bool = True) -> MuseRecord:
        """One record, whatever a reviewer decided of it; `reviewed`: as edited.

        Raises:
            ValueError: there is no such record.
        """
        query = "SELECT records.body, reviews.body FROM records LEFT JOIN reviews USING (record_id) WHERE record_id = ?"
        row = self._db.execute(query, (record_id,)).fetchone()
        if row is None:
            raise ValueError(f"expected a record of the journal, got {record_id!r}.")
        body, edited = row
        return MuseRecord.from_json(json.loads(edited if reviewed and edited else body))

    def rejects(self) -> Iterator[Reject]:
        """What the checks left out."""
        for record_id, body, fault, reason in self._db.execute("SELECT * FROM rejects"):
            yield Reject(record_id, json.loads(body), fault, reason)

    def review(self, record_id: str, verdict: Verdict, edited: MuseRecord | None = None) -> None:
        """Keep what a reviewer decided; the latest counts.

        Raises:
            ValueError: there is no such record.
        """
        if not self._db.execute("SELECT 1 FROM records WHERE record_id = ?", (record_id,)).fetchone():
            raise ValueError(f"expected a record of the journal, got {record_id!r}.")
        body = json.dumps(edited.to_json()) if edited else None
        with self._writing:
            self._db.execute("INSERT OR REPLACE INTO reviews VALUES (?, ?, ?)", (record_id, verdict, body))

    def withdraw(self, record_id: str) -> None:
        """Forget what a reviewer decided and edited: the record is as it was generated."""
        with self._writing:
            self._db.execute("DELETE FROM reviews WHERE record_id = ?", (record_id,))

    def reviews(self) -> dict[str, Verdict]:
        """What was decided of which record."""
        return dict(self._db.execute("SELECT record_id, verdict FROM reviews"))

    def spent(self) -> tuple[int, int, int, float]:
        """Calls, tokens in, tokens out, and cost of all replies."""
        return self._sums("calls")

    def lost(self) -> tuple[int, int, int, float]:
        """The same of replies that were lost, at most; not part of `spent`."""
        return self._sums("lost")

    def _sums(self, table: Literal["calls", "lost"]) -> tuple[int, int, int, float]:
        query = f"SELECT COUNT(*), TOTAL(tokens_in), TOTAL(tokens_out), TOTAL(cost) FROM {table}"
        count, tokens_in, tokens_out, cost = self._db.execute(query).fetchone()
        return count, int(tokens_in), int(tokens_out), cost

    def counts(self) -> dict[str, Counter[str]]:
        """How many images (`skipped`) and things (`left_out`) by reason, and records by check (`rejected`)."""
        skipped = self._db.execute("SELECT reason, COUNT(*) FROM images WHERE reason IS NOT NULL GROUP BY reason")
        rejected = self._db.execute("SELECT fault, COUNT(*) FROM rejects GROUP BY fault")
        left_out = self._db.execute("SELECT reason, things FROM left_out")
        return {
            **{"skipped": Counter(dict(skipped)), "left_out": Counter(dict(left_out))},
            "rejected": Counter(dict(rejected)),
        }

    def totals(self) -> tuple[int, int]:
        """Images that are finished, and records."""
        return self._db.execute("SELECT (SELECT COUNT(*) FROM images), (SELECT COUNT(*) FROM records)").fetchone()

    def reject(self, record_id: str, fault: str, reason: str) -> None:
        """Move a record that a later check found bad to the rejects.

        Raises:
            ValueError: there is no such record.
        """
        with self._writing, closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                query = "INSERT INTO rejects SELECT record_id, body, ?, ? FROM records WHERE record_id = ?"
                if not cursor.execute(query, (fault, reason, record_id)).rowcount:
                    raise ValueError(f"expected a record of the journal, got {record_id!r}.")
                cursor.execute("DELETE FROM records WHERE record_id = ?", (record_id,))
                cursor.execute("DELETE FROM reviews WHERE record_id = ?", (record_id,))
                cursor.execute("COMMIT")
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
