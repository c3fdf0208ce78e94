"""The format of predictions: what is read, and what is said of bad lines."""

import json

import numpy as np
import pytest

from pixellm.eval.predictions import Prediction, Predictions, read_predictions
from pixellm.imaging import masks
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
    assert np.array_equal(masks.decode(found.masks[0], 30, 40), trees.square())
    assert np.array_equal(masks.decode(found.masks[1], 30, 40), trees.bar())
    assert json.loads(json.dumps(found.to_json()))["masks"][1]["size"] == [30, 40]


def test_round_trip(tmp_path):
    row = {**LINE, "masks": [trees.rle(trees.square())], "spans": [[0, 5]], "scores": [0.5]}
    found = Prediction.from_json(row)
    assert found.to_json() == row
    assert found.spans == ((0, 5),)


def test_a_first_line_may_say_how_they_were_made(tmp_path):
    found = read_predictions(write(tmp_path / "p.jsonl", {"fingerprint": {"answers": "by hand"}}, "", LINE))
    assert found.fingerprint == {"answers": "by hand"}
    assert list(found.answers) == ["val/7/0"]


def test_phrases():
    mask = masks.encode(trees.square())
    spanned = Prediction("1", "A cup and a jug.", (mask, mask), ((0, 5), (10, 15)))
    assert spanned.phrases == ["A cup", "a jug"]
    slots = Prediction("1", "Sure, the cup {seg} and the jug {seg}.", (mask, mask))
    assert slots.phrases == ["the cup", "the jug"]
    assert Prediction("1", "Two things.", (mask, mask)).phrases == ["Two things."] * 2
    assert Prediction("1", "No {seg} for two", (mask, mask)).phrases == ["No  for two"] * 2


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
        ({**LINE, "masks": [{"counts": "abc"}]}, "mask 0: no field 'size'"),
        ({**LINE, "spans": [[0, 5]]}, "expected spans for each of 2 masks, got 1"),
        ({**LINE, "spans": [[0, 5], [3, 99]]}, r"expected a span \[start, end\] in the text of 16 characters"),
        ({**LINE, "spans": [[0, 5], [5, 3]]}, "expected a span"),
        ({**LINE, "scores": [0.5, float("nan")]}, "expected a number as score"),
        (LINE, "expected one answer to each question, got a second one to 'val/7/0'"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, pattern):
    with pytest.raises(ValueError, match=f"line 2: .*{pattern}"):
        read_predictions(write(tmp_path / "p.jsonl", LINE, line))


def test_other_fields_are_left_alone_but_named(tmp_path, caplog):
    found = read_predictions(write(tmp_path / "p.jsonl", {**LINE, "span": [[0, 5]], "seconds": 3}))
    assert found.answers["val/7/0"].spans is None
    assert "fields that nothing reads: seconds, span" in caplog.text


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="expected a file of predictions at"):
        read_predictions(tmp_path / "none.jsonl")
    (tmp_path / "latin").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="expected UTF-8"):
        read_predictions(tmp_path / "latin")


def test_ids_are_compared_with_the_benchmarks():
    predictions = Predictions({"b": Prediction("b", "")})
    assert predictions.check_ids({"a": None, "b": None, "c": None}) == ["a", "c"]
    with pytest.raises(ValueError, match="got 1 others: b"):
        predictions.check_ids({"a": None})
