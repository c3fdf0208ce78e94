"""Questions of prompts, and a server as a segmenter: what it is sent, and errors (answers: tests/e2e)."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixellm.data.corrections import Correction
from pixellm.imaging import masks
from pixellm.imaging.visual_prompts import Marks
from pixellm.integrations.remote import KEY, RemoteSegmenter, connect, question_about, read_prompt
from pixellm.types import Answer, Target
from tests.support.colours import flag, flag_file, mask_of
from tests.support.stub_server import KEPT, sent_image, stub_server


@pytest.mark.parametrize(
    ("phrase", "question"),
    [
        ("cat", "Segment the cat."),
        ("  traffic   light ", "Segment the traffic light."),
        ("the red cup.", "Segment the red cup."),
        ("every animal", "Segment every animal."),
        ("ant", "Segment the ant."),
        ("theatre", "Segment the theatre."),
    ],
)
def test_question_about_a_phrase(phrase, question):
    assert question_about(phrase) == question


@pytest.mark.parametrize(
    ("prompt", "questions"),
    [
        ("cat", ["Segment the cat."]),
        ("cat, the dog,  ,tea cup", ["Segment the cat.", "Segment the dog.", "Segment the tea cup."]),
        ("What can I ride on, and why?", ["What can I ride on, and why?"]),
        ("segment the cat", ["segment the cat."]),
        ("It is hot. I want to sit in the shade, please.", ["It is hot. I want to sit in the shade, please."]),
        ("island", ["Segment the island."]),
        ("", []),
        (" , . ", []),
    ],
)
def test_questions_of_a_prompt(prompt, questions):
    assert [row.question for row in read_prompt(prompt)] == questions


def test_phrases_of_a_prompt():
    assert [row.phrase for row in read_prompt("cat, the  dog.")] == ["cat", "the dog"]
    assert [row.phrase for row in read_prompt("Where is it?")] == [""]


@given(st.text())
def test_no_question_of_a_prompt_is_empty(prompt):
    assert all(row.question.strip(" .") for row in read_prompt(prompt))


@pytest.fixture
def stub():
    with stub_server() as running:
        yield running


ANSWER = json.dumps({"question": "q", "text": "nothing", "height": 30, "width": 40, "targets": []})


def test_key_and_min_score_are_sent(stub, monkeypatch):
    url, answers, seen = stub
    answers += [(200, ANSWER)] * 2
    RemoteSegmenter(f"{url}/v1/").ask_about_file(flag_file(), "q")
    monkeypatch.setenv(KEY, "secret")
    segmenter = connect(url, min_score=0.5)
    segmenter.set_image(flag())
    assert segmenter.ask("q").image.size == (40, 30)
    (path, key, first), (_, second_key, second) = seen
    assert (path, key, second_key) == ("/v1/segment", None, "Bearer secret")
    assert "min_score" not in first
    assert (second["min_score"], second["question"]) == (0.5, "q")


def refined(*corner):
    target = Target.of_mask("", (0, 0), np.indices((30, 40)).sum(axis=0) < sum(corner), 0.7)
    return 200, json.dumps(target.to_json())


def test_all_marks_of_a_target_are_sent_again(stub):
    url, answers, seen = stub
    answers += [refined(1, 1), refined(2, 2), refined(3, 3), refined(4, 4)]
    segmenter = RemoteSegmenter(url)
    segmenter.set_image(flag())
    before = Target.of_mask("the cat", (3, 10), np.ones((30, 40), dtype=bool), 0.4)
    first = segmenter.refine(before, points=[(1, 2, 1)], box=(0, 0, 9, 9))
    assert (first.phrase, first.span, first.score, first.area) == ("the cat", (3, 10), 0.7, 3)
    answer = Answer("q", "of the cat", (before, first), (30, 40))
    second = segmenter.refine(answer, 1, points=[(3, 4, 0), (1, 2, 1)], strokes=[([(5, 5), (6, 6)], True)])
    assert second.targets[0] is before
    segmenter.refine(before, points=[(1, 2, 1)])
    alone = segmenter.refine_in_file(flag_file(), None, Marks(box=(1, 1, 5, 5)))
    assert (alone.phrase, alone.area) == ("", 36)
    bodies = [body for path, _, body in seen]
    assert [path for path, _, _ in seen] == ["/v1/refine"] * 4
    assert [body["points"] for body in bodies] == [[[1, 2, 1]], [[1, 2, 1], [3, 4, 0]], [[1, 2, 1]], []]
    assert [body["box"] for body in bodies] == [[0, 0, 9, 9], [0, 0, 9, 9], None, [1, 1, 5, 5]]
    assert bodies[1]["strokes"] == [{"points": [[5, 5], [6, 6]], "positive": True}]
    assert bodies[1]["target"] == {"segmentation": first.to_json()["segmentation"]}
    assert "target" not in bodies[3]


def test_a_correction_is_sent(stub):
    url, answers, seen = stub
    answers += [KEPT, (404, '{"error": {"message": "Not Found"}}')]
    mask = masks.encode(mask_of(flag(), "red"))
    correction = Correction("the red", mask, masks.as_text(masks.empty(30, 40)), tool="a tool", owner="not sent")
    assert RemoteSegmenter(url).send_correction(correction, flag_file()) == json.loads(KEPT[1])
    segmenter = RemoteSegmenter(url)
    segmenter.set_image(flag())
    with pytest.raises(ValueError, match=r"404: Not Found Start it with `pixellm serve --corrections DIR`\."):
        segmenter.send_correction(Correction("the red", mask))
    (path, _, first), (_, _, second) = seen
    assert path == "/v1/corrections"
    assert [sent_image(body).tobytes() for body in (first, second)] == [flag().tobytes()] * 2
    fields = {"image": second["image"], "phrase": "the red", "segmentation": dict(mask)}
    assert first == fields | {"tool": "a tool", "before": dict(correction.before), "image": first["image"]}
    assert second == fields


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((400, '{"error": {"message": "expected a question."}}'), "400: expected a question"),
        ((502, "<html>"), "502: Bad Gateway"),
        ((200, "<html>"), "got something else"),
        ((200, "{}"), "expected the fields text"),
    ],
)
def test_errors_of_a_server(stub, answer, message):
    url, answers, _ = stub
    answers.append(answer)
    with pytest.raises(ValueError, match=message):
        RemoteSegmenter(url).ask_about_file(flag_file(), "q")


def test_no_server_no_image_no_address():
    with pytest.raises(ValueError, match="pixellm serve"):
        RemoteSegmenter("http://127.0.0.1:1").ask_about_file(flag_file(), "q")
    with pytest.raises(ValueError, match="set_image"):
        RemoteSegmenter("http://127.0.0.1:1").ask("q")
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        RemoteSegmenter("127.0.0.1:8000")
