"""The questions on COCO images, with segmenters that know the answer, know nothing, or break off."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixellm.data.categories import COCO
from pixellm.data.coco import CocoSource
from pixellm.data.describe import noun
from pixellm.data.templates import NOTHING_FITS, category_question
from pixellm.eval import resumable
from pixellm.eval.answering import answer_all, fingerprint
from pixellm.eval.benchmarks import BenchmarkQuestion
from pixellm.eval.coco_benchmark import KINDS, build_questions, load_coco
from pixellm.eval.predictions import read_predictions
from pixellm.eval.protocols import choose_protocol
from pixellm.eval.report import BenchmarkReport, score
from pixellm.imaging import masks
from pixellm.types import Answer, Segmenter, Target

SIZE = (60, 40)  # (width, height)
CATEGORIES = {name: number for number, name in enumerate(COCO, 1)}
# (category, x, y, width, height, crowd); the last of each photograph are too small to be asked for with others.
SCENES = (
    [("dog", 2, 2, 20, 20, 0), ("dog", 40, 20, 10, 10, 0), ("car", 30, 2, 20, 12, 0), ("bird", 0, 39, 1, 1, 0)],
    [("person", 5, 5, 20, 30, 0), ("person", 30, 5, 20, 20, 1), ("horse", 30, 28, 25, 10, 0)],
    [("cat", 5, 5, 20, 20, 0), ("person", 40, 5, 10, 10, 1)],
)


@pytest.fixture
def source(tmp_path: Path) -> CocoSource:
    rng = np.random.default_rng(0)
    data = {"categories": [{"id": number, "name": name} for name, number in CATEGORIES.items()]}
    data |= {"images": [], "annotations": []}
    for at, scene in enumerate(SCENES):
        name = f"{at}.png"
        Image.fromarray(rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)).save(tmp_path / name)
        data["images"].append({"id": 100 + at, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        for category, x, y, w, h, crowd in scene:
            mask = np.zeros(SIZE[::-1], dtype=bool)
            mask[y : y + h, x : x + w] = True
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1,
                    "image_id": 100 + at,
                    "category_id": CATEGORIES[category],
                    "iscrowd": crowd,
                    "segmentation": masks.encode(mask),
                }
            )
    (tmp_path / "instances.json").write_text(json.dumps(data))
    return CocoSource(tmp_path / "instances.json", tmp_path)


class Oracle(Segmenter):
    """Answers from the annotations, several objects in reverse: their order must not matter."""

    def __init__(self, source: CocoSource, stop_after: int | None = None) -> None:
        self.source, self.left, self.asked = source, stop_after, []
        self.questions = {(index_of(q), q.text): q for q in build_questions(source)}

    def set_image(self, image: str) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        self.index = int(Path(image).stem)

    def ask(self, question: str) -> Answer:
        self.asked.append(question)
        united = self.source[self.index].decode().category_masks()
        categories = categories_of(self.questions[self.index, question])
        return self.say(question, [(noun(name).plural, united[name]) for name in categories])

    def ask_many(self, questions: list[str]) -> list[Answer]:
        assert len(questions) <= resumable.CHUNK
        return super().ask_many(questions)

    def say(self, question: str, named: list[tuple[str, np.ndarray]]) -> Answer:
        text, targets = "", []
        for phrase, mask in reversed(named):
            targets.append(Target.of_mask(phrase, (len(text), len(text) + len(phrase)), mask, 1.0))
            text += f"{phrase} "
        return Answer(question, text.strip() or NOTHING_FITS, tuple(targets), SIZE[::-1])


class Silent(Oracle):
    def ask(self, question: str) -> Answer:
        return self.say(question, [])


class Eager(Oracle):
    """A correct mask, always the wrong name, and one mask too many."""

    def ask(self, question: str) -> Answer:
        right = super().ask(question)
        named = [("the toaster", target.mask) for target in reversed(right.targets)]
        return self.say(question, [*named, ("the toaster", np.zeros(SIZE[::-1], dtype=bool))])


def index_of(question: BenchmarkQuestion) -> int:
    return int(question.image_id) - 100


def categories_of(question: BenchmarkQuestion) -> tuple[str, ...]:
    return tuple(target.category for target in question.targets)


def evaluate(segmenter: Segmenter, source: CocoSource, out: Path, model: str = "m", limit: int | None = None):
    benchmark = load_coco(source.annotations, source.images, limit)
    path = answer_all(segmenter, benchmark, out, fingerprint(benchmark, model, "oracle", False), False, False)
    return score(benchmark, read_predictions(path), choose_protocol("coco", None))


def by_kind(report: BenchmarkReport) -> dict[str, dict[str, float]]:
    return {kind: metrics.values for kind, metrics in report.splits["kind"].items()}


def test_questions_are_as_described(source):
    questions = build_questions(source)
    asked = {kind: [q for q in questions if q.kind == kind] for kind in KINDS}
    assert all(asked.values())
    # No minimum of area for a category alone; a category known as a crowd alone is not asked for.
    assert [(index_of(q), *categories_of(q)) for q in asked["category"]] == [
        *((0, "bird"), (0, "car"), (0, "dog")),
        *((1, "horse"), (1, "person")),
        (2, "cat"),
    ]
    assert categories_of(asked["several"][0]) in {("dog", "car"), ("dog", "car", "bird")}
    assert [categories_of(q) for q in asked["all"]] == [("dog", "car"), ("person", "horse"), ("cat", "person")]
    for question in asked["no-target"]:
        present = {thing.category for thing in source[index_of(question)].instances}
        assert question.targets == ()
        assert not any(question.text == category_question(name) for name in present)
    for index in range(len(source)):
        details = [q.detail for q in asked["no-target"] if index_of(q) == index]
        assert sorted(details)[:2] in (["any", "related"], ["any", "any"], ["any", "knowledge"])
        assert sum(detail in ("any", "related") for detail in details) == 2
    assert len({q.id for q in questions}) == len(questions)


def test_questions_are_always_the_same(source):
    again = CocoSource(source.annotations, source.images)
    assert build_questions(source) == build_questions(again)
    assert build_questions(source, 1) == [q for q in build_questions(source) if index_of(q) == 0]


def test_an_incomplete_source_is_never_asked_for_what_is_absent(source):
    source.complete = False
    assert {q.kind for q in build_questions(source)} == {"category", "several"}


def test_perfect_answers(source, tmp_path):
    report = evaluate(Oracle(source), source, tmp_path / "out")
    kinds = by_kind(report)
    assert set(KINDS) <= set(kinds)
    for kind in ("category", "several", "all", "knowledge"):
        assert [kinds[kind][name] for name in ("giou", "ciou", "named_giou", "t_acc")] == [1.0] * 4, kind
    assert kinds["category"]["naming"] == kinds["no-target"]["n_acc"] == 1.0
    assert report.splits["kind"]["no-target"].pairs == 0
    assert report.overall.questions == len(build_questions(source))
    assert {answer.question.image_id for answer in report.scored} == {"100", "101", "102"}


def test_no_masks_at_all(source, tmp_path):
    kinds = by_kind(evaluate(Silent(source), source, tmp_path / "out"))
    for kind in ("category", "several", "all", "knowledge"):
        assert [kinds[kind][name] for name in ("giou", "ciou", "named_giou", "t_acc")] == [0.0] * 4, kind
    assert kinds["category"]["naming"] == 0.0
    assert kinds["no-target"]["n_acc"] == 1.0


def test_wrong_names_and_extra_masks(source, tmp_path):
    report = evaluate(Eager(source), source, tmp_path / "out")
    kinds = by_kind(report)
    assert kinds["category"]["giou"] == 1.0  # the union is right
    assert kinds["category"]["naming"] == 0.0
    targets = sum(len(answer.question.targets) for answer in report.scored if answer.question.kind == "all")
    pairs = report.splits["kind"]["all"].pairs
    assert kinds["all"]["giou"] == pytest.approx(targets / pairs)  # the empty extra mask counts 0
    assert kinds["all"]["ciou"] == 1.0
    assert kinds["all"]["named_giou"] == 0.0
    assert kinds["no-target"]["n_acc"] == 0.0  # an empty mask is one
    assert all(answer.misnamed for answer in report.scored if answer.pairs)


def test_interrupted_and_resumed_is_the_same(source, tmp_path):
    questions = build_questions(source)
    whole = evaluate(Oracle(source), source, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evaluate(Oracle(source, stop_after=1), source, tmp_path / "parts")
    second = Oracle(source)
    resumed = evaluate(second, source, tmp_path / "parts")
    assert len(second.asked) == sum(index_of(q) > 0 for q in questions)
    assert resumed.to_json() == whole.to_json()
    files = [tmp_path / name / "predictions.jsonl" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    third = Oracle(source)
    assert evaluate(third, source, tmp_path / "parts").scored == whole.scored
    assert third.asked == []


def test_answers_of_something_else_are_refused(source, tmp_path):
    evaluate(Oracle(source), source, tmp_path, model="one")
    with pytest.raises(ValueError, match="model: one, now two"):
        evaluate(Oracle(source), source, tmp_path, model="two")
    with pytest.raises(ValueError, match="questions: "):
        evaluate(Oracle(source), source, tmp_path, model="one", limit=1)
    (tmp_path / "predictions.jsonl").write_text("hello\n")
    with pytest.raises(ValueError, match="expected results of an evaluation"):
        evaluate(Oracle(source), source, tmp_path, model="one")


def test_report(source, tmp_path):
    report = evaluate(Eager(source), source, tmp_path / "out", limit=2)
    content = report.to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == json.loads(json.dumps(content))
    assert content["benchmark"] == {"name": "coco", "dataset": "instances.json", "split": ""}
    assert len({answer.question.image_id for answer in report.scored}) == 2
    lines = [line for line in report.markdown().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert any(line.startswith("| kind: category | 5 | 5 | 100.0 |") for line in lines)
    assert any(line.startswith("| kind: no-target, any |") for line in lines)
    names = {path.name for path in report.write(tmp_path / "report")}
    assert names == {"score.json", "score.md", "questions.parquet", "scores.png", "answers.jpg"}
    assert {path.name for path in report.write(tmp_path / "none", licences=[7])} == names - {"answers.jpg"}
