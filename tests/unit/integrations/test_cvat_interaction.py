"""CVAT's interaction function, called with the SDK's own prompts, specification and shapes."""

from types import SimpleNamespace

import numpy as np
import pytest

from pixellm.types import Segmenter
from tests.support.colours import ColourSegmenter, flag, mask_of

pytest.importorskip("cvat_sdk.masks", reason="cvat-sdk[masks] is not installed")

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk.masks import decode_mask

from pixellm.integrations import cvat_interaction

CONTEXT = SimpleNamespace()


@pytest.fixture
def segmenter(monkeypatch):
    segmenter = ColourSegmenter()
    monkeypatch.setattr(cvat_interaction, "connect", lambda model, device: segmenter)
    return segmenter


def prompts(pos=(), neg=(), box=None):
    return SimpleNamespace(pos_points=pos, neg_points=neg, bounding_box=box)


def mask(shapes):
    (shape,) = shapes
    assert isinstance(shape, cvataa.InteractionResultShape)
    assert shape.type == "mask"
    return decode_mask(shape.points, image_width=40, image_height=30)


def test_points_and_a_box(segmenter):
    function = cvat_interaction.create()
    image = flag()
    assert isinstance(function.spec, cvataa.InteractionFunctionSpec)
    red, green = mask_of(image, "red"), mask_of(image, "green")
    shapes = function.detect(CONTEXT, image, prompts([(1.5, 1.5), (10.5, 20.5)]))
    assert np.array_equal(mask(shapes), red | green)
    (score,) = shapes[0].attributes
    assert (score.spec_id, score.value) == (cvataa.InteractionResultAttributes.CONFIDENCE, "0.8000")
    assert np.array_equal(mask(function.detect(CONTEXT, image, prompts([(1, 1), (9, 20)], [(2.0, 2.0)]))), green)
    assert function.detect(CONTEXT, image, prompts([], [(1, 1)])) == []
    assert function.detect(CONTEXT, image, prompts()) == []
    assert segmenter.encoded == 1
    assert np.array_equal(mask(function.detect(CONTEXT, flag().rotate(180), prompts([(39, 29)]))), red[::-1, ::-1])
    assert segmenter.encoded == 2


def test_a_model_without_prompts_is_refused(monkeypatch):
    monkeypatch.setattr(cvat_interaction, "connect", lambda model, device: NoPrompts())
    with pytest.raises(ValueError, match="trained with visual prompts, got other"):
        cvat_interaction.create("other")


class NoPrompts(Segmenter):
    """A system without prompts."""
