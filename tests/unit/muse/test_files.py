"""Files in MUSE's layout: validate, merge, subset, split, statistics; and the commands."""

import json
from copy import deepcopy

import pytest
from PIL import Image
from typer.testing import CliRunner

from pixellm.cli import app
from pixellm.muse import layout, operations, stats
from pixellm.muse.journal import Journal
from pixellm.muse.layout import MusePair, entry, image_fields, instance
from pixellm.muse.operations import SPLITS, SplitShares
from pixellm.muse.validate import LayoutValidator, counts
from tests.support import muse_cases, trees

runner = CliRunner()
RECORDS = muse_cases.records(30)
IDS = {name: i for i, name in enumerate(sorted({t.category for one in RECORDS for t in one.targets}), 1)}


def entries(records=RECORDS) -> list[dict]:
    rows = []
    for one in records:
        targets = [instance(target, IDS) for target in one.targets]
        rows.append(json.loads(json.dumps(entry(image_fields(one.image), targets, [MusePair.from_record(one, IDS)]))))
    return rows


def kinds(*rows, images=None, file="a.json") -> dict:
    validator = LayoutValidator(images)
    return dict(counts([p for number, one in enumerate(rows) for p in validator.problems(file, number, one)]))


def test_good_files_are_valid() -> None:
    assert kinds(*entries()) == {}
    plain = [
        {key: value for key, value in one.items() if key not in ("text_answers", "provenance")} for one in entries()
    ]
    assert kinds(*plain) == {}  # only descriptions


def _answer(one):
    return one["answers"][0][0]


FAULTS = {
    "slots": lambda one: one["text_answers"].__setitem__(0, "Just one {seg}."),
    "mask": lambda one: _answer(one).pop("segmentation"),
    "empty_text": lambda one: one["questions"].__setitem__(0, " "),
    "braces": lambda one: one["text_answers"].__setitem__(0, one["text_answers"][0] + " {x}"),
    "no_targets": lambda one: one.update(answers=[[]], text_answers=None),
    "lists": lambda one: one["answers"].append([]),
    "outside": lambda one: (
        _answer(one)["segmentation"].append([600, 10, 700, 10, 700, 50]),
        _answer(one).pop("bbox"),
    ),
    "repeated_target": lambda one: (
        one["answers"][0].append(deepcopy(_answer(one))),
        one["text_answers"].__setitem__(0, one["text_answers"][0] + " And {seg}."),
    ),
    "duplicate_id": lambda one: one["ann_list"].append(deepcopy(one["ann_list"][0])),
    "box": lambda one: _answer(one).update(bbox=[1, 2, "x", 4]),
    "size": lambda one: one.update(height=None),
    "image": lambda one: (one.pop("coco_url"), one.pop("file_name")),
    "no_instances": lambda one: one.update(ann_list=[]),
    "category": lambda one: _answer(one).update(category_name="something else"),
    "no_name": lambda one: (
        one.update(text_answers=[None]),
        _answer(one).update(rephrased_name="", category_name=None),
    ),
    "repeated_question": lambda one: [one[name].append(deepcopy(one[name][0])) for name in layout.BY_QUESTION],
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_inconsistency_is_found(kind) -> None:
    rows = entries()
    FAULTS[kind](rows[20])
    assert kinds(*rows) == {kind: 1}


@pytest.mark.parametrize(
    "segmentation", [[], [[1, 1, 5, 5]], {"size": [5, 5], "counts": "x"}, "polygon", [[1, 1, 2, 2, float("nan"), 4]], 7]
)
def test_masks_that_hold_nothing(segmentation) -> None:
    rows = entries()[:3]
    _answer(rows[1])["segmentation"] = segmentation
    assert kinds(*rows) == {"mask": 1}
    _answer(rows[1])["segmentation"] = [[700, 500, 720, 500, 720, 510]]
    assert kinds(*rows) == {"mask": 1, "outside": 1}


def test_boxes_of_something_else() -> None:
    rows = entries()[:3]
    _answer(rows[1])["bbox"] = [0, 0, 3, 3]
    assert kinds(*rows) == {"box": 1}


def test_what_comes_twice() -> None:
    rows = entries()[:3]
    assert kinds(*rows, rows[0]) == {"duplicate_id": 1}
    assert kinds(*rows, "not an entry") == {"entry": 1}
    validator = LayoutValidator()
    assert not [*validator.problems("train.json", 0, rows[0])]
    other_year = rows[0] | {"coco_url": None, "file_name": f"COCO_train2014_{rows[0]['file_name']}"}
    (problem,) = validator.problems("val.json", 0, other_year)
    assert (problem.kind, problem.reason) == ("leak", "the image 000000000000 is in train.json, too")


def test_images_are_looked_for(tmp_path) -> None:
    row = entries()[1]
    assert kinds(row, images=tmp_path) == {"image": 1}
    path = trees.photograph(tmp_path / "train2017" / row["file_name"], (muse_cases.WIDTH, muse_cases.HEIGHT))
    assert kinds(row, images=tmp_path) == {}
    trees.photograph(path, (10, 10))
    assert kinds(row, images=tmp_path) == {"size": 1}
    path.write_text("no image")
    assert kinds(row, images=tmp_path) == {"image": 1}


def test_merge() -> None:
    """Photographs once, questions once; other numbers of categories make them all new."""
    first, second = entries()[:20], entries()[10:]
    found = operations.merge([*first, *deepcopy(second)])
    assert found == entries()
    anew = deepcopy(second)
    for target in (t for one in anew for group in (one["ann_list"], *one["answers"]) for t in group):
        target["category_id"] += 1
    found = operations.merge([*first, *anew])
    assert kinds(*found) == {}
    assert len(found) == 30
    assert sum(len(one["questions"]) for one in found) == 30
    asked_again = deepcopy(first[0]) | {"questions": ["Something else?"]}
    (one,) = operations.merge([first[0], asked_again])
    assert len(one["questions"]) == len(one["answers"]) == len(one["provenance"]) == 2
    assert len(one["ann_list"]) == len(first[0]["ann_list"])


def test_subset() -> None:
    rows = entries()
    few = operations.subset(rows, operations.SubsetSpec(pairs=7, seed=1))
    assert sum(len(one["questions"]) for one in few) == 7
    assert (
        few
        == operations.subset(rows, operations.SubsetSpec(pairs=7, seed=1))
        != operations.subset(rows, operations.SubsetSpec(pairs=7, seed=2))
    )
    pets = operations.subset(rows, operations.SubsetSpec(categories={"dog", "cat"}))
    assert pets
    assert {t["category_name"] for one in pets for answer in one["answers"] for t in answer} == {"dog", "cat"}
    triples = operations.subset(rows, operations.SubsetSpec(targets=(3, 3)))
    assert {len(answer) for one in triples for answer in one["answers"]} == {3}
    assert operations.subset(rows, operations.SubsetSpec(synthetic=False)) == []


def test_split_anew() -> None:
    found, left_out = operations.split([*entries(), *entries()], SplitShares(0.2, 0.2))
    assert tuple(found) == SPLITS
    assert sum(len(group) for group in found.values()) == 30
    assert left_out == 0
    validator = LayoutValidator()
    assert not [
        p for name, group in found.items() for i, one in enumerate(group) for p in validator.problems(name, i, one)
    ]


def statistics(rows: list[dict]) -> stats.MuseStatistics:
    counts = stats.MuseStatistics()
    for row in rows:
        counts.add(row)
    return counts


def test_statistics() -> None:
    found = statistics(entries())
    assert (found.pairs, found.images, found.texts) == (30, 30, 30)
    assert found.instances == sum(len(one.targets) for one in RECORDS)
    assert found.max_targets == max(len(one.targets) for one in RECORDS)
    assert found.targets.total() == 30
    assert len(found.categories) == len(IDS)
    small = statistics([trees.muse_entry(["?"], [[trees.muse_answer([trees.SQUARE])]])])
    assert small.tokens == {5: 1}  # the cup on the left
    assert small.texts == 0


def test_published_statistics_stand_beside_ours() -> None:
    rows = {name: (here, published) for name, here, published in stats.table(statistics(entries()))}
    assert rows["question-answer pairs"] == ("30", "246,000")
    assert rows["targets per question, mean"][1] == "3.7"
    assert rows["targets per question, most"][1] == "34"


def run(*words, code=0) -> str:
    result = runner.invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def test_commands_on_files(tmp_path) -> None:
    layout.write(tmp_path / "a.json", entries()[:20])
    layout.write(tmp_path / "b.json", entries()[20:])
    assert "30 entries, 0 problems" in run("muse", "validate", tmp_path / "a.json", tmp_path / "b.json")
    run("muse", "merge", tmp_path / "a.json", tmp_path / "b.json", "--out", tmp_path / "all.json")
    assert layout.read(tmp_path / "all.json") == entries()
    told = run("muse", "validate", tmp_path / "a.json", tmp_path / "all.json", code=1)
    assert "leak: 20" in told
    told = run("muse", "subset", tmp_path / "all.json", "--pairs", 5, "--out", tmp_path / "five.json")
    assert "5 pairs" in told
    run("muse", "split", tmp_path / "all.json", "--out", tmp_path / "splits", "--val", 0.2, "--test", 0.2)
    assert {path.name for path in (tmp_path / "splits").iterdir()} == {f"muse_{name}.json" for name in SPLITS}
    picture, numbers = tmp_path / "s.png", tmp_path / "s.json"
    assert "246,000" in run("muse", "stats", tmp_path / "all.json", "--plot", picture, "--json", numbers)
    assert Image.open(picture).width > 1000
    assert json.loads(numbers.read_text())["pairs"] == 30


def test_dash_is_standard_output(tmp_path) -> None:
    layout.write(tmp_path / "a.json", entries()[:3])
    for words in (("stats", "--json", "-"), ("validate", "--json", "-"), ("merge", "--out", "-")):
        assert json.loads(run("muse", words[0], tmp_path / "a.json", *words[1:])) is not None
    result = runner.invoke(app, ["muse", "stats", str(tmp_path / "a.json"), "--json", "-", "--plot", "-"])
    assert "for one output file" in str(result.exception)


def test_mistakes_are_told(tmp_path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"questions": []}')
    result = runner.invoke(app, ["muse", "validate", str(bad)])
    assert "expected a list of images" in str(result.exception)
    bad.write_text('[{"file_name": "a.jpg", "questions": ["?"], "answers": []}]')
    result = runner.invoke(app, ["muse", "merge", str(bad), "--out", str(tmp_path / "out.json")])
    assert "entry 0: expected as many answers as questions" in str(result.exception)
    assert not (tmp_path / "out.json").exists()


def test_commands_on_a_journal(tmp_path) -> None:
    with Journal(tmp_path / "j", {}) as journal:
        for one in RECORDS[:28]:
            journal.finish_image(one.image.image_id, [one])
    told = run("muse", "check", tmp_path / "j", "--repeats", 9)
    assert "28 of 28 records are good" in told
    words = tmp_path / "words.txt"
    words.write_text("steak\n")
    assert "unsafe: 2" in run("muse", "check", tmp_path / "j", "--unsafe-words", words, code=1)
    run("muse", "check", tmp_path / "j", "--unsafe-words", words, "--reject")
    assert "26 of 26" in run("muse", "check", tmp_path / "j", "--unsafe-words", words, "--repeats", 9)
    assert "near_duplicate" in run("muse", "check", tmp_path / "j", "--self-test")
    told = run("muse", "export", tmp_path / "j", tmp_path / "out", "--val", 0.2, "--test", 0.2)
    assert (tmp_path / "out/README.md").is_file()
    assert "train" in told
    run("muse", "validate", *sorted((tmp_path / "out").glob("*.json")))
