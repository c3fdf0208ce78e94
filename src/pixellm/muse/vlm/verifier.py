"""Verifier: a model that sees the image judges each record, yes or no with a reason.

record + image → request → reply (in the journal, paid once) → Verdict → a "no" goes to the rejects
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixellm.muse.journal import Journal
from pixellm.muse.prompts import image_message
from pixellm.muse.records import MuseRecord
from pixellm.muse.vlm.reply_cache import ChatModel, JournalReplyCache, ReplyCache, cached_reply
from pixellm.utils.chat_protocol import json_object
from pixellm.utils.job_runner import JobRunner

NAME = "verifier"  # among the checks
PROMPT = "verify@1"  # part of every key
TRIES = 2  # for a reply that can't be read
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
class VerifierVerdict:
    """Verdict on a record; `good` is None where no reply could be read."""

    good: bool | None
    reason: str


async def verify(record: MuseRecord, client: ChatModel, cache: ReplyCache, images: Path) -> VerifierVerdict:
    """Ask about one record, unless the reply is cached."""
    verdict = VerifierVerdict(None, "")
    for number in range(TRIES):
        key = _key(record, client.model, number)
        verdict = parse(await cached_reply(client, cache, key, request(record, images), SCHEMA))
        if verdict.good is not None:
            break
    return verdict


class Verification:
    """Verification of all records of a journal; a "no" moves the record to the rejects at once.

    Args:
        client: client of the model.
        journal: journal of the records.
        images: folder of the images.
        in_flight: requests at the same time.
        progress: called after each record.
    """

    def __init__(
        self,
        client: ChatModel,
        journal: Journal,
        images: Path,
        in_flight: int = 16,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._client, self._journal, self._images, self._progress = client, journal, images, progress
        self._cache = JournalReplyCache(journal)
        self.runner = JobRunner(in_flight)
        self.good = self.bad = 0
        self.unread: list[str] = []  # records without a verdict

    async def run(self) -> None:
        """Verify every record that no reviewer rejected; cached replies cost nothing. See `JobRunner.run`."""
        reviews = self._journal.reviews()
        records = (record_id for record_id in self._journal.record_ids() if reviews.get(record_id) != "reject")
        await self.runner.run(records, self._verify)

    async def _verify(self, record_id: str) -> None:
        verdict = await verify(self._journal.record(record_id), self._client, self._cache, self._images)
        if verdict.good is None:
            self.unread.append(record_id)
        elif verdict.good:
            self.good += 1
        else:
            self.bad += 1
            self._journal.reject(record_id, NAME, verdict.reason)
        self._progress()


def request(record: MuseRecord, images: Path) -> list[dict[str, Any]]:
    """Return the messages: instructions, then the image with the record.

    Raises:
        ValueError: the image can't be read.
    """
    image, scale = image_message(record.image, images)
    content = [image, {"type": "text", "text": _describe(record, scale)}]
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def _describe(record: MuseRecord, scale: float) -> str:
    text = record.text
    lines = []
    for number, target in enumerate(record.targets, 1):
        text = text.replace("{seg}", f"[{number}]", 1)
        x, y, width, height = (side * scale for side in target.box)
        box = f"[{x:.0f}, {y:.0f}, {x + width:.0f}, {y + height:.0f}]"
        lines.append(f"[{number}] {target.description} ({target.category}) at {box}")
    return "\n".join((f"Question: {record.question}", f"Answer: {text}", "Objects:", *lines))


def _key(record: MuseRecord, model: str, number: int) -> str:
    """Return the cache key: the same record is asked about once, an edited one anew."""
    body = json.dumps([PROMPT, model, number, record.to_json()], sort_keys=True)
    return f"{PROMPT}/{record.record_id}/{hashlib.sha256(body.encode()).hexdigest()[:16]}"


def parse(reply: str) -> VerifierVerdict:
    """Parse the verdict in a reply, which may stand in words or a code fence."""
    row = json_object(reply)
    answer = str(row.get("verdict")).strip().lower()
    if answer in ("yes", "no"):
        return VerifierVerdict(answer == "yes", str(row.get("reason") or "no reason given"))
    return VerifierVerdict(None, f"the reply can't be read: {reply[:80]!r}")
