"""One's own data: a JSON object a line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixellm.data.catalogue import open_data
from pixellm.data.jsonl import read_jsonl, split_jsonl
from tests.support import trees

ROW = {"image": "photos/a b.jpg", "question": "What is it?", "answer": "Das Kästchen {seg}.", "masks": [[trees.SQUARE]]}


def write(tmp_path, *rows, newline="\n") -> str:
    path = tmp_path / "my.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text(newline.join(lines) + newline, encoding="utf-8")
    return str(path)


def test_masks_in_every_form(tmp_path) -> None:
    (tmp_path / "masks").mkdir()
    Image.fromarray(trees.bar()).save(tmp_path / "masks/bar.png")
    stored = [[trees.SQUARE, trees.INNER], trees.rle(trees.bar()), trees.rle(trees.bar(), False), "masks/bar.png"]
    row = ROW | {"answer": "{seg} {seg} {seg} {seg}", "masks": stored}
    data = open_data(write(tmp_path, row), tmp_path)
    (exchange,) = data[0].exchanges
    square, *bars = [instance.mask.decode(trees.HEIGHT, trees.WIDTH) for instance in exchange.targets]
    assert np.array_equal(square, trees.square())
    assert all(np.array_equal(bar, trees.bar()) for bar in bars)


def test_lines_about_one_image_are_one_record(tmp_path) -> None:
    rows = [ROW, ROW | {"image": "b.jpg"}, "", ROW | {"question": "And?", "answer": "Nothing.", "masks": [], "id": "x"}]
    data = open_data(write(tmp_path, *rows), tmp_path)
    assert [record.record_id for record in data] == ["photos/a b.jpg", "b.jpg"]
    assert [exchange.question for exchange in data[0].exchanges] == ["What is it?", "And?"]
    assert data[0].image == tmp_path / "photos/a b.jpg"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "Expecting property name"),
        ("[1]", "expected a JSON object"),
        ({**ROW, "mask": []}, "got also mask"),
        ({**ROW, "answer": "none"}, "the answer has 0 {seg} but 1 masks"),
        ({**ROW, "masks": []}, "the answer has 1 {seg} but 0 masks"),
        ({**ROW, "masks": "x.png"}, "expected a list of masks"),
        ({key: value for key, value in ROW.items() if key != "image"}, "no field 'image'"),
        ({**ROW, "question": " "}, "an empty text"),
        ({**ROW, "masks": [[]]}, "expected polygons or an RLE"),
        ({**ROW, "masks": [7]}, "masks[0]: expected polygons or an RLE"),
        ({**ROW, "question": None}, "question: expected a question, got null"),
        (json.dumps({**ROW, "answer": "\udc80 {seg}"}), "answer: expected Unicode text"),
        ({**ROW, "image": 7}, "image: expected an image file, got '7'"),
    ],
)
def test_bad_lines_are_named(tmp_path, row, reason) -> None:
    path = write(tmp_path, ROW, row)
    data = open_data(path, tmp_path, max_bad_fraction=0.5)
    assert [bad.record_id for bad in data.bad] == ["my.jsonl line 2"]
    assert reason in data.bad[0].reason
    with pytest.raises(ValueError, match="1 of 2 records can't be used"):
        open_data(path, tmp_path)


def test_empty_and_absent_files(tmp_path) -> None:
    with pytest.raises(ValueError, match="empty file"):
        open_data(write(tmp_path, ""), tmp_path)
    with pytest.raises(ValueError, match="can't be read"):
        open_data("absent.jsonl", tmp_path)


def test_a_mask_file_of_another_size_is_refused(tmp_path) -> None:
    Image.new("L", (5, 5), 255).save(tmp_path / "m.png")
    data = open_data(write(tmp_path, ROW | {"masks": ["m.png"]}), tmp_path)
    with pytest.raises(ValueError, match="expected a mask of 30×40 pixels"):
        data[0].exchanges[0].targets[0].mask.decode(trees.HEIGHT, trees.WIDTH)


def modes() -> dict[str, Image.Image]:
    mask = Image.fromarray(trees.bar())
    palette = Image.fromarray(trees.bar().astype(np.uint8), "P")
    palette.putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)  # 0 is white, and still no mask
    alpha = Image.new("RGBA", mask.size, (0, 0, 0, 0))
    alpha.paste((255, 255, 255, 255), mask=mask)
    wide = Image.fromarray(np.where(trees.bar(), 300, 0).astype(np.uint16))
    return {"1": mask, "L": mask.convert("L"), "RGB": mask.convert("RGB"), "P": palette, "RGBA": alpha, "I;16": wide}


@pytest.mark.parametrize("mode", modes())
def test_mask_pictures_of_every_mode(tmp_path, mode) -> None:
    modes()[mode].save(tmp_path / "m.png")
    (record,) = open_data(write(tmp_path, ROW | {"masks": ["m.png"]}), tmp_path)
    assert np.array_equal(record.exchanges[0].targets[0].mask.decode(trees.HEIGHT, trees.WIDTH), trees.bar())


def test_line_ends_and_marks_of_other_systems(tmp_path) -> None:
    """A byte-order mark, CRLF, and separators that JSON allows inside a text."""
    path = tmp_path / "my.jsonl"
    row = json.dumps(ROW | {"question": "What\u2028is\u0085it?"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n{row}\r\n".encode())
    (record,) = open_data(str(path), tmp_path)
    assert [e.question for e in record.exchanges] == ["What\u2028is\u0085it?"] * 2


def test_images_are_held_out_whole(tmp_path) -> None:
    (tmp_path / "masks").mkdir()
    Image.fromarray(trees.bar()).save(tmp_path / "masks/bar.png")
    rows = [ROW | {"image": f"{number % 5}.jpg", "masks": ["masks/bar.png"]} for number in range(10)]
    path = tmp_path / "my.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    parts = [read_jsonl(part) for part in split_jsonl(path, 2, tmp_path / "out")]
    again = [read_jsonl(part) for part in split_jsonl(path, 2, tmp_path / "again")]
    assert [len(part) for part in parts] == [3, 2]
    assert [[r.image for r in part] for part in parts] == [[r.image for r in part] for part in again]
    assert {record.image for part in parts for record in part} == {tmp_path / f"{number}.jpg" for number in range(5)}
    assert all(len(record.exchanges) == 2 for part in parts for record in part)
    mask = parts[1][0].exchanges[0].targets[0].mask.decode(trees.HEIGHT, trees.WIDTH)
    assert np.array_equal(mask, trees.bar())


@pytest.mark.parametrize("count", [0, 2, 3])
def test_some_images_have_to_be_left_to_train_on(tmp_path, count) -> None:
    path = Path(write(tmp_path, ROW, ROW | {"image": "b.jpg"}))
    with pytest.raises(ValueError, match="hold out 1 to 1 of the 2 images"):
        split_jsonl(path, count, tmp_path / "out")
    assert not (tmp_path / "out").exists()
