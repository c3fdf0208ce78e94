"""MUSE and ReasonSeg, from trees in their published layout."""

import json

import numpy as np
import pytest

from pixellm.data.catalogue import open_data
from tests.support import trees

HEIGHT, WIDTH = trees.HEIGHT, trees.WIDTH
TEXT = "The cup {seg} stands by the bar {seg}."


def write_muse(root, *entries, name="muse/muse_train.json"):
    return trees.write_json(root / name, list(entries))


def two_answers() -> list[dict]:
    return [trees.muse_answer([trees.SQUARE, trees.INNER]), trees.muse_answer(trees.rle(trees.bar()), "bar")]


@pytest.mark.parametrize("name", ["muse/muse_train.json", "muse/MUSE_train.json", "muse_train.json"])
def test_muse(tmp_path, name) -> None:
    """Overlapping polygons are a union; a text gives the answer, names where there is none."""
    entry = trees.muse_entry(["What for tea?", "And {now}?"], [two_answers()] * 2, text_answers=[TEXT, None])
    write_muse(tmp_path, entry, name=name)
    (record,) = open_data("muse", tmp_path)
    first, second = record.exchanges
    assert (first.question, first.answer, first.asks) == ("What for tea?", TEXT, "sentence")
    assert second.answer is None
    assert [instance.names for instance in second.targets][1] == ("the bar on the left", "bar")
    decoded = [instance.mask.decode(HEIGHT, WIDTH) for instance in first.targets]
    assert np.array_equal(decoded[0], trees.square())
    assert np.array_equal(decoded[1], trees.bar())


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"coco_url": "http://images.cocodataset.org/train2017/9.jpg"}, "train2017/9.jpg"),
        ({"coco_url": "http://images.cocodataset.org/val2017/9.jpg"}, "val2017/9.jpg"),
        ({"file_name": "COCO_train2014_9.jpg"}, "train2014/COCO_train2014_9.jpg"),
    ],
)
@pytest.mark.parametrize("images", ["refer_seg/images/mscoco/images", "coco"])
def test_muse_images(tmp_path, fields, place, images) -> None:
    entry = trees.muse_entry(["What?"], [two_answers()])
    del entry["coco_url"]
    write_muse(tmp_path, entry | fields)
    path = trees.photograph(tmp_path / images / place)
    assert open_data("muse", tmp_path)[0].image == path


def test_each_year_has_its_own_folder(tmp_path) -> None:
    """RefCOCO's photographs lie beside MUSE's, whose own are often those of COCO."""
    (tmp_path / "refer_seg/images/mscoco/images/train2014").mkdir(parents=True)
    path = trees.photograph(tmp_path / "coco/train2017/000000000007.jpg")
    write_muse(tmp_path, trees.muse_entry(["What?"], [two_answers()]))
    assert open_data("muse", tmp_path)[0].image == path


def test_muse_splits(tmp_path) -> None:
    for split in ("train", "val", "test_less", "test_many"):
        write_muse(tmp_path, trees.muse_entry([split], [two_answers()]), name=f"muse/muse_{split}.json")
        assert open_data(f"muse:{split}", tmp_path)[0].exchanges[0].question == split


@pytest.mark.parametrize(
    ("answers", "text", "reason"),
    [
        (two_answers(), "One {seg}.", "its text has 1 {seg} but 2 targets"),
        ([], None, "no target"),
        ([{"category_name": "cup"}], None, "no field 'segmentation'"),
        ([trees.muse_answer([])], None, "expected polygons or an RLE"),
        ([{"segmentation": [trees.SQUARE]}], None, "neither a text for the answer nor a name"),
        ("cup", None, "expected a list of targets"),
        (two_answers(), 7, "expected the answer's text"),
    ],
)
def test_bad_questions_are_named_and_left_out(tmp_path, answers, text, reason) -> None:
    entry = trees.muse_entry(["good", "bad"], [two_answers(), answers], text_answers=[TEXT, text], ann_list=[{}])
    write_muse(tmp_path, entry)
    data = open_data("muse", tmp_path, max_bad_fraction=0.5)
    assert [exchange.question for exchange in data[0].exchanges] == ["good"]
    assert [bad.record_id for bad in data.bad] == ["7, question 1"]
    assert reason in data.bad[0].reason


def test_bad_entries(tmp_path) -> None:
    good = trees.muse_entry(["good"], [two_answers()])
    nameless = {key: value for key, value in good.items() if key != "coco_url"} | {"id": 8}
    missing = {key: value for key, value in good.items() if key != "questions"} | {"id": 9}
    write_muse(tmp_path, good, nameless, missing, good | {"ann_list": [], "id": 10}, "not an entry")
    data = open_data("muse", tmp_path, max_bad_fraction=1)
    assert len(data) == 1
    assert [bad.record_id for bad in data.bad] == ["8", "9", "10", "4"]
    trees.write_json(tmp_path / "muse/muse_train.json", {"questions": []})
    with pytest.raises(ValueError, match="expected a list of images"):
        open_data("muse", tmp_path)


def shape(label: str, points) -> dict:
    return {"label": label, "points": np.reshape(points, (-1, 2)).tolist(), "shape_type": "polygon"}


def reasonseg(root, shapes, text=("what may one drink from?",), is_sentence=True, encoding="utf-8", split="train"):
    folder = root / "reason_seg/ReasonSeg"
    trees.photograph(folder / split / "1_a.jpg")
    content = {"shapes": shapes, "text": text if isinstance(text, str) else list(text), "is_sentence": is_sentence}
    (folder / split / "1_a.json").write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    return folder


def test_reasonseg(tmp_path) -> None:
    """Small polygons are painted over large ones; "ignore" is neither target nor background; "flag" means nothing."""
    shapes = [shape("ignore", trees.INNER), shape("target", trees.SQUARE), shape("flag", trees.BAR)]
    reasonseg(tmp_path, shapes)
    (record,) = open_data("reasonseg", tmp_path)
    (exchange,) = record.exchanges
    assert (exchange.asks, exchange.answer) == ("sentence", None)
    target, ignored = exchange.targets[0].mask.decode(HEIGHT, WIDTH), exchange.ignored.decode(HEIGHT, WIDTH)
    assert target[6, 6]
    assert ignored[10, 10]
    assert not (target & ignored).any()
    assert not target[22].any()
    assert target.sum() + ignored.sum() == 11 * 11  # the outline counts, as in the published masks


def test_reasonseg_phrases_and_explanations(tmp_path) -> None:
    folder = reasonseg(tmp_path, [shape("target", trees.SQUARE)], ["the cup", " "], is_sentence=False)
    explanation = {"image": "1_a.jpg", "query": "What holds tea?", "outputs": "The cup, since it is hollow."}
    trees.write_json(folder / "explanatory/train.json", [explanation])
    (record,) = open_data("reasonseg", tmp_path)
    assert [(e.asks, len(e.targets)) for e in record.exchanges] == [("phrase", 1), ("explain", 1), ("verbatim", 0)]
    assert record.exchanges[1].answer == "The cup, since it is hollow."


def test_rectangles(tmp_path) -> None:
    reasonseg(tmp_path, [shape("target", [5, 5, 14, 14]) | {"shape_type": "rectangle"}])
    mask = open_data("reasonseg", tmp_path)[0].exchanges[0].targets[0].mask
    assert np.array_equal(mask.decode(HEIGHT, WIDTH), trees.square())


def test_reasonseg_written_on_windows(tmp_path) -> None:
    reasonseg(tmp_path, [shape("target", trees.SQUARE)], ["das Kästchen"], encoding="cp1252")
    assert open_data("reasonseg", tmp_path)[0].exchanges[0].question == "das Kästchen"


@pytest.mark.parametrize(
    ("shapes", "text", "reason"),
    [
        ([], ["x"], "no polygon of a target"),
        ([shape("ignore", trees.SQUARE)], ["x"], "no polygon of a target"),
        ([shape("target", [1, 2])], ["x"], "no polygon of a target"),
        ([shape("target", trees.SQUARE)], [], "no text"),
        ([{"label": "target"}], ["x"], "no field 'points'"),
        ([shape("target", trees.SQUARE)], "one text", "expected a list of texts"),
        ([shape("target", trees.SQUARE) | {"shape_type": "circle"}], ["x"], "type 'circle'"),
        ([shape("target", [1, 1, 5, 1, float("inf"), 5])], ["x"], "without an end"),
    ],
)
def test_bad_reasonseg_records(tmp_path, shapes, text, reason) -> None:
    folder = reasonseg(tmp_path, shapes, text)
    trees.photograph(folder / "train/2_a.jpg")
    trees.write_json(
        folder / "train/2_a.json", {"shapes": [shape("t", trees.SQUARE)], "text": ["x"], "is_sentence": True}
    )
    data = open_data("reasonseg", tmp_path, max_bad_fraction=0.5)
    assert [record.record_id for record in data] == ["2_a"]
    assert [bad.record_id for bad in data.bad] == ["1_a"]
    assert reason in data.bad[0].reason
