"""A server's reply → questions with answers, each a record or the reason why it is none.

{"pairs": [{"objects": [3, 7], "question": …, "answer": "Take [the white mug](3) …"}]}, with words around it or not
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pixellm.muse.journal import Reject
from pixellm.muse.records import MuseRecord, MuseTarget, Provenance
from pixellm.muse.scene import Scene
from pixellm.types import SEG_SLOT

MARK = re.compile(r"\[([^\[\]]+)\]\s?\((\d+)\)")  # [the white mug](3)
REFUSAL = "refusal"  # a fault; see `Client.ask`
SHOWN = 120  # characters of a reply in a message


@dataclass(frozen=True)
class Read:
    """What a reply holds: records, what is none, and a word to the model about that which it could mend."""

    records: tuple[MuseRecord, ...]
    rejects: tuple[Reject, ...]

    @property
    def complaint(self) -> str | None:
        """What to tell the model where nothing of its reply can be used; a refusal stays one."""
        if self.records or not self.rejects or self.rejects[0].fault == REFUSAL:
            return None
        return " ".join(sorted({f"{one.reason[0].upper()}{one.reason[1:]}." for one in self.rejects}))


def read_reply(reply: str, scene: Scene, provenance: Provenance) -> Read:
    """The pairs of a reply; a reply that can't be read at all is one reject."""
    row = _json(reply)
    pairs = _pairs(row, reply)
    if isinstance(pairs, str):
        fault = REFUSAL if "refusal" in row else "reply"
        return Read((), (Reject(f"{scene.image.image_id}/1", {"reply": reply}, fault, pairs),))
    records: list[MuseRecord] = []
    rejects: list[Reject] = []
    for number, pair in enumerate(pairs, 1):
        record_id = f"{scene.image.image_id}/{number}"
        try:
            records.append(_record(pair, record_id, scene, provenance))
        except ValueError as error:
            body = pair if isinstance(pair, dict) else {"pair": pair}
            rejects.append(Reject(record_id, body, "objects", str(error)))
    return Read(tuple(records), tuple(rejects))


def _json(reply: str) -> dict[str, Any]:
    """The object in a reply; without one, nothing."""
    thought = re.sub(r"<think>.*?</think>", "", reply, flags=re.DOTALL)
    found = re.search(r"\{.*\}", thought, re.DOTALL)
    try:
        row = json.loads(found[0]) if found else None
    except (json.JSONDecodeError, RecursionError):
        row = None
    return row if isinstance(row, dict) else {}


def _pairs(row: dict[str, Any], reply: str) -> list[Any] | str:
    """The list of pairs, or what is wrong."""
    if "refusal" in row:
        return f"the model refuses: {row['refusal']}"
    pairs = row.get("pairs")
    if not isinstance(pairs, list):
        return f'the reply is no JSON with a list of "pairs": {reply.strip()[:SHOWN]!r}'
    return pairs or 'the list of "pairs" is empty'


def _record(pair: Any, record_id: str, scene: Scene, provenance: Provenance) -> MuseRecord:
    if not (isinstance(pair, dict) and all(isinstance(pair.get(key), str) for key in ("question", "answer"))):
        raise ValueError("a pair lacks its question or its answer")
    wanted = pair.get("objects")
    if not isinstance(wanted, list) or not all(type(number) is int for number in wanted):
        raise ValueError(f"the objects of a pair are no list of numbers, but {str(wanted)[:SHOWN]}")
    text, numbers, words = _marked(pair["answer"])
    if unknown := sorted({*numbers, *wanted} - set(range(1, len(scene.things) + 1))):
        raise ValueError(f"there are no objects {unknown} in the list")
    if set(numbers) != set(wanted):
        raise ValueError(
            f"the answer marks the objects {sorted(set(numbers))}, but the pair is about {sorted(set(wanted))}"
        )
    targets = tuple(_target(scene.things, number, said) for number, said in zip(numbers, words, strict=True))
    return MuseRecord(record_id, scene.image, pair["question"].strip(), text, targets, provenance)


def _target(things: Sequence[MuseTarget], number: int, said: str) -> MuseTarget:
    thing = things[number - 1]
    return MuseTarget(thing.annotation_id, thing.category, said, thing.segmentation, thing.box, thing.area)


def _marked(answer: str) -> tuple[str, list[int], list[str]]:
    """The text with a slot for each object where it is marked first, and the objects' numbers and words."""
    numbers: list[int] = []
    words: list[str] = []

    def slot(match: re.Match[str]) -> str:
        said, number = match[1].strip(), int(match[2])
        if number in numbers:
            return said
        numbers.append(number)
        words.append(said)
        return f"{said} {SEG_SLOT}"

    return MARK.sub(slot, answer.replace(SEG_SLOT, "").strip()), numbers, words
