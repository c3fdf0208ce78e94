"""Parser of a model's reply: pairs of question and answer, each a record or a reject with its reason.

{"pairs": [{"objects": [3, 7], "question": …, "answer": "Take [the white mug](3) …"}]}, with or without words around it
"""

import re
from dataclasses import dataclass, replace
from typing import Any

from pixellm.muse.journal import Reject
from pixellm.muse.records import ImageAnnotations, MuseRecord, Provenance
from pixellm.types import SEG_SLOT
from pixellm.utils.chat_protocol import json_object

MARK = re.compile(r"\[([^\[\]]+)\]\s?\((\d+)\)")  # [the white mug](3)
REFUSAL = "refusal"  # among the checks; see `ChatClient.ask`
QUOTED = 120  # characters of a reply in a message


@dataclass(frozen=True)
class ParsedReply:
    """Records and rejects of a reply."""

    records: tuple[MuseRecord, ...]
    rejects: tuple[Reject, ...]

    @property
    def complaint(self) -> str | None:
        """Message to the model where nothing of its reply can be used; None for a refusal, which stays one."""
        if self.records or not self.rejects or self.rejects[0].check == REFUSAL:
            return None
        return " ".join(sorted({f"{row.reason[0].upper()}{row.reason[1:]}." for row in self.rejects}))


def parse_reply(reply: str, image: ImageAnnotations, provenance: Provenance) -> ParsedReply:
    """Parse the pairs of a reply; a reply without any is one reject."""
    row = json_object(reply)
    pairs = _pairs(row, reply)
    if isinstance(pairs, str):
        check = REFUSAL if "refusal" in row else "reply"
        return ParsedReply((), (Reject(f"{image.image.image_id}/1", {"reply": reply}, check, pairs),))
    records: list[MuseRecord] = []
    rejects: list[Reject] = []
    for number, pair in enumerate(pairs, 1):
        record_id = f"{image.image.image_id}/{number}"
        try:
            records.append(_record(pair, record_id, image, provenance))
        except ValueError as error:
            body = pair if isinstance(pair, dict) else {"pair": pair}
            rejects.append(Reject(record_id, body, "objects", str(error)))
    return ParsedReply(tuple(records), tuple(rejects))


def _pairs(row: dict[str, Any], reply: str) -> list[Any] | str:
    """Return the list of pairs, or the reason why there is none."""
    if "refusal" in row:
        return f"the model refuses: {row['refusal']}"
    pairs = row.get("pairs")
    if not isinstance(pairs, list):
        return f'the reply is no JSON with a list of "pairs": {reply.strip()[:QUOTED]!r}'
    return pairs or 'the list of "pairs" is empty'


def _record(pair: Any, record_id: str, image: ImageAnnotations, provenance: Provenance) -> MuseRecord:
    if not (isinstance(pair, dict) and all(isinstance(pair.get(key), str) for key in ("question", "answer"))):
        raise ValueError("a pair lacks its question or its answer")
    wanted = pair.get("objects")
    if not isinstance(wanted, list) or not all(type(number) is int for number in wanted):
        raise ValueError(f"the objects of a pair are no list of numbers, but {str(wanted)[:QUOTED]}")
    text, phrases = _marked(pair["answer"])
    if unknown := sorted({*phrases, *wanted} - set(range(1, len(image.instances) + 1))):
        raise ValueError(f"there are no objects {unknown} in the list")
    if set(phrases) != set(wanted):
        raise ValueError(f"the answer marks the objects {sorted(phrases)}, but the pair is about {sorted(set(wanted))}")
    targets = tuple(replace(image.instances[number - 1], description=phrase) for number, phrase in phrases.items())
    return MuseRecord(record_id, image.image, pair["question"].strip(), text, targets, provenance)


def _marked(answer: str) -> tuple[str, dict[int, str]]:
    """Return the text with a slot behind the first mark of each object, and the phrases by the objects' numbers."""
    phrases: dict[int, str] = {}

    def slot(match: re.Match[str]) -> str:
        phrase, number = match[1].strip(), int(match[2])
        if number in phrases:
            return phrase
        phrases[number] = phrase
        return f"{phrase} {SEG_SLOT}"

    return MARK.sub(slot, answer.replace(SEG_SLOT, "").strip()), phrases
