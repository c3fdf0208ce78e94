"""LLaVA-Instruct-150k: dialogues about COCO photographs, without masks.

Layout below the data root: `llava_dataset/llava_instruct_150k.json`, images in `coco/train2017`.
"""

from pathlib import Path

from pixellm.data.datasets import MAX_BAD_FRACTION, Faults, RecordList, name_of, read_json
from pixellm.data.records import Exchange, Record
from pixellm.utils.checks import expect

IMAGE_MARK = "<image>"  # where LLaVA put the image; here it always comes first
SPEAKERS = ("human", "gpt")


def read_dialogues(file: Path, images: Path, max_bad_fraction: float = MAX_BAD_FRACTION) -> RecordList:
    """One record for each dialogue.

    Args:
        file: the JSON list of `{id, image, conversations: [{from, value}, …]}`.
        images: folder of the photographs.
        max_bad_fraction: see `Faults`.
    """
    entries = expect(read_json(file), list, f"a list of dialogues in {file}")
    faults = Faults(file, max_bad_fraction)
    records = []
    for number, entry in enumerate(entries):
        name = name_of(entry, number)
        with faults.guard(name):
            exchanges = tuple(_exchanges(entry["conversations"]))
            image = images / expect(entry["image"], str, "an image file")
            records.append(Record(f"{name}", image, exchanges=exchanges, dialogue=True))
    return RecordList(records, faults.check(len(entries)))


def _exchanges(turns: list[dict[str, str]]) -> list[Exchange]:
    if not turns or len(turns) % 2 or any(t["from"] != SPEAKERS[i % 2] for i, t in enumerate(turns)):
        raise ValueError(f"expected turns of {' and '.join(SPEAKERS)} one after the other")
    texts = [expect(turn["value"], str, "a text").replace(IMAGE_MARK, "").strip() for turn in turns]
    if not all(texts):
        raise ValueError("a turn without a text")
    return [Exchange(question, answer, ()) for question, answer in zip(texts[::2], texts[1::2], strict=True)]
