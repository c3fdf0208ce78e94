"""Questions that come with the data: MUSE (several targets), ReasonSeg (one, pixels to ignore), LLaVA-Instruct (text).

Layout below the data root:

    muse/muse_{train,val,test_less,test_many}.json               (also MUSE_*.json, and beside the folder)
    refer_seg/images/mscoco/images/{train2017,val2017,train2014} images of MUSE; or coco/{train2017,val2017}
    reason_seg/ReasonSeg/{train,val,test}/*.jpg, *.json
    reason_seg/ReasonSeg/explanatory/train.json
    llava_dataset/llava_instruct_150k.json                       images: coco/train2017
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pixellm.data.datasets import MAX_BAD_FRACTION, Faults, RecordList, name_of, read_json, size_of
from pixellm.data.records import Exchange, Instance, Record, Segments
from pixellm.types import SEG_SLOT
from pixellm.utils.checks import expect

IMAGE_MARK = "<image>"  # where LLaVA put the image; here it always comes first
SPEAKERS = ("human", "gpt")
PAINTED, IGNORED = 1, 255  # ReasonSeg's label values


def read_muse(file: Path, folders: Sequence[Path], max_bad_fraction: float = MAX_BAD_FRACTION) -> RecordList:
    """Read MUSE: one record for each image, with all its questions.

    A question is bad where its answer's text has more or fewer `{seg}` than it has targets, or a target no mask; the
    others of its image stay. Without a text, the answer is composed of the targets' descriptions.

    Args:
        file: a JSON list of image entries.
        folders: any with `train2017`, `val2017`, `train2014`; an image is looked for in the one it was named for.
        max_bad_fraction: see `Faults`.
    """
    entries = expect(read_json(file), list, f"a list of images in {file}")
    years = ("train2017", "val2017", "train2014")
    places = {year: next((f for f in folders if (f / year).is_dir()), folders[0]) / year for year in years}
    faults = Faults(file, max_bad_fraction)
    records, questions = [], 0
    for number, entry in enumerate(entries):
        name = name_of(entry, number)
        with faults.guard(name):
            year, image_name = _muse_image(entry)
            image = places[year] / image_name
            if entry.get("ann_list") == []:
                raise ValueError("no annotated instance")
            exchanges = []
            texts = entry.get("text_answers") or [None] * len(entry["questions"])
            questions += len(entry["questions"])
            for i, question in enumerate(entry["questions"]):
                with faults.guard(f"{name}, question {i}"):
                    exchanges.append(_muse_exchange(question, entry["answers"][i], texts[i]))
            if exchanges:
                records.append(Record(f"{name}", image, size_of(entry), exchanges=tuple(exchanges)))
    return RecordList(records, faults.check(max(questions, len(entries))))


def muse(root: Path, split: str, max_bad_fraction: float) -> RecordList:
    """Read a split of MUSE: train, val, test_less or test_many."""
    names = [f"{folder}{start}_{split}.json" for folder in ("muse/", "") for start in ("muse", "MUSE")]
    file = next((root / name for name in names if (root / name).is_file()), root / names[0])
    folders = [root / "refer_seg/images/mscoco/images", root / "coco"]
    return read_muse(file, folders, max_bad_fraction)


def _muse_image(entry: dict[str, Any]) -> tuple[str, str]:
    """Return the folder of an image's year, and its file's name."""
    if "coco_url" in entry:
        url = PurePosixPath(expect(entry["coco_url"], str, "a URL"))
        return "train2017" if "train2017" in str(url) else "val2017", url.name
    return "train2014", expect(entry["file_name"], str, "a file name")


def _muse_exchange(question: str, answers: list[dict[str, Any]], text: str | None) -> Exchange:
    targets = tuple(
        Instance(
            tuple(expect(answer[k], str, "a name") for k in ("rephrased_name", "category_name") if answer.get(k)),
            Segments((answer["segmentation"],)).checked(),
            answer.get("category_name") or "",
        )
        for answer in expect(answers, list, "a list of targets")
    )
    if not targets:
        raise ValueError("no target")
    if text is None and not all(target.names for target in targets):
        raise ValueError("neither a text for the answer nor a name for each target")
    slots = len(targets) if text is None else expect(text, str, "the answer's text").count(SEG_SLOT)
    if slots != len(targets):
        raise ValueError(f"its text has {slots} {SEG_SLOT} but {len(targets)} targets")
    if not expect(question, str, "a question").strip():
        raise ValueError("an empty question")
    return Exchange(question.strip(), text, targets, "sentence")


@dataclass(frozen=True)
class Shapes:
    """Pixels that have one value once polygons (value, points x, y) are painted over each other, the largest first."""

    polygons: tuple[tuple[int, tuple[tuple[float, float], ...]], ...]
    value: int

    def decode(self, height: int, width: int) -> np.ndarray:
        painted = [(value, _paint(points, height, width)) for value, points in self.polygons]
        values = np.zeros((height, width), dtype=np.uint8)
        for value, pixels in sorted(painted, key=lambda shape: -int(shape[1].sum())):
            values[pixels] = value
        return values == self.value


def _paint(points: Sequence[tuple[float, float]], height: int, width: int) -> np.ndarray:
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon([(int(x), int(y)) for x, y in points], fill=1, outline=1)
    return np.asarray(canvas)


def reasonseg(root: Path, split: str, max_bad_fraction: float) -> RecordList:
    """Read a split of ReasonSeg, an image and its JSON file each; where an explanation exists, it is asked for, too."""
    directory = root / "reason_seg/ReasonSeg"
    images = sorted((directory / split).glob("*.jpg"))
    if not images:
        raise ValueError(f"expected images *.jpg in {directory / split}, found none. See `pixellm data layout`.")
    explained = directory / "explanatory" / f"{split}.json"
    faults = Faults(directory / split, max_bad_fraction)
    explanations: dict[str, dict[str, str]] = {}
    for number, entry in enumerate(read_json(explained) if explained.is_file() else ()):
        with faults.guard(f"explanation {number}"):
            explanations[entry["image"]] = entry
    records = []
    for image in images:
        with faults.guard(image.stem):
            exchanges = _reasonseg_exchanges(_read_labelme(image.with_suffix(".json")), explanations.get(image.name))
            records.append(Record(image.stem, image, exchanges=tuple(exchanges)))
    return RecordList(records, faults.check(len(images)))


def _reasonseg_exchanges(data: dict[str, Any], explanation: dict[str, str] | None) -> list[Exchange]:
    polygons = []
    for shape in data["shapes"]:
        label = expect(shape["label"], str, "a label").lower()
        points = _outline(shape)
        if label != "flag" and len(points) > 1:  # flags mean nothing any more; a point has no area
            polygons.append((IGNORED if "ignore" in label else PAINTED, points))
    if not any(value == PAINTED for value, _ in polygons):
        raise ValueError("no polygon of a target")
    texts = [expect(text, str, "a text").strip() for text in expect(data["text"], list, "a list of texts")]
    if not any(texts):
        raise ValueError("no text")
    mask, ignored = Shapes(tuple(polygons), PAINTED), Shapes(tuple(polygons), IGNORED)
    asks = "sentence" if data["is_sentence"] else "phrase"
    exchanges = [Exchange(text, None, (Instance((text,), mask),), asks, ignored) for text in texts if text]
    if explanation:
        query, outputs = explanation["query"].strip(), explanation["outputs"].strip()
        exchanges.append(Exchange(query, outputs, (Instance((query,), mask),), "explain", ignored))
        exchanges.append(Exchange(query, outputs, ()))
    return exchanges


def _outline(shape: dict[str, Any]) -> tuple[tuple[float, float], ...]:
    """Return the corners of a labelme shape."""
    points = tuple((float(x), float(y)) for x, y in shape["points"])
    kind = shape.get("shape_type", "polygon")
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        return (left, top), (right, top), (right, bottom), (left, bottom)
    if kind not in ("polygon", "rectangle"):
        raise ValueError(f"expected a polygon, got a shape of the type {kind!r}")
    if not np.isfinite(points).all():
        raise ValueError("expected points in the image, got one without an end")
    return points


def _read_labelme(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError:  # some of ReasonSeg's files were written on Windows
        if not path.is_file():
            raise
        return json.loads(path.read_text(encoding="cp1252"))


def llava_instruct(root: Path, _: str, max_bad_fraction: float) -> RecordList:
    """Read LLaVA-Instruct-150k, `{id, image, conversations: [{from, value}, …]}`: a record for each dialogue."""
    file, images = root / "llava_dataset/llava_instruct_150k.json", root / "coco/train2017"
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
