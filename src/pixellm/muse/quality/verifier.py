"""A second look: a model that sees the photograph says of each record whether it is right, yes or no, and why.

record + photograph → request → Call (in the journal, paid once) → Verdict → a "no" goes to the rejects
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixellm.muse.calls import Calls, Client, JournalCalls, answered
from pixellm.muse.journal import Journal
from pixellm.muse.photograph import image_part
from pixellm.muse.records import MuseRecord
from pixellm.muse.running import Run

NAME = "verifier"  # among the checks
PROMPT = "verify@1"  # part of every key
TRIES = 2  # of a reply that can't be read
SYSTEM = (
    "You check training data. You see a photograph, a question about it, and an answer that names some objects; each "
    "named object is listed with its box, in pixels of the photograph as you see it. Say yes only if all of this is "
    "so: the question can be answered by looking at the photograph and thinking; every object named is really what "
    "stands in its box and is where and how the words say; each of them belongs to the answer; the answer is true. "
    "Otherwise say no. Reply as JSON: the verdict, and the reason in one sentence."
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["yes", "no"]}, "reason": {"type": "string"}},
    "required": ["verdict", "reason"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Verdict:
    """What was said of a record; `good` is None where no reply could be read."""

    good: bool | None
    reason: str


async def verify(record: MuseRecord, client: Client, calls: Calls, images: Path) -> Verdict:
    """Ask about one record, unless the reply is kept already."""
    verdict = Verdict(None, "")
    for number in range(TRIES):
        key = _key(record, client.model, number)
        verdict = parse(await answered(client, calls, key, request(record, images), SCHEMA))
        if verdict.good is not None:
            break
    return verdict


class Verification:
    """A second look at all records of a journal; a "no" moves the record to the rejects at once.

    Args:
        client: whom to ask.
        journal: of the records.
        images: folder of the photographs.
        in_flight: requests at the same time.
        seen: called after each record, for progress.
    """

    def __init__(
        self,
        client: Client,
        journal: Journal,
        images: Path,
        in_flight: int = 16,
        seen: Callable[[], None] = lambda: None,
    ) -> None:
        self._client, self._journal, self._images, self._seen = client, journal, images, seen
        self._calls = JournalCalls(journal)
        self.run = Run(in_flight)
        self.good = self.bad = 0
        self.unread: list[str] = []  # records without a verdict

    async def all(self) -> None:
        """Every record that no reviewer rejected; replies that came before cost nothing. See `Run.all`."""
        reviews = self._journal.reviews()
        records = (one for one in self._journal.record_ids() if reviews.get(one) != "reject")
        await self.run.all(records, self._finish)

    async def _finish(self, record_id: str) -> None:
        verdict = await verify(self._journal.record(record_id), self._client, self._calls, self._images)
        if verdict.good is None:
            self.unread.append(record_id)
        elif verdict.good:
            self.good += 1
        else:
            self.bad += 1
            self._journal.reject(record_id, NAME, verdict.reason)
        self._seen()


def request(record: MuseRecord, images: Path) -> list[dict[str, Any]]:
    """The messages: instructions, then the photograph with the record.

    Raises:
        ValueError: the photograph can't be read.
    """
    photograph, scale = image_part(record.image, images)
    content = [photograph, {"type": "text", "text": _words(record, scale)}]
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def _words(record: MuseRecord, scale: float) -> str:
    text = record.text
    lines = []
    for number, target in enumerate(record.targets, 1):
        text = text.replace("{seg}", f"[{number}]", 1)
        x, y, width, height = (side * scale for side in target.box)
        box = f"[{x:.0f}, {y:.0f}, {x + width:.0f}, {y + height:.0f}]"
        lines.append(f"[{number}] {target.description} ({target.category}) at {box}")
    return "\n".join((f"Question: {record.question}", f"Answer: {text}", "Objects:", *lines))


def _key(record: MuseRecord, model: str, number: int) -> str:
    """The same record is asked about once, an edited one anew."""
    body = json.dumps([PROMPT, model, number, record.to_json()], sort_keys=True)
    return f"{PROMPT}/{record.record_id}/{hashlib.sha256(body.encode()).hexdigest()[:16]}"


def parse(reply: str) -> Verdict:
    """The verdict in a reply, though words or a code fence stand around it."""
    found = re.search(r"\{.*\}", reply, re.DOTALL)
    try:
        row = json.loads(found.group()) if found else None
    except json.JSONDecodeError:
        row = None
    if isinstance(row, dict) and isinstance(row.get("verdict"), str):
        said = row["verdict"].strip().lower()
        if said in ("yes", "no"):
            return Verdict(said == "yes", str(row.get("reason") or "no reason given"))
    return Verdict(None, f"the reply can't be read: {reply[:80]!r}")
