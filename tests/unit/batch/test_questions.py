"""Files of questions: every bad line is an item with its reason, and the others are read."""

import json
import re

import pytest

from pixellm.batch.questions import BadQuestion, by_image, read_questions
from pixellm.batch.run import answer
from pixellm.utils.limits import MAX_QUESTION_CHARS
from tests.support import tiny

GOOD = {"image": "0.png", "question": "Where?"}
BAD = {
    "a path too long for the system": ({**GOOD, "image": "a" * 5000}, "a path that can't be read"),
    "a loop of links": ({**GOOD, "image": "loop.png"}, "can't be read|found none"),
    "half a surrogate pair in the path": ({**GOOD, "image": "\ud800.png"}, "half a surrogate pair"),
    "half a surrogate pair in the question": ({**GOOD, "question": "Where\udc80?"}, "at character 5"),
    "a zero byte in the path": ({**GOOD, "image": "\0"}, r"'.*\\x00', found none"),
    "a long question": ({**GOOD, "question": "x" * (MAX_QUESTION_CHARS + 1)}, "at most 2,000 characters, got 2,001"),
    "null": ({**GOOD, "question": None}, "a question in words, got null"),
    "no image": ({"question": "Where?"}, "none called image"),
}


@pytest.fixture
def folder(tmp_path):
    tiny.picture(50, 30, 0).save(tmp_path / "0.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    return tmp_path


@pytest.mark.parametrize(("row", "reason"), BAD.values(), ids=BAD)
def test_one_bad_line(folder, row, reason):
    path = folder / "q.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (GOOD, {**row, "id": "bad"}, {**GOOD, "id": 7})))
    questions, bad = read_questions(path)
    assert [question.id for question in questions] == ["1", "7"]
    (item,) = bad
    assert (item.line, item.id) == (2, "bad")
    assert re.search(reason, item.reason)
    item.reason.encode()  # it is printed


def test_lines_without_an_id_that_can_be_read(folder):
    path, good = folder / "q.jsonl", json.dumps(GOOD).encode()
    lines = [b'\xef\xbb\xbf{"image": "\xff"}', b"[" * 100_000, b"[]", b'{"id": "\\ud800"}', b'{"id": [1]}', good]
    path.write_bytes(b"\n".join(lines))
    questions, bad = read_questions(path)
    assert [question.id for question in questions] == ["6"]
    assert [(item.line, item.id) for item in bad] == [(number, "") for number in range(1, 6)]


def test_ids_of_bad_lines(folder):
    path = folder / "q.jsonl"
    rows = ({**GOOD, "id": "a"}, {**GOOD, "id": "a"}, {"id": 5}, {})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, bad = read_questions(path)
    assert [(item.line, item.id) for item in bad] == [(2, "a"), (3, "5"), (4, "4")]
    assert bad[0] == BadQuestion(2, "a", "the id 'a' was on line 1 already")


def test_a_question_of_many_tokens_is_not_the_others_fault(folder, predictor, monkeypatch):
    monkeypatch.setattr(predictor, "sampling", {"max_new_tokens": 5})
    monkeypatch.setattr(predictor, "max_prompt_tokens", 1024)
    path = folder / "q.jsonl"
    rows = ({**GOOD, "question": "a" + "\u0301" * 1999}, GOOD)  # 2,000 characters of two bytes
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions, bad = read_questions(path)
    assert not bad
    many, good = sorted(answer(predictor, by_image(questions)), key=lambda row: row["id"])
    assert "expected at most 1024 tokens" in many["reason"]
    assert "text" in good
