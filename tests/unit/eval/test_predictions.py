"""The format of predictions: what is read, and what is said of bad lines."""

import json

import numpy as np
import pytest

from pixellm.eval.predictions import Predictions, read_answer, read_predictions
from pixellm.imaging import masks
from pixellm.types import Answer
from tests.support import trees

LINE = {
    "id": "val/7/0",
    "text": "A cup and a jug.",
    "masks": [trees.rle(trees.square()), trees.rle(trees.bar(), False)],
}


def write(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_masks_are_read_compressed_or_not(tmp_path):
    found = read_predictions(write(tmp_path / "p.jsonl", LINE)).answers["val/7/0"]
    assert found.text == LINE["text"]
    assert np.array_equal(found.targets[0].mask, trees.square())
    assert np.array_equal(found.targets[1].mask, trees.bar())
    assert json.loads(json.dumps(found.to_json()))["targets"][1]["segmentation"]["size"] == [30, 40]


def test_round_trip(tmp_path):
    row = {**LINE, "masks": [trees.rle(trees.square())], "spans": [[0, 5]], "scores": [0.5]}
    found = read_answer(row)
    assert (found.targets[0].span, found.targets[0].score, found.original_hw) == ((0, 5), 0.5, (30, 40))
    assert read_answer(json.loads(json.dumps(found.to_json()))) == found
    assert read_predictions(write(tmp_path / "p.jsonl", found.to_json())).answers == {found.id: found}


def test_a_first_line_may_say_how_they_were_made(tmp_path):
    found = read_predictions(write(tmp_path / "p.jsonl", {"fingerprint": {"answers": "by hand"}}, "", LINE))
    assert found.fingerprint == {"answers": "by hand"}
    assert list(found.answers) == ["val/7/0"]


def test_phrases():
    def phrases(text, **fields):
        answer = read_answer({"id": "1", "text": text, "masks": [masks.encode(trees.square())] * 2, **fields})
        assert all(answer.text[slice(*target.span)] == target.phrase for target in answer.targets)
        return [target.phrase for target in answer.targets]

    assert phrases("A cup and a jug.", spans=[[0, 5], [10, 15]]) == ["A cup", "a jug"]
    assert phrases("Sure, the cup {seg} and the jug {seg}.") == ["the cup", "the jug"]
    assert phrases("Two things.") == ["Two things."] * 2
    assert phrases("No {seg} for two") == ["No  for two"] * 2


def test_one_json_value_is_read_as_lines_are(tmp_path):
    """`pixellm ask --json` writes one answer, or a list of several; none has an id."""
    row = read_answer(LINE).to_json()
    row.pop("id")
    for content, ids in ((row, ["1"]), ([row, row], ["1", "2"])):
        path = write(tmp_path / "a.json", json.dumps(content, indent=2))
        assert list(read_predictions(path).answers) == ids


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"height": 31}, "target 0: expected a mask of 31×40 pixels, got 30×40"),
        ({"targets": [{"span": [0, 5]}]}, "target 0: expected the fields span and segmentation, got none called segm"),
        ({"targets": [{"span": [0, 99], "segmentation": LINE["masks"][0]}]}, "target 0: expected a span"),
        ({"text": None}, "expected a text"),
        ({"height": "30"}, "expected the height in pixels"),
        ({"height": 20_000, "width": 20_000, "targets": []}, "expected at most 50 million pixels"),
    ],
)
def test_bad_answers_are_named(tmp_path, change, pattern):
    row = read_answer(LINE).to_json() | change
    with pytest.raises(ValueError, match=f"answer 1: .*{pattern}"):
        read_predictions(write(tmp_path / "p.jsonl", row))


SHORT = {"size": [30, 40], "counts": [5]}


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected a JSON object"),
        ({"id": "1", "text": ""}, "none called masks"),
        ({**LINE, "id": 7}, "expected an id, got '7'"),
        ({**LINE, "masks": {}}, "expected a list of masks"),
        ({**LINE, "masks": [[[1, 2, 3, 4, 5, 6]]]}, "mask 0: expected an RLE"),
        ({**LINE, "masks": [SHORT]}, "mask 0: expected an RLE whose runs add up to 30×40 pixels, got 5"),
        ({**LINE, "masks": [{"size": [30, 40], "counts": "§"}]}, "mask 0: "),
        (
            {**LINE, "masks": [{"counts": "abc"}]},
            "mask 0: expected an RLE with the fields size and counts, got none called size",
        ),
        ({**LINE, "spans": [[0, 5]]}, "expected spans for each of 2 masks, got 1"),
        ({**LINE, "spans": [[0, 5], [3, 99]]}, r"expected a span \[start, end\] in the text of 16 characters"),
        ({**LINE, "spans": [[0, 5], [5, 3]]}, "expected a span"),
        ({**LINE, "scores": [0.5, float("nan")]}, "expected a score in 0..1"),
        ({**LINE, "scores": [0.5, 1.5]}, r"expected a score in 0..1, got 1\.5"),
        (LINE, "expected one answer to each question, got a second one to 'val/7/0'"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, pattern):
    with pytest.raises(ValueError, match=f"line 2: .*{pattern}"):
        read_predictions(write(tmp_path / "p.jsonl", LINE, line))


def test_other_fields_are_left_alone_but_named(tmp_path, caplog):
    found = read_predictions(write(tmp_path / "p.jsonl", {**LINE, "span": [[0, 5]], "seconds": 3}))
    assert [target.phrase for target in found.answers["val/7/0"].targets] == [LINE["text"]] * 2
    assert "fields that nothing reads: seconds, span" in caplog.text


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="expected a file of predictions at"):
        read_predictions(tmp_path / "none.jsonl")
    (tmp_path / "latin").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="expected UTF-8"):
        read_predictions(tmp_path / "latin")


def test_ids_are_compared_with_the_benchmarks():
    predictions = Predictions({"b": Answer("", "", (), (0, 0), id="b")})
    assert predictions.check_ids({"a": None, "b": None, "c": None}) == ["a", "c"]
    with pytest.raises(ValueError, match="got 1 others: b"):
        predictions.check_ids({"a": None})


def test_a_file_without_an_answer(tmp_path):
    with pytest.raises(ValueError, match=r"expected answers in .*, got none"):
        read_predictions(write(tmp_path / "p.jsonl", {"fingerprint": {}}))


def test_a_message_ends_in_one_full_stop(tmp_path):
    with pytest.raises(ValueError, match=r"(?<!\.)\. Mend or remove it\.$"):
        read_predictions(write(tmp_path / "p.jsonl", {**LINE, "masks": [{"size": [30, 40], "counts": "§"}]}))
