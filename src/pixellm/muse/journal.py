"""Journal of a generation on disk: nothing is lost, done twice or paid twice, whenever the process is killed.

One SQLite file in the output directory; what `save_reply` and `finish_image` wrote is on disk when they return. One
process works on a directory at a time; its threads may write.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, Literal, Self

from pixellm.muse.records import MuseRecord
from pixellm.utils.budget import Reservation
from pixellm.utils.files import exclusive_lock
from pixellm.utils.openai_client import Completion

FILE = "journal.sqlite"
Verdict = Literal["keep", "reject"]
SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, reply TEXT NOT NULL,
    tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, cost REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS lost (tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, cost REAL NOT NULL);
CREATE TABLE IF NOT EXISTS in_flight (
    ticket TEXT PRIMARY KEY, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, cost REAL NOT NULL,
    killed INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS currencies (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS images (image_id INTEGER PRIMARY KEY, reason TEXT);
CREATE TABLE IF NOT EXISTS left_out (reason TEXT PRIMARY KEY, things INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS records (record_id TEXT PRIMARY KEY, image_id INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rejects (
    record_id TEXT NOT NULL, body TEXT NOT NULL, fault TEXT NOT NULL, reason TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS reviews (record_id TEXT PRIMARY KEY, verdict TEXT NOT NULL, body TEXT);
"""


@dataclass(frozen=True)
class Reject:
    """Record that did not pass: its `body` as it was generated, the check that failed, and the reason in words."""

    record_id: str
    body: dict[str, Any]
    check: str
    reason: str


class Journal:
    """Journal of a directory, opened or created; use it as a context.

    Args:
        directory: output directory.
        settings: everything that the generation depends on; None: only to read and review.

    Raises:
        ValueError: another process works on it, or it was created with other settings.
    """

    def __init__(self, directory: Path, settings: dict[str, Any] | None = None) -> None:
        self.path = directory / FILE
        if settings is None and not self.path.is_file():
            raise ValueError(f"expected the output of `pixellm muse generate` in {directory}, found no {FILE} there.")
        directory.mkdir(parents=True, exist_ok=True)
        self._writing = Lock()  # a transaction of one thread must not hold another's statements
        with ExitStack() as stack:
            stack.enter_context(exclusive_lock(directory / "journal"))
            try:
                self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
                stack.callback(self._db.close)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.executescript(SCHEMA)
                self._db.execute("UPDATE in_flight SET killed = 1")  # nobody else is at work here
                if settings is not None:
                    self._check(settings)
            except sqlite3.DatabaseError as error:
                raise ValueError(
                    f"{self.path}: expected a journal, got another file ({error}). Move it away."
                ) from None
            self._open = stack.pop_all()

    def _check(self, settings: dict[str, Any]) -> None:
        before = {key: json.loads(value) for key, value in self._db.execute("SELECT key, value FROM settings")}
        wanted = json.loads(json.dumps(settings))
        different = [key for key in {*before, *wanted} if before.get(key) != wanted.get(key)]
        if before and different:
            changes = "; ".join(f"{key}: {before.get(key)}, now {wanted.get(key)}" for key in sorted(different))
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
        """Close the file, and release the directory."""
        self._open.close()

    def reply(self, key: str) -> Completion | None:
        """Return the reply to an earlier request."""
        query = "SELECT reply, tokens_in, tokens_out, cost FROM calls WHERE key = ?"
        row = self._db.execute(query, (key,)).fetchone()
        return Completion(*row) if row else None

    def save_reply(self, key: str, reply: Completion) -> None:
        """Write a reply in place of its request in flight; it is on disk when this returns."""
        row = (key, reply.text, reply.tokens_in, reply.tokens_out, reply.cost)
        with self._transaction() as cursor:
            cursor.execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?)", row)
            cursor.execute("DELETE FROM in_flight WHERE ticket = ?", (reply.ticket,))

    def open_request(self, most: Reservation, cost: float) -> None:
        """Write a request before it is sent, with the most that it can take."""
        row = (most.ticket, most.tokens_in, most.tokens_out, cost)
        with self._writing:
            # A kill does not lose what is not on disk yet, only a power failure does: that much is not worth 5 ms each.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("INSERT INTO in_flight (ticket, tokens_in, tokens_out, cost) VALUES (?, ?, ?, ?)", row)
            self._db.execute("PRAGMA synchronous = FULL")

    def drop_request(self, ticket: str) -> None:
        """Delete a request that took nothing."""
        with self._writing:
            self._db.execute("DELETE FROM in_flight WHERE ticket = ?", (ticket,))

    def lose_request(self, ticket: str) -> None:
        """Write that the reply to a request was lost."""
        with self._transaction() as cursor:
            query = "INSERT INTO lost SELECT tokens_in, tokens_out, cost FROM in_flight WHERE ticket = ?"
            cursor.execute(query, (ticket,))
            cursor.execute("DELETE FROM in_flight WHERE ticket = ?", (ticket,))

    def add_currency(self, name: str) -> None:
        """Write which currency the costs are in."""
        with self._writing:
            self._db.execute("INSERT OR IGNORE INTO currencies VALUES (?)", (name,))

    def is_done(self, image_id: int) -> bool:
        """Return True if an image is finished, used or not."""
        return self._db.execute("SELECT 1 FROM images WHERE image_id = ?", (image_id,)).fetchone() is not None

    def finish_image(
        self,
        image_id: int,
        records: Sequence[MuseRecord] = (),
        rejects: Sequence[Reject] = (),
        reason: str | None = None,
        left_out: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Write all results of an image in one transaction.

        Args:
            image_id: image that is not finished.
            records: records that passed the checks.
            rejects: records that did not.
            reason: why there is no question about it.
            left_out: instances that were left out, by reason.
        """
        records_rows = [(record.record_id, image_id, json.dumps(record.to_json())) for record in records]
        rejects_rows = [(row.record_id, json.dumps(row.body), row.check, row.reason) for row in rejects]
        more = "INSERT INTO left_out VALUES (?, ?) ON CONFLICT DO UPDATE SET things = things + excluded.things"
        with self._transaction() as cursor:
            cursor.execute("INSERT INTO images VALUES (?, ?)", (image_id, reason))
            cursor.executemany("INSERT INTO records VALUES (?, ?, ?)", records_rows)
            cursor.executemany("INSERT INTO rejects VALUES (?, ?, ?, ?)", rejects_rows)
            cursor.executemany(more, left_out.items())

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._writing, closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                cursor.execute("ROLLBACK")
                raise

    def records(self, reviewed: bool = True) -> Iterator[MuseRecord]:
        """Yield records in the order of their ids; `reviewed`: as edited, without those that a reviewer rejected."""
        query = (
            "SELECT records.body, reviews.verdict, reviews.body FROM records LEFT JOIN reviews USING (record_id) "
            "ORDER BY image_id, record_id"
        )
        for body, verdict, edited in self._db.execute(query):
            if not reviewed or verdict != "reject":
                yield MuseRecord.from_json(json.loads(edited if reviewed and edited else body))

    def record_ids(self) -> list[str]:
        """Return all ids in the order of `records`, those that a reviewer rejected among them."""
        return [row[0] for row in self._db.execute("SELECT record_id FROM records ORDER BY image_id, record_id")]

    def record(self, record_id: str, reviewed: bool = True) -> MuseRecord:
        """Return a record, whatever a reviewer decided; `reviewed`: as edited.

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
        """Yield the records that did not pass."""
        for record_id, body, check, reason in self._db.execute("SELECT * FROM rejects"):
            yield Reject(record_id, json.loads(body), check, reason)

    def review(self, record_id: str, verdict: Verdict, edited: MuseRecord | None = None) -> None:
        """Write a reviewer's verdict; the latest counts.

        Raises:
            ValueError: there is no such record.
        """
        if not self._db.execute("SELECT 1 FROM records WHERE record_id = ?", (record_id,)).fetchone():
            raise ValueError(f"expected a record of the journal, got {record_id!r}.")
        body = json.dumps(edited.to_json()) if edited else None
        with self._writing:
            self._db.execute("INSERT OR REPLACE INTO reviews VALUES (?, ?, ?)", (record_id, verdict, body))

    def withdraw(self, record_id: str) -> None:
        """Delete a reviewer's verdict and edits: the record is as it was generated."""
        with self._writing:
            self._db.execute("DELETE FROM reviews WHERE record_id = ?", (record_id,))

    def reviews(self) -> dict[str, Verdict]:
        """Return the verdicts by record."""
        return dict(self._db.execute("SELECT record_id, verdict FROM reviews"))

    def spent(self) -> tuple[int, int, int, float]:
        """Return the number, tokens in, tokens out and cost of all replies."""
        return self._sums("calls")

    def lost(self) -> tuple[int, int, int, float]:
        """Return the same of lost replies, at most; not part of `spent`."""
        return self._sums("lost")

    def killed(self) -> tuple[int, int, int, float]:
        """Return the same of requests that were in flight when a process was killed, at most."""
        return self._sums("in_flight WHERE killed")

    def account(self) -> list[str]:
        """Return in words what was paid, and what may have been billed on top, at most."""
        currency = "/".join(name for (name,) in self._db.execute("SELECT name FROM currencies ORDER BY name"))
        unit = f" {currency}" if currency else ""
        calls, tokens_in, tokens_out, cost = self.spent()
        lines = [f"{calls:,} replies: {tokens_in:,} tokens in, {tokens_out:,} tokens out, {cost:,.4f}{unit}"]
        for count, what, cost in (
            (self.lost()[0], "replies broke off or timed out and may have been billed", self.lost()[3]),
            (self.killed()[0], "requests at most were in flight at a kill and may have been billed", self.killed()[3]),
        ):
            lines += [f"{count:,} {what}: at most {cost:,.4f}{unit} more"] if count else []
        return lines

    def _sums(self, table: Literal["calls", "lost", "in_flight WHERE killed"]) -> tuple[int, int, int, float]:
        query = f"SELECT COUNT(*), TOTAL(tokens_in), TOTAL(tokens_out), TOTAL(cost) FROM {table}"
        count, tokens_in, tokens_out, cost = self._db.execute(query).fetchone()
        return count, int(tokens_in), int(tokens_out), cost

    def counts(self) -> dict[str, Counter[str]]:
        """Return the numbers of images (`skipped`) and instances (`left_out`) by reason, and of rejects by check."""
        skipped = self._db.execute("SELECT reason, COUNT(*) FROM images WHERE reason IS NOT NULL GROUP BY reason")
        skipped = Counter(dict(skipped)) + self._without_record()
        rejected = self._db.execute("SELECT fault, COUNT(*) FROM rejects GROUP BY fault")
        left_out = self._db.execute("SELECT reason, things FROM left_out")
        return {
            **{"skipped": skipped, "left_out": Counter(dict(left_out))},
            "rejected": Counter(dict(rejected)),
        }

    def _without_record(self) -> Counter[str]:
        """Count images that were asked about, but have no record, by the check that their last one failed."""
        query = "SELECT image_id FROM images WHERE reason IS NULL EXCEPT SELECT image_id FROM records"
        reasons = {image_id: "no record" for (image_id,) in self._db.execute(query)}
        for record_id, fault in self._db.execute("SELECT record_id, fault FROM rejects"):
            if (image_id := int(record_id.partition("/")[0])) in reasons:
                reasons[image_id] = f"no record passed the checks ({fault})"
        return Counter(reasons.values())

    def totals(self) -> tuple[int, int]:
        """Return the number of finished images, and of records."""
        return self._db.execute("SELECT (SELECT COUNT(*) FROM images), (SELECT COUNT(*) FROM records)").fetchone()

    def reject(self, record_id: str, check: str, reason: str) -> None:
        """Move a record that failed a later check to the rejects.

        Raises:
            ValueError: there is no such record.
        """
        query = "INSERT INTO rejects SELECT record_id, body, ?, ? FROM records WHERE record_id = ?"
        with self._transaction() as cursor:
            if not cursor.execute(query, (check, reason, record_id)).rowcount:
                raise ValueError(f"expected a record of the journal, got {record_id!r}.")
            cursor.execute("DELETE FROM records WHERE record_id = ?", (record_id,))
            cursor.execute("DELETE FROM reviews WHERE record_id = ?", (record_id,))
