"""Benchmarks from small trees in the published layouts: ids, wordings, targets, groups."""

import json

import numpy as np
import pytest

from pixellm.eval.benchmarks import load_benchmark, load_jsonl, write_questions
from pixellm.imaging import masks
from tests.support import trees


def decoded(target):
    return masks.decode(target.rle, trees.HEIGHT, trees.WIDTH)


def muse(root, split="val", **more):
    cup, jug = trees.muse_answer([trees.SQUARE]), trees.muse_answer([trees.BAR], "jug")
    texts = ["The cup {seg} and {seg}.", None]
    entry = trees.muse_entry(["What {x}?", "Which?"], [[cup, jug], [cup]], text_answers=texts, **more)
    trees.write_json(root / f"muse/muse_{split}.json", [entry, entry])


def test_muse(tmp_path):
    muse(tmp_path)
    found = load_benchmark("muse", tmp_path)
    assert [one.id for one in found.questions] == ["val/7/0", "val/7/1", "val/7#2/0", "val/7#2/1"]
    first, second, *_ = found.questions
    assert first.text == "What {x}? Please output segmentation mask."
    assert first.image_id == second.image_id == "val/7"
    assert [(t.description, t.category) for t in first.targets] == [
        ("the cup on the left", "cup"),
        ("the jug on the left", "jug"),
    ]
    assert np.array_equal(decoded(first.targets[1]), trees.bar())
    assert first.hw == (30, 40)
    assert not first.targets[0].parts


def test_polygons_that_overlap_are_kept_for_the_released_arithmetic(tmp_path):
    overlapping = trees.muse_answer([trees.SQUARE, trees.INNER])
    trees.write_json(tmp_path / "muse/muse_val.json", [trees.muse_entry(["What?"], [[overlapping]])])
    (target,) = load_benchmark("muse", tmp_path).questions[0].targets
    assert np.array_equal(decoded(target), trees.square())
    assert len(target.parts) == 2


def test_muse_test_is_both_test_splits(tmp_path):
    for split in ("test_less", "test_many"):
        muse(tmp_path, split)
    found = load_benchmark("muse", tmp_path, "test")
    assert [one.id for one in found.questions][::4] == ["test_less/7/0", "test_many/7/0"]


def sentences(*ids, split="val", image_id=1):
    return [trees.reference(i, i, f"thing {i}", f"that {i}", split=split, image_id=image_id) for i in ids]


def test_refer(tmp_path):
    trees.refcoco(tmp_path, sentences(1, 2), {1: [trees.SQUARE], 2: [trees.BAR]})
    found = load_benchmark("refer", tmp_path).questions
    assert [one.id for one in found] == [f"refcoco/val/1/{number}" for number in range(4)]
    assert found[2].text == "What is thing 2 in this image? Please output segmentation mask."
    assert found[2].reference_answer == "{seg}."
    assert np.array_equal(decoded(found[3].targets[0]), trees.bar())


def test_grefcoco(tmp_path):
    both = trees.reference(1, [1, 2], "both", split="val")
    nothing = trees.reference(2, [-1], "nothing", split="val")
    trees.refcoco(tmp_path, [both, nothing], {1: [trees.SQUARE], 2: [trees.BAR]}, "grefcoco")
    first, second = load_benchmark("grefcoco", tmp_path).questions
    assert np.array_equal(decoded(first.targets[0]), trees.square() | trees.bar())
    assert (second.id, second.targets) == ("grefcoco/val/1/1", ())


@pytest.mark.parametrize(
    ("things", "sizes"),
    [(2, []), (3, [3, 3]), (6, [6, 6]), (7, [3, 4, 3, 4]), (13, [4, 4, 5, 4, 4, 5])],
)
def test_multi_referring_of_the_paper(tmp_path, things, sizes):
    """3–6 different things a question; every thing once in a round."""
    ids = list(range(1, things + 1))
    boxes = {i: [[i, 1, i + 5, 1, i + 5, 9]] for i in ids}
    trees.refcoco(tmp_path, sentences(*ids), boxes)
    if not sizes:
        with pytest.raises(ValueError, match="expected questions in refcoco, split val, found none"):
            load_benchmark("multi-refer", tmp_path)
        return
    found = load_benchmark("multi-refer", tmp_path).questions
    assert [len(one.targets) for one in found] == sizes
    assert found[0].id == "refcoco/val/paper/1/0"
    assert all(len({str(target.rle["counts"]) for target in one.targets}) == len(one.targets) for one in found)
    assert found[0].text.startswith("What is thing 1, thing 2")
    assert found[0].reference_answer.count("{seg}") == sizes[0]


def test_multi_referring_as_released(tmp_path):
    trees.refcoco(tmp_path, sentences(*range(1, 9)), {i: [trees.SQUARE] for i in range(1, 9)})
    found = load_benchmark("multi-refer", tmp_path, grouping="released").questions
    assert [len(one.targets) for one in found] == [6, 5, 4, 1]
    assert found[3].id == "refcoco/val/released/1/3"
    assert found[2].reference_answer == "{seg}, {seg}, {seg} and {seg}."


def reasonseg(root, name, texts, sentence):
    folder = root / "reason_seg/ReasonSeg/val"
    trees.photograph(folder / f"{name}.jpg")
    shapes = [("target", trees.SQUARE), ("ignore", trees.INNER), ("flag", trees.BAR)]
    rows = [{"label": label, "points": np.reshape(points, (-1, 2)).tolist()} for label, points in shapes]
    trees.write_json(folder / f"{name}.json", {"shapes": rows, "text": texts, "is_sentence": sentence})


def test_reasonseg(tmp_path):
    reasonseg(tmp_path, "a", ["Which can be drunk from?", "another"], True)
    reasonseg(tmp_path, "b", ["the cup"], False)
    first, second = load_benchmark("reasonseg", tmp_path).questions
    assert (first.id, second.id) == ("val/a/0", "val/b/0")
    assert first.text == "Which can be drunk from? Please output segmentation mask."
    assert second.text == "What is the cup in this image? Please output segmentation mask."
    assert masks.area(first.ignored) > 0
    assert masks.intersection_area(first.targets[0].rle, first.ignored) == 0


def test_questions_for_other_programs_hold_no_answers(tmp_path):
    muse(tmp_path)
    found = load_benchmark("muse", tmp_path)
    write_questions(found, tmp_path / "questions.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [one.id for one in found.questions]
    assert rows[0].keys() == {"id", "image", "height", "width", "question", "expression"}
    assert rows[0]["image"].endswith("train2017/000000000007.jpg")


def test_what_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match="--dataset: expected one of refcoco"):
        load_benchmark("refer", tmp_path, dataset="muse")
    with pytest.raises(ValueError, match="expected a split of muse, got 'testA'"):
        load_benchmark("muse", tmp_path, "testA")


def test_masks_that_cannot_be_read_name_the_question(tmp_path):
    bad = trees.muse_answer({"size": [30, 40], "counts": [3]})
    trees.write_json(tmp_path / "muse/muse_val.json", [trees.muse_entry(["What?"], [[bad]])])
    with pytest.raises(ValueError, match="val/7/0: expected an RLE whose runs add up"):
        load_benchmark("muse", tmp_path)


def test_own_data(tmp_path):
    """Questions are asked as they are written, several on an image together, with any number of targets."""
    trees.photograph(tmp_path / "images/a.png")
    rows = [
        {"image": "images/a.png", "question": "Which {x}?", "answer": "The cup {seg}.", "masks": [[trees.SQUARE]]},
        {"image": "images/a.png", "question": "Any dog?", "answer": "No.", "masks": [], "kind": "use"},
    ]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    benchmark = load_jsonl(tmp_path / "my.jsonl")
    assert [question.id for question in benchmark.questions] == ["images/a.png/0", "images/a.png/1"]
    assert [question.text for question in benchmark.questions] == ["Which {x}?", "Any dog?"]
    assert np.array_equal(decoded(benchmark.questions[0].targets[0]), trees.square())
    assert benchmark.questions[1].targets == ()
    assert [question.kind for question in benchmark.questions] == ["", "use"]
