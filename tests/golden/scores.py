"""Scores of given answers on small benchmarks, under every protocol; and of pixellm-mini on annotated images."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.support import trees

from . import SHARED
from .answers import without_masks
from .command import pixellm

RUNS = (
    ("muse", "--protocol", "fixed"),
    ("muse", "--protocol", "paper"),
    ("muse", "--protocol", "released"),
    ("refer",),
    ("multi-refer", "--protocol", "fixed"),
    ("multi-refer", "--protocol", "ordered"),
    ("multi-refer", "--grouping", "released"),
    ("reasonseg",),
    ("grefcoco",),
)
NAMES = ("cup", "jug", "spoon", "lamp", "chair")
Box = tuple[int, int, int, int]  # x, y, width, height
Wanted = dict[str, list[tuple[str, Box]]]  # expression → descriptions and places


def benchmarks(folder: Path) -> Any:
    """Return the reports on one file of answers for each benchmark, protocol by protocol."""
    rng = random.Random(0)
    wanted = _muse(folder, rng) | _refer(folder, rng) | _grefcoco(folder, rng) | _reasonseg(folder, rng)
    return {" ".join(options): _scored(folder, wanted, options) for options in RUNS}


COCO_NAMES = {"t_acc": "with_mask", "n_acc": "without_mask"}
COCO_METRICS = {
    "category": ("giou", "ciou", "named_giou", "naming", "t_acc"),
    **dict.fromkeys(("several", "all", "knowledge"), ("giou", "ciou", "named_giou", "t_acc")),
}


def annotated(folder: Path) -> Any:
    """Return what pixellm-mini answers about an annotated image, and what that is worth."""
    source = SHARED / "data/coco_480"
    pixellm(
        "eval", "--annotations", source / "instances_val.json", "--images", source / "images", "--limit", 1,
        "--out", "evaluated",
    )  # fmt: skip
    report = json.loads((folder / "evaluated/score.json").read_text(encoding="utf-8"))
    _, *lines = (folder / "evaluated/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = pq.read_table(folder / "evaluated/questions.parquet").to_pylist()
    kinds = report["by"]["kind"]
    summary: dict[str, Any] = {"photographs": 1, "questions": report["questions"]}
    for kind, names in COCO_METRICS.items():
        if kind in kinds:
            row = {name: kinds[kind][name] for name in ("questions", "pairs")}
            summary[kind] = row | {COCO_NAMES.get(name, name): kinds[kind].get(name) for name in names}
    if "no-target" in kinds:
        summary["nothing"] = _absent(kinds["no-target"])
        details = {name.partition(", ")[2]: row for name, row in kinds.items() if name.startswith("no-target, ")}
        summary["nothing"]["by"] = {name: _absent(row) for name, row in details.items()}
    return {
        "summary": summary,
        "results": [without_masks(_result(*pair)) for pair in zip(rows, map(json.loads, lines), strict=True)],
    }


def _absent(row: dict[str, Any]) -> dict[str, Any]:
    return {"questions": row["questions"], "without_mask": row["n_acc"]}


def _result(row: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    name = Path(row["image"]).name
    return {
        "record_id": int(row["id"].partition("/")[0]),
        "file_name": name,
        "kind": "nothing" if row["kind"] == "no-target" else row["kind"],
        "detail": row["detail"],
        "question": row["question"],
        "answer": row["text"],
        "targets": answer["targets"],
        "scores": [
            {"name": pair["category"], **{key: pair[key] for key in ("phrase", "intersection", "union", "named")}}
            for pair in row["pairs"]
        ],
    }


def _scored(folder: Path, wanted: Wanted, options: Sequence[str]) -> dict[str, Any]:
    benchmark, *more = options
    common = ("--benchmark", benchmark, "--root", folder)
    grouping = more if "--grouping" in more else []
    name = "-".join(options).replace("--", "")
    pixellm("questions", *common, *grouping, "--out", f"{name}.jsonl")
    questions = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = [_answer(question, wanted) for question in questions][:-1]  # the last has none
    (folder / f"{name}-answers.jsonl").write_text("\n".join(map(json.dumps, answers)), encoding="utf-8")
    pixellm("score", f"{name}-answers.jsonl", *common, *more, "--out", name)
    report = json.loads((folder / name / "score.json").read_text(encoding="utf-8"))
    kept = {key: one for key, one in report.items() if key not in ("pixellm", "answers", "protocol")}
    rows = pq.read_table(folder / name / "questions.parquet").to_pylist()
    return kept | {"pairs": [{"id": row["id"], "iou": row["iou"], "pairs": row["pairs"]} for row in rows]}


def _answer(question: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
    """Answer as somebody would who is often a little wrong, sometimes more."""
    rng = random.Random(question["id"])
    found = [one for text, things in wanted.items() if text in question["expression"] for one in things]
    found = [one for one in found if rng.random() < 0.85]
    if rng.random() < 0.25:
        found.append(("the ghost", _box(rng)))
    rng.shuffle(found)
    text, spans, stored = "", [], []
    for description, box in found:
        phrase = description if rng.random() < 0.7 else f"the {rng.choice(NAMES)}"
        text += " and " if text else ""
        spans.append([len(text), len(text) + len(phrase)])
        text += phrase
        stored.append(trees.rle(_pixels(_moved(box, rng)), compressed=rng.random() < 0.5))
    return {"id": question["id"], "text": f"{text}.", "masks": stored, "spans": spans}


def _muse(folder: Path, rng: random.Random) -> Wanted:
    entries, wanted = [], {}
    for number in range(6):
        url = f"http://images.cocodataset.org/train2017/{number}.jpg"
        trees.photograph(folder / f"refer_seg/images/mscoco/images/train2017/{number}.jpg")
        questions = [f"Which things are useful, number {number}.{turn}?" for turn in range(3)]
        answers = [list(_muse_targets(rng, rng.randint(1, 4))) for _ in questions]
        for question, targets in zip(questions, answers, strict=True):
            wanted[question] = [(target["rephrased_name"], box) for target, box in targets]
        asked = [[target for target, _ in targets] for targets in answers]
        entries.append(trees.muse_entry(questions, asked, id=number, coco_url=url))
    trees.write_json(folder / "muse/muse_val.json", entries)
    return wanted


def _muse_targets(rng: random.Random, count: int) -> Iterator[tuple[dict[str, Any], Box]]:
    for name in rng.sample(NAMES, count):
        x, y, width, height = box = _box(rng)
        parts = [_polygon(box)]
        if rng.random() < 0.4:  # parts that overlap: the released arithmetic adds them up
            parts.append(_polygon((x, y, width // 2, height // 2)))
        yield trees.muse_answer(parts, name), box


def _refer(folder: Path, rng: random.Random) -> Wanted:
    boxes = {number: _box(rng) for number in range(1, 13)}
    references, wanted = [], {}
    for number, box in boxes.items():
        texts = [f"thing {number:02}{turn}" for turn in "ab"]
        references.append(trees.reference(number, number, *texts, split="val", image_id=1 + number % 2))
        wanted |= {text: [(text, box)] for text in texts}
    trees.refcoco(folder, references, {number: [_polygon(box)] for number, box in boxes.items()})
    return wanted


def _grefcoco(folder: Path, rng: random.Random) -> Wanted:
    boxes = {number: _box(rng) for number in range(1, 7)}
    references, wanted = [], {}
    for number in range(8):
        chosen = rng.sample(sorted(boxes), rng.randint(0, 3))
        text = f"group {number}"
        references.append(trees.reference(number, chosen or [-1], text, split="val", image_id=1 + number % 2))
        wanted[text] = [(text, boxes[one]) for one in chosen]
    trees.refcoco(folder, references, {number: [_polygon(box)] for number, box in boxes.items()}, "grefcoco")
    return wanted


def _reasonseg(folder: Path, rng: random.Random) -> Wanted:
    wanted = {}
    for number in range(5):
        trees.photograph(folder / f"reason_seg/ReasonSeg/val/{number}.jpg")
        box, text = _box(rng), f"What is of use in case {number}?"
        shapes = [_labelme("target", box), _labelme("ignore", _box(rng))][: 1 + number % 2]
        content = {"shapes": shapes, "text": [text], "is_sentence": True}
        trees.write_json(folder / f"reason_seg/ReasonSeg/val/{number}.json", content)
        wanted[text] = [(text, box)]
    return wanted


def _labelme(label: str, box: Box) -> dict[str, Any]:
    corners = _polygon(box)
    return {"label": label, "points": list(zip(corners[::2], corners[1::2], strict=True))}


def _box(rng: random.Random) -> Box:
    width, height = rng.randint(4, 18), rng.randint(4, 14)
    return rng.randint(0, trees.WIDTH - width), rng.randint(0, trees.HEIGHT - height), width, height


def _moved(box: Box, rng: random.Random) -> Box:
    x, y, width, height = box
    return max(0, x + rng.randint(-2, 2)), max(0, y + rng.randint(-2, 2)), width, height


def _polygon(box: Box) -> list[int]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _pixels(box: Box) -> np.ndarray:
    x, y, width, height = box
    found = np.zeros((trees.HEIGHT, trees.WIDTH), dtype=bool)
    found[y : y + height, x : x + width] = True
    return found
