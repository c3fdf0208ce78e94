"""Answers on held-out images, counted."""

from dataclasses import replace

import numpy as np
import pytest

from pixellm.eval.validation import ValidationSums, validate
from pixellm.predictor import Predictor
from pixellm.types import Answer, Conversation, Sample, Target
from tests.support import tiny


def box(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((10, 10), dtype=bool)
    mask[rows, columns] = True
    return mask


LEFT, RIGHT, TOP = box(slice(0, 10), slice(0, 5)), box(slice(0, 10), slice(5, 10)), box(slice(0, 5), slice(0, 10))


def answer(*masks: np.ndarray) -> Answer:
    targets = tuple(Target.of_mask("it", (0, 2), mask, 1.0) for mask in masks)
    return Answer("", "", targets, (10, 10), tiny.picture(10, 10))


def test_counts_by_hand() -> None:
    """A half mask has an IoU of 25 / 75 with another one across; a mask missing, and one too many, of 0."""
    found = ValidationSums()
    assert found.count(answer(TOP), np.stack([LEFT])) == pytest.approx(1 / 3)
    assert found.count(answer(RIGHT, LEFT), np.stack([LEFT, RIGHT])) == 1.0  # in any order
    assert found.count(answer(LEFT), np.stack([LEFT, RIGHT])) == 0.5
    assert found.count(answer(LEFT, RIGHT), np.stack([LEFT])) == 0.5
    assert ValidationSums().count(answer(TOP), np.stack([LEFT]), ignored=~(TOP & LEFT)) == 1.0
    nothing = np.zeros((0, 10, 10), dtype=bool)
    assert found.count(answer(), nothing) == 1.0
    assert found.count(answer(LEFT), nothing) == 0.0
    metrics = found.metrics
    assert metrics["giou"] == pytest.approx((1 / 3 + 2 + 1 + 1) / 7, abs=1e-5)
    assert metrics["single_giou"] == pytest.approx((1 / 3 + 1) / 3, abs=1e-5)
    assert metrics["several_giou"] == 0.75
    assert metrics["ciou"] == pytest.approx((25 + 100 + 50 + 50) / (75 + 100 + 100 + 100), abs=1e-5)
    assert metrics["no_target_accuracy"] == 0.5
    assert ValidationSums.of(found.sums).metrics == metrics


def test_without_questions_there_are_no_metrics() -> None:
    assert ValidationSums().metrics == {}


def test_every_question_is_asked(tiny_pair) -> None:
    """But for those that go on from another; the first images' answers are kept."""
    mask = np.ones((1, 30, 40), dtype=bool)
    ask = Conversation("Where is the dog?", "The dog {seg}.", mask)
    talk = replace(ask, question="And the cat?", continues=True)
    samples = [Sample(tiny.picture(40, 30, seed), (ask, ask, talk)) for seed in range(3)]
    found, items = validate(Predictor(*tiny_pair), iter(samples), cards=2)
    assert found.single.pairs >= 6
    assert [item.question for item in items] == [ask.question] * 4
    assert all(item.note.startswith("IoU 0.") for item in items)
