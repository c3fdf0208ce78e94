"""A second look: a model that sees the photograph says of each record whether it is right, yes or no, and why.

record + photograph → request → Call (in the journal, paid once) → Verdict → a "no" goes to the rejects
"""

import asyncio
import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pixellm.images import load_image
from pixellm.muse.journal import Call, Journal
from pixellm.muse.quality.checks import Fault
from pixellm.muse.records import MuseRecord

NAME = "verifier"  # of the fault
PROMPT = "verify@1"  # part of every key
MAX_SIDE = 768  # pixels of the photograph that is sent: enough to see what is named, and cheap
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


class Client(Protocol):
    """A model behind a server."""

    model: str

    async def ask(self, key: str, messages: list[dict[str, Any]], schema: dict[str, Any]) -> Call:
        """The reply to chat messages, as JSON of a schema, and what it cost; `key` becomes the call's."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What was said of a record; `good` is None where no reply could be read."""

    good: bool | None
    reason: str


@dataclass
class Verified:
    """Of all records: how many are good, what is wrong with the others by record, and those without a verdict."""

    good: int = 0
    faults: dict[str, Fault] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def add(self, record_id: str, verdict: Verdict) -> None:
        """Count one."""
        if verdict.good is None:
            self.unread.append(record_id)
        elif verdict.good:
            self.good += 1
        else:
            self.faults[record_id] = Fault(NAME, verdict.reason)


async def verify(record: MuseRecord, client: Client, journal: Journal, images: Path) -> Verdict:
    """Ask about one record, unless the journal has the reply. Every reply is in the journal, with its cost."""
    verdict = Verdict(None, "")
    for number in range(TRIES):
        key = _key(record, client.model, number)
        call = journal.call(key)
        if call is None:
            call = await client.ask(key, request(record, images), SCHEMA)
            journal.save_call(call)
        verdict = parse(call.reply)
        if verdict.good is not None:
            break
    return verdict


async def verify_all(
    records: Sequence[MuseRecord],
    client: Client,
    journal: Journal,
    images: Path,
    in_flight: int = 16,
    seen: Callable[[], None] = lambda: None,
) -> Verified:
    """Ask about all, so many at the same time, and move those that are not good to the rejects.

    Whatever stops it, replies that came are in the journal: the next time they cost nothing.

    Args:
        records: of the journal.
        client: whom to ask.
        journal: the records' own.
        images: the folder of the photographs.
        in_flight: requests at the same time.
        seen: called after each record, for progress.
    """
    found, rest = Verified(), iter(records)

    async def work(mine: Iterator[MuseRecord]) -> None:
        for record in mine:
            found.add(record.record_id, await verify(record, client, journal, images))
            seen()

    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, in_flight)):
            group.create_task(work(rest))
    for record_id, fault in found.faults.items():
        journal.reject(record_id, fault.check, fault.reason)
    return found


def request(record: MuseRecord, images: Path) -> list[dict[str, Any]]:
    """The messages: instructions, then the photograph with the record.

    Raises:
        ValueError: the photograph can't be read.
    """
    image = load_image(images / record.image.file_name)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    scale = image.width / record.image.width
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    url = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": _words(record, scale)}]
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
