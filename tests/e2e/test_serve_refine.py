"""Corrections of masks over HTTP: `/v1/refine` of a server with a tiny model that takes prompts."""

import json

import numpy as np
import pytest

from pixellm.export.outlines import filled
from pixellm.imaging import masks
from pixellm.imaging.visual_prompts import Marks
from pixellm.integrations.remote import RemoteSegmenter
from pixellm.segmenter import load
from pixellm.types import Answer, Target
from tests.support import serving, tiny
from tests.support.serving import KEY, MODEL, OTHER_KEY, TOKENS

QUESTION = "table"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return serving.write_refining_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model):
    with serving.serving(model, "--x-anylabeling", "--max-new-tokens", str(TOKENS), keys=(KEY, OTHER_KEY)) as running:
        yield running


@pytest.fixture(scope="module")
def predictor(model):
    predictor = load(model)
    predictor.set_image(tiny.picture(60, 40))
    return predictor


@pytest.fixture(scope="module")
def answer(server):
    files = {"image": ("a.png", serving.png(), "image/png")}
    return server.http.post("/v1/segment", files=files, data={"question": QUESTION}).json()


def refine(server, **fields):
    body = {"image": serving.data_uri(serving.png()), **fields}
    return server.http.post("/v1/refine", json=body)


def near(target):
    """With another number of threads the last bits of a score may differ."""
    return {**target.to_json(), "score": pytest.approx(target.score, abs=2e-4)}


def test_the_target_comes_back_with_another_mask(server, predictor, answer):
    (card,) = server.http.get("/v1/models").json()["data"]
    assert card["takes_prompts"] is True
    target, own = answer["targets"][0], Answer.from_json(answer).targets[0]
    first = refine(server, target=target, points=[[30, 20, 1]]).json()
    expected = predictor.refine(own, points=[(30, 20, 1)])
    assert first == near(expected)
    assert first["segmentation"] != target["segmentation"]
    assert [first[name] for name in ("phrase", "span", "presence")] == [
        target[name] for name in ("phrase", "span", "presence")
    ]
    # All marks so far belong into the next request: the server remembers none.
    stroke = {"points": [[1, 1], [9, 9]], "positive": False}
    second = refine(server, target=first, points=[[30, 20, 1]], box=[2, 2, 50, 30], strokes=[stroke]).json()
    assert second == near(predictor.refine(expected, box=(2, 2, 50, 30), strokes=[([(1, 1), (9, 9)], False)]))


def test_a_form_and_a_mask_from_nothing(server, predictor):
    files = {"image": ("a.png", serving.png(), "image/png")}
    form = {"request": json.dumps({"points": [[30, 20, 1]]})}
    found = server.http.post("/v1/refine", files=files, data=form).json()
    empty = Target.of_mask("", (0, 0), np.zeros((40, 60), dtype=bool))
    assert (found["phrase"], found["span"], masks.read_rle(found["segmentation"])["size"]) == ("", [0, 0], [40, 60])
    assert found == refine(server, points=[[30, 20, 1.0]], target=None).json()
    assert found == near(predictor.refine(empty, points=[(30, 20, 1)]))


def test_images_are_encoded_once_for_questions_and_refinements(server):
    image, hits, misses = (
        serving.data_uri(serving.png(seed=7)),
        *((lambda kind=kind: server.metric(f'pixellm_images_total{{cache="{kind}"}}')) for kind in ("hit", "miss")),
    )
    before = hits(), misses()
    body = {"image": image, "question": QUESTION, "max_tokens": 4}
    target = server.http.post("/v1/segment", json=body).json()["targets"]
    for number in range(3):
        assert refine(server, image=image, points=[[number, 1, 1]]).status_code == 200
    assert (hits() - before[0], misses() - before[1]) == (3, 1)
    assert server.metric('pixellm_answers_total{outcome="refined"}') >= 3
    assert server.metric('pixellm_stage_seconds_count{stage="refine"}') >= 3
    other = {"Authorization": f"Bearer {OTHER_KEY}"}
    server.http.post("/v1/refine", json={"image": image, "points": [[1, 1, 1]]}, headers=other)
    assert misses() - before[1] == 2  # another tenant's is another image
    assert target is not None


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({}, 400, "expected points, a box or strokes"),
        ({"points": [[1, 2]]}, 400, "points.0"),
        ({"points": [[61, 1, 1]]}, 400, "inside the image of 60×40"),
        ({"points": [[1, 1, 2]]}, 400, "positive 1 or 0"),
        ({"points": [[1, 1, 1]] * 257}, 400, "at most 256"),
        ({"strokes": [{"points": [[1, 1], [i % 40, 20]]} for i in range(200)]}, 400, "at most 256 prompt points"),
        ({"box": [1, 1, 0, 0]}, 400, "a box (x, y, width, height)"),
        ({"points": [[1, 1, 1]], "target": {"segmentation": {"size": [30, 60], "counts": "0"}}}, 400, "40×60"),
        ({"points": [[1, 1, 1]], "target": {"segmentation": {"size": [40, 60], "counts": "~~"}}}, 400, "expected"),
        ({"points": [[1, 1, 1]], "image": "data:image/png;base64,AAAA"}, 400, "expected an image"),
        ({"points": [[float(i), 1.0, 1] for i in range(60_000)]}, 413, "expected JSON of at most"),
    ],
)
def test_wrong_requests(server, fields, status, message):
    response = refine(server, **fields)
    assert response.status_code == status
    assert message in response.json()["error"]["message"]


def test_a_key_is_needed_and_forms_are_checked(server):
    assert refine_without_key(server).status_code == 401
    files = {"image": ("a.png", serving.png(), "image/png")}
    assert server.http.post("/v1/refine", files=files).json()["error"]["param"] == "request"
    assert server.http.post("/v1/refine", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415


def refine_without_key(server):
    return server.http.post("/v1/refine", json={}, headers={"Authorization": ""})


def test_a_server_is_refined_as_a_model_is(server, predictor):
    segmenter = RemoteSegmenter(server.url, KEY)
    assert segmenter.takes_prompts
    segmenter.set_image(tiny.picture(60, 40))
    given = segmenter.ask(QUESTION)
    first = segmenter.refine(given, 0, points=[(30, 20, 1)])
    again = segmenter.refine(first, 0, box=(2, 2, 50, 30))
    assert again.targets[1:] == given.targets[1:]
    own = predictor.refine(predictor.refine(given.targets[0], points=[(30, 20, 1)]), box=(2, 2, 50, 30))
    assert again.targets[0].to_json() == near(own)
    assert np.array_equal(again.targets[0].mask, own.mask)
    empty = Target.of_mask("", (0, 0), np.zeros((40, 60), dtype=bool))
    alone = segmenter.refine_in_file(serving.png(), None, Marks([(30, 20, 1)]))
    assert alone.rle == predictor.refine(empty, points=[(30, 20, 1)]).rle
    with pytest.raises(ValueError, match="index of one of the answer's"):
        segmenter.refine(given, 99, points=[(1, 1, 1)])
    with pytest.raises(ValueError, match="400: expected a point inside"):
        segmenter.refine(given.targets[0], points=[(100, 1, 1)])


def predict(server, *marks, epsilon_factor=0.0):
    """What X-AnyLabeling 4.2.1 sends: all marks of an object, after each of them."""
    params = {"conf_threshold": 0.0, "epsilon_factor": epsilon_factor, "marks": list(marks)}
    body = {"model": MODEL, "image": serving.data_uri(serving.png()), "params": params}
    return server.http.post("/x-anylabeling/v1/predict", json=body)


def test_marks_of_x_anylabeling(server, predictor):
    card = server.http.get("/x-anylabeling/v1/models").json()["data"][MODEL]
    assert {"button_add_point", "button_remove_point", "button_add_rect"} <= {row["name"] for row in card["widgets"]}
    plus, minus = ({"type": "point", "data": data, "label": label} for data, label in (([30, 20], 1), ([9, 9], 0)))
    rectangle = {"type": "rectangle", "data": [50, 35, 5, 5], "label": 1}
    target = Target.of_mask("", (0, 0), np.zeros((40, 60), dtype=bool))
    for marks in ({"box": (5, 5, 45, 30)}, {"points": [(30, 20, 1)]}, {"points": [(9, 9, 0)]}):
        target = predictor.refine(target, **marks)
    assert target.area
    shapes = predict(server, plus, minus, rectangle).json()["data"]["shapes"]
    assert {shape["label"] for shape in shapes} == {"AUTOLABEL_OBJECT"}
    assert np.array_equal(filled([np.array(shape["points"]) for shape in shapes], 40, 60), target.mask)
    assert predict(server, minus).json()["data"]["shapes"] == []  # nothing to take away from
    wrong = predict(server, {"type": "rectangle", "data": [1, 1, 9, 9], "label": 0})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "marks")
    assert predict(server, *[plus] * 33).status_code == 400
