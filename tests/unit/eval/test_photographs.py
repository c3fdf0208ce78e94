"""The benchmark on photographs, with segmenters that know the answer, know nothing, or break off."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixellm.data.categories import COCO
from pixellm.data.coco import CocoSource
from pixellm.data.describe import noun
from pixellm.data.templates import NOTHING_FITS
from pixellm.eval import photographs, resumable
from pixellm.eval.photographs import KINDS, Report, build_questions, evaluate
from pixellm.imaging import masks
from pixellm.types import Answer, Target
from pixellm.utils.files import exclusive_lock

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


class Oracle:
    """Answers from the annotations, several things in reverse: their order must not matter."""

    def __init__(self, source: CocoSource, stop_after: int | None = None) -> None:
        self.source, self.left, self.asked = source, stop_after, []
        self.questions = {(q.index, q.text): q for q in build_questions(source)}
        self.images = [source[index].load_image().tobytes() for index in range(len(source))]

    def set_image(self, image: Image.Image) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        self.image, self.index = image, self.images.index(image.tobytes())

    def ask(self, question: str) -> Answer:
        self.asked.append(question)
        found = self.source[self.index].decode().category_masks()
        return self.say(question, [(noun(n).plural, found[n]) for n in self.questions[self.index, question].names])

    def say(self, question: str, named: list[tuple[str, np.ndarray]]) -> Answer:
        text, targets = "", []
        for phrase, mask in reversed(named):
            targets.append(Target.of_mask(phrase, (len(text), len(text) + len(phrase)), mask, 1.0))
            text += f"{phrase} "
        return Answer(question, text.strip() or NOTHING_FITS, tuple(targets), SIZE[::-1], self.image)


class Batched(Oracle):
    def ask_many(self, questions: list[str]) -> list[Answer]:
        assert len(questions) <= resumable.CHUNK
        return [self.ask(question) for question in questions]


class Silent(Oracle):
    def ask(self, question: str) -> Answer:
        return self.say(question, [])


class Eager(Oracle):
    """A correct mask, always the wrong name, and one mask too many."""

    def ask(self, question: str) -> Answer:
        right = super().ask(question)
        named = [("the toaster", target.mask) for target in reversed(right.targets)]
        return self.say(question, [*named, ("the toaster", np.zeros(SIZE[::-1], dtype=bool))])


def test_questions_are_as_described(source):
    questions = build_questions(source)
    asked = {kind: [q for q in questions if q.kind == kind] for kind in KINDS}
    assert all(asked.values())
    # No minimum of area for a category alone; a category known as a crowd alone is not asked for.
    assert [(q.index, *q.names) for q in asked["category"]] == [
        *((0, "bird"), (0, "car"), (0, "dog")),
        *((1, "horse"), (1, "person")),
        (2, "cat"),
    ]
    assert asked["several"][0].names in {("dog", "car"), ("dog", "car", "bird")}
    assert [q.names for q in asked["all"]] == [("dog", "car"), ("person", "horse"), ("cat", "person")]
    for question in asked["nothing"]:
        present = {thing.category for thing in source[question.index].instances}
        assert question.names == ()
        assert not any(question.text == photographs.category_question(name) for name in present)
    for index in range(len(source)):
        details = [q.detail for q in asked["nothing"] if q.index == index]
        assert sorted(details)[:2] in (["any", "related"], ["any", "any"], ["any", "knowledge"])
        assert sum(detail in ("any", "related") for detail in details) == 2
    assert len({q.key for q in questions}) == len(questions)


def test_questions_are_always_the_same(source):
    again = CocoSource(source.annotations, source.images)
    assert build_questions(source) == build_questions(again)
    assert build_questions(source, 1) == [q for q in build_questions(source) if q.index == 0]


def test_an_incomplete_source_is_never_asked_for_what_is_absent(source):
    source.complete = False
    assert {q.kind for q in build_questions(source)} == {"category", "several"}


@pytest.mark.parametrize("segmenter", [Oracle, Batched])
def test_perfect_answers(source, segmenter):
    summary = evaluate(segmenter(source), source, build_questions(source)).summary
    for kind in ("category", "several", "all", "knowledge"):
        row = summary[kind]
        assert (row["giou"], row["ciou"], row["named_giou"], row["with_mask"]) == (1.0, 1.0, 1.0, 1.0), kind
    assert summary["category"]["naming"] == 1.0
    assert summary["nothing"]["without_mask"] == 1.0
    assert summary["questions"] == len(build_questions(source))
    assert summary["photographs"] == 3


def test_no_masks_at_all(source):
    summary = evaluate(Silent(source), source, build_questions(source)).summary
    for kind in ("category", "several", "all", "knowledge"):
        row = summary[kind]
        assert (row["giou"], row["ciou"], row["named_giou"], row["with_mask"]) == (0.0, 0.0, 0.0, 0.0), kind
    assert summary["category"]["naming"] == 0.0
    assert summary["nothing"]["without_mask"] == 1.0


def test_wrong_names_and_extra_masks(source):
    report = evaluate(Eager(source), source, build_questions(source))
    summary = report.summary
    assert summary["category"]["giou"] == 1.0  # the union is right
    assert summary["category"]["naming"] == 0.0
    wanted = sum(len(r.scores) - 1 for r in report.results if r.kind == "all")
    assert summary["all"]["giou"] == pytest.approx(wanted / summary["all"]["pairs"])  # the empty extra mask counts 0
    assert summary["all"]["ciou"] == 1.0
    assert summary["all"]["named_giou"] == 0.0
    assert summary["nothing"]["without_mask"] == 0.0
    assert all(result.misnamed for result in report.results if result.scores)


def test_not_while_another_evaluation_writes_there(source, tmp_path, monkeypatch):
    monkeypatch.setattr("pixellm.segmenter.load_segmenter", lambda *_, **__: Oracle(source))
    where = (source.annotations, tmp_path, tmp_path / "out")
    with (
        exclusive_lock(tmp_path / "out/results.jsonl"),
        pytest.raises(ValueError, match="alone, but another process does"),
    ):
        photographs.run("model", *where)
    assert not (tmp_path / "out/results.jsonl").exists()


def test_interrupted_and_resumed_is_the_same(source, tmp_path):
    questions = build_questions(source)
    whole = evaluate(Oracle(source), source, questions, path=tmp_path / "whole.jsonl", model="m")
    path = tmp_path / "parts.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Oracle(source, stop_after=1), source, questions, path=path, model="m")
    with path.open("a") as file:
        file.write('{"record_id": 101, "cut of')  # as if interrupted while writing
    second = Oracle(source)
    resumed = evaluate(second, source, questions, path=path, model="m")
    assert len(second.asked) == sum(q.index > 0 for q in questions)
    assert resumed == whole
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    third = Oracle(source)
    assert evaluate(third, source, questions, path=path, model="m") == whole
    assert third.asked == []


def test_results_of_something_else_are_refused(source, tmp_path):
    path = tmp_path / "results.jsonl"
    questions = build_questions(source)
    evaluate(Oracle(source), source, questions, path=path, model="one")
    with pytest.raises(ValueError, match="model: one, now two"):
        evaluate(Oracle(source), source, questions, path=path, model="two")
    with pytest.raises(ValueError, match="questions: "):
        evaluate(Oracle(source), source, questions[1:], path=path, model="one")
    path.write_text("hello\n")
    with pytest.raises(ValueError, match="expected results of an evaluation"):
        evaluate(Oracle(source), source, questions, path=path, model="one")


def test_results_keep_masks_and_words(source, tmp_path):
    path = tmp_path / "results.jsonl"
    report = evaluate(Oracle(source), source, build_questions(source), path=path)
    rows = [json.loads(line) for line in path.read_text().splitlines()][1:]
    assert len(rows) == len(report.results)
    row = next(row for row in rows if row["kind"] == "category" and row["scores"][0]["name"] == "dog")
    assert row["targets"][0]["phrase"] == "dogs"
    decoded = masks.decode(row["targets"][0]["segmentation"], SIZE[1], SIZE[0])
    assert np.array_equal(decoded, source[0].decode().category_masks()["dog"])


def test_summary_is_json_and_a_table(source):
    report = evaluate(Oracle(source), source, build_questions(source))
    assert json.loads(json.dumps(report.summary, allow_nan=False)) == report.summary
    lines = [line for line in report.markdown().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert any(line.startswith("| category | 6 | 100.0 |") for line in lines)
    assert Report((), {}).summary == {"photographs": 0, "questions": 0}
    assert not any(math.isnan(v) for row in report.summary.values() if isinstance(row, dict) for v in _floats(row))


def _floats(row):
    return [value for value in row.values() if isinstance(value, float)]


def test_run_writes_everything(source, tmp_path, monkeypatch):
    from pixellm.predictor import Predictor

    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "pixellm"}')
    monkeypatch.setattr(Predictor, "load", classmethod(lambda cls, *args, **kwargs: Eager(source)))
    report = photographs.run(model, source.annotations, source.images, out, limit=2)
    assert sorted(file.name for file in out.iterdir()) == ["results.jsonl", "sheet.jpg", "summary.json", "summary.md"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["photographs"] == report.summary["photographs"] == 2
    assert (out / "summary.md").read_text() == report.markdown()
    (model / "config.json").write_text('{"model_type": "pixellm", "a": 1}')
    with pytest.raises(ValueError, match="those of another"):
        photographs.run(model, source.annotations, source.images, out, limit=2)
