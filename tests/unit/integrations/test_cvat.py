"""CVAT's detection function, loaded by cvat-cli's loader and run by the SDK's own driver with a task in memory."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from pixellm.imaging import masks
from pixellm.types import Target
from tests.support.colours import ColourSegmenter, flag, mask_of

pytest.importorskip("cvat_sdk.masks", reason="cvat-sdk[masks] is not installed")

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk import models
from cvat_sdk.auto_annotation import driver
from cvat_sdk.masks import decode_mask

from pixellm.integrations import cvat


@pytest.fixture
def annotate(monkeypatch):
    """Run `annotate_task` on a task with one frame; the shapes that it uploads, by the name of their label."""
    names = {101: "red", 102: "sea", 103: "grass"}

    def run(function, **options):
        kind = "polygon" if options.get("conv_mask_to_poly") else "mask"
        labels = [
            models.Label(id=number, name=name, type=kind, attributes=[], sublabels=[]) for number, name in names.items()
        ]
        sample = SimpleNamespace(frame_name="flag.png", frame_index=5, media=SimpleNamespace(load_image=flag))
        monkeypatch.setattr(driver, "TaskDataset", lambda *_, **__: SimpleNamespace(labels=labels, samples=[sample]))
        sent = []
        api = SimpleNamespace(update_annotations=lambda task, labeled_data_request: sent.append(labeled_data_request))
        client = SimpleNamespace(logger=logging.getLogger("cvat"), tasks=SimpleNamespace(api=api))
        cvataa.annotate_task(client, 1, function, clear_existing=True, **options)
        assert all(shape.frame == 5 and shape.source == "auto" for shape in sent[0].shapes)
        return [(names[shape.label_id], shape) for shape in sent[0].shapes]

    return run


@pytest.fixture
def function(monkeypatch):
    monkeypatch.setattr(cvat, "connect", lambda model, min_score, device: ColourSegmenter(min_score))
    return cvat.create("red, grass=green, sea=Where is blue?")


def test_masks(annotate, function):
    (first, red), (second, grass) = annotate(function)
    assert (first, second) == ("red", "grass")
    for shape, colour in ((red, "red"), (grass, "green")):
        decoded = decode_mask(shape.points, image_width=40, image_height=30)
        assert np.array_equal(decoded, mask_of(flag(), colour))
    assert (red.score, grass.score) == (0.9, 0.6)


def test_threshold(annotate, function):
    assert [name for name, _ in annotate(function, conf_threshold=0.7)] == ["red"]


def test_polygons(annotate, function):
    for (_, shape), colour in zip(annotate(function, conv_mask_to_poly=True), ("red", "green"), strict=True):
        assert shape.type.value == "polygon"
        assert np.array_equal(masks.decode([shape.points], 30, 40), mask_of(flag(), colour))


def test_each_part_is_a_polygon(function):
    mask = np.zeros((6, 9), dtype=bool)
    mask[1:3, 1:4] = mask[1:5, 6:8] = True
    shapes = list(function._shapes(0, Target.of_mask("two", (0, 3), mask), as_polygons=True))
    assert len(shapes) == 2
    assert np.array_equal(masks.decode([shape.points for shape in shapes], 6, 9), mask)


def test_an_unknown_confidence_has_no_score(function):
    (shape,) = function._shapes(0, Target.of_mask("x", (0, 1), np.ones((2, 2), dtype=bool)), as_polygons=False)
    assert not hasattr(shape, "score")


def test_the_command_line_loads_it(monkeypatch):
    common = pytest.importorskip("cvat_cli._internal.common", reason="cvat-cli is not installed")
    monkeypatch.setattr(cvat, "connect", lambda *given: given)
    parameters = {"labels": "cat,dog", "model": "http://127.0.0.1:8000", "min_score": 0.5}
    function = common.FunctionLoader("pixellm.integrations.cvat", None, parameters).load()
    assert [label.name for label in function.spec.labels] == ["cat", "dog"]
    assert function._segmenter == ("http://127.0.0.1:8000", 0.5, "cpu")


def test_questions_of_labels():
    assert cvat.parse_labels("cat, traffic light=the red light") == {
        "cat": "Segment the cat.",
        "traffic light": "Segment the red light.",
    }


@pytest.mark.parametrize("labels", ["", "cat,,dog", "cat,cat", "cat=", "=cat"])
def test_wrong_labels(labels):
    with pytest.raises(ValueError, match="expected labels between commas"):
        cvat.parse_labels(labels)
