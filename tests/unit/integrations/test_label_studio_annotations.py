"""Label Studio's webhook: brush masks decoded, the annotation of an event as corrections, what is not kept."""

from contextlib import suppress

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pixellm.data.corrections import Correction
from pixellm.imaging import masks
from pixellm.integrations.label_studio import LabelStudioBackend, TaskImages, create_backend, encode_brush
from pixellm.integrations.label_studio_annotations import decode_brush
from tests.support.colours import ColourServer, KeepingServer, flag, flag_file, mask_of
from tests.unit.integrations.test_label_studio import CONFIG, task


class RefusingServer(ColourServer):
    def send_correction(self, correction: Correction, file: bytes) -> dict:
        raise ValueError("expected an answer, got 404. Start it with `pixellm serve --corrections DIR`.")


def region(mask: np.ndarray, *labels: str, **fields) -> dict:
    return {
        **{"from_name": "tag", "to_name": "image", "type": "brushlabels"},
        **{"original_width": mask.shape[1], "original_height": mask.shape[0]},
        "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": list(labels)},
        **fields,
    }


def event(result: list[dict], before: list[dict] | None = None, action: str = "ANNOTATION_CREATED", **fields) -> dict:
    """Label Studio 1.23's message, the fields that matter."""
    prediction = {} if before is None else {"result": before, "model_version": "mini-3", "score": 0.5}
    annotation = {"id": 5, "result": result, "completed_by": 2, "updated_by": 3, "was_cancelled": False, "task": 7}
    annotation |= {"prediction": prediction, **fields}
    return {"action": action, "annotation": annotation, "task": task(), "project": {"label_config": CONFIG}}


def send(message: dict, server: ColourServer | None = None, password: str = ""):
    server = server or KeepingServer()
    backend = LabelStudioBackend(server, TaskImages("http://127.0.0.1:1"))
    return TestClient(create_backend(backend, password)).post("/webhook", json=message)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
def test_masks_come_back(mask):
    assert np.array_equal(decode_brush(encode_brush(mask), *mask.shape), mask)


@given(st.lists(st.integers(0, 255), max_size=40))
def test_any_bytes_are_a_mask_or_an_error(rle):
    with suppress(ValueError):
        assert decode_brush(rle, 3, 4).shape == (3, 4)


def test_the_sdk_encodes_smooth_edges():
    """Its encoder writes values one by one where a run would be longer."""
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")
    alpha = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    rle = brush.encode_rle(np.repeat(alpha.ravel(), 4))
    assert np.array_equal(decode_brush(list(rle), 20, 30), alpha >= 128)


def test_a_submitted_annotation_is_kept():
    red, green = mask_of(flag(), "red"), mask_of(flag(), "green")
    half = green.copy()
    half[:, :20] = False
    server = KeepingServer()
    result = [region(half, "Green"), region(green & ~half, "Green"), {"from_name": "prompt", "value": {"text": ["x"]}}]
    before = [region(half, "Green", score=0.4), region(red, "Red")]
    assert send(event(result, before), server).json() == {"status": "kept", "corrections": 2}
    assert [file for _, file in server.kept] == [flag_file()] * 2
    first, second = (correction for correction, _ in server.kept)
    assert (first.phrase, first.tool, first.user, first.model) == ("Green", "label-studio", "user 3", "mini-3")
    assert np.array_equal(masks.decode(first.mask, 30, 40), green)
    assert np.array_equal(masks.decode(first.before, 30, 40), half)
    assert (second.phrase, masks.area(second.mask)) == ("Red", 0)  # deleted by the annotator
    assert np.array_equal(masks.decode(second.before, 30, 40), red)


def test_regions_without_prediction_or_label():
    server = KeepingServer()
    red = mask_of(flag(), "red")
    noted = region(red, meta={"text": ["the red thing"]})
    updated = event([noted, region(red), region(red, "Green")], action="ANNOTATION_UPDATED")
    assert send(updated, server).json()["corrections"] == 2
    assert [correction.phrase for correction, _ in server.kept] == ["the red thing", "Green"]
    assert all(correction.before is None and not correction.model for correction, _ in server.kept)


def test_what_is_not_kept():
    red = region(mask_of(flag(), "red"), "Red")
    assert send(event([red], was_cancelled=True)).json() == {"status": "kept", "corrections": 0}
    assert send(event([])).json() == {"status": "kept", "corrections": 0}
    assert send({"action": "START_TRAINING", "project": {"id": 1}}).json() == {"status": "ignored"}
    without = send({"action": "ANNOTATION_CREATED", "annotation": {"id": 1}})
    assert (without.status_code, "payload" in without.json()["detail"]) == (400, True)
    red["value"]["rle"] = [1, 2, 3]
    broken = send(event([red]))
    assert (broken.status_code, "brush mask" in broken.json()["detail"]) == (400, True)
    assert send(event([]), password="sesame").status_code == 401


def test_a_server_that_keeps_none(caplog):
    response = send(event([region(mask_of(flag(), "red"), "Red")]), RefusingServer())
    assert response.status_code == 400
    assert "annotation 5 was not kept" in caplog.text
    assert "--corrections DIR" in response.json()["detail"]


def test_a_note_as_a_text_and_a_prediction_as_a_number():
    server = KeepingServer()
    red = mask_of(flag(), "red")
    noted = event([region(red, meta={"text": "the red thing"})], prediction=7)
    assert send(noted, server).json()["corrections"] == 1
    assert [(correction.phrase, correction.before) for correction, _ in server.kept] == [("the red thing", None)]


@pytest.mark.parametrize(
    "changes",
    [{"annotation": [1]}, {"annotation": None}, {"task": {"data": "x"}}, {"project": {"label_config": None}}],
)
def test_events_without_their_parts(changes):
    response = send(event([]) | changes)
    assert (response.status_code, "payload" in response.json()["detail"]) == (400, True)


@pytest.mark.parametrize("result", [5, "text", [1], {"a": 1}])
def test_a_result_that_is_no_list_of_regions(result):
    response = send(event(result))
    assert (response.status_code, "a list of regions" in response.json()["detail"]) == (400, True)
