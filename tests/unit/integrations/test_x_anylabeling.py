"""Polygons for X-AnyLabeling (its routes: tests/e2e/test_integrations.py)."""

import numpy as np
import pytest

from pixellm.export.outlines import filled, iou
from pixellm.integrations.remote import PromptQuestion
from pixellm.integrations.x_anylabeling import _outline, _shapes
from pixellm.types import Answer, Target

DISC = np.hypot(*np.mgrid[-30:30, -40:40]) < 20
PARTS = np.zeros((20, 30), dtype=bool)
PARTS[2:9, 2:9] = PARTS[5:18, 15:20] = True


def target(mask, score=0.5):
    return Target.of_mask("The disc", (0, 8), mask, score)


def points(shape):
    return np.array(shape.points)


def test_polygons_are_exact_at_the_finest():
    (shape,) = _outline(target(DISC), "disc", 1, 0.0)
    assert np.array_equal(filled([points(shape)], *DISC.shape), DISC)
    assert (shape.label, shape.description, shape.score, shape.group_id) == ("disc", "The disc", 0.5, None)


def test_coarser_polygons_have_fewer_points():
    (fine,), (coarse,) = (_outline(target(DISC), "disc", 1, factor) for factor in (0.0, 0.01))
    assert len(coarse.points) < len(fine.points) / 2
    assert iou(filled([points(coarse)], *DISC.shape), DISC) > 0.9


def test_parts_of_a_target_are_a_group():
    shapes = _outline(target(PARTS), "disc", 7, 0.0)
    assert [shape.group_id for shape in shapes] == [7, 7]
    assert np.array_equal(filled([points(shape) for shape in shapes], *PARTS.shape), PARTS)


@pytest.mark.parametrize(("phrase", "label", "description"), [("mug", "mug", ""), ("", "disc", "The disc.")])
def test_labels_are_phrases_that_were_typed_and_descriptions_answers_to_questions(phrase, label, description):
    empty = target(np.zeros_like(DISC), 0.0)
    answer = Answer("q", "The disc.", (target(DISC), empty), DISC.shape)
    shapes = _shapes([PromptQuestion("q", phrase)], [answer], 0.001)
    assert [shape.label for shape in shapes.shapes] == [label]
    assert shapes.description == description
