"""Splits and bootstrap intervals."""

import numpy as np
import pytest

from tests.support import cases
from tests.support.cases import answer, pixels, question


def sample(count: int):
    """Questions for one to five targets, some hit, some missed."""
    rng = np.random.default_rng(0)
    questions, answers = [], []
    for number in range(count):
        total = int(rng.integers(1, 6))
        targets = list(rng.random((total, 8, 9)) > 0.5)
        found = [mask ^ (rng.random((8, 9)) > 0.8) for mask in targets if rng.random() > 0.2]
        questions.append(question(targets, f"val/{number // 2}/{number % 2}", ["cup", "jug"][: total % 3]))
        answers.append(answer(found, f"val/{number // 2}/{number % 2}"))
    return questions, answers


def test_few_and_many_make_up_all():
    report = cases.scored(*sample(40))
    rows = report.splits["targets"]
    assert list(rows) == ["few", "many", "1", "2", "3", "4", "5"]
    assert rows["few"].pairs + rows["many"].pairs == report.overall.pairs
    together = sum(rows[name].values["giou"] * rows[name].pairs for name in ("few", "many"))
    assert together / report.overall.pairs == pytest.approx(report.overall.values["giou"])


def test_area_and_category_leave_masks_too_many_out():
    square, large = np.zeros((200, 200), bool), np.zeros((200, 200), bool)
    square[:20, :20], large[50:, 50:] = True, True
    report = cases.scored([question([square, large], names=["cup", "jug"])], [answer([square, ~large, ~square])])
    area, category = report.splits["area"], report.splits["category"]
    assert list(area) == ["small", "large"]
    assert (area["small"].values["giou"], area["small"].pairs) == (1, 1)
    assert category["cup"].values["ciou"] == 1
    assert category["jug"].values["giou"] == pytest.approx(22500 / 39600)
    assert report.overall.pairs == 3


def test_numbers_are_the_same_every_time_and_in_any_order():
    questions, answers = sample(30)
    first, second = (cases.scored(questions, rows).to_json() for rows in (answers, answers[::-1]))
    assert first == second
    other = cases.scored(questions, answers, seed=1).to_json()
    assert other["overall"]["giou"] == first["overall"]["giou"]
    assert other["overall"]["intervals"] != first["overall"]["intervals"]


def test_intervals_are_those_of_resampled_questions():
    """Against a bootstrap written out: draws of questions, sums of what they add."""
    questions, answers = sample(60)
    report = cases.scored(questions, answers)
    sums = np.array([(sum(p.iou for p in one.pairs), len(one.pairs)) for one in report.scored])
    rng = np.random.default_rng(7)
    draws = [sums[rng.integers(0, 60, 60)].sum(axis=0) for _ in range(4000)]
    expected = np.percentile([iou / pairs for iou, pairs in draws], (2.5, 97.5))
    assert report.overall.intervals["giou"] == pytest.approx(tuple(expected), abs=0.01)


def test_equal_questions_leave_no_doubt():
    questions = [question([pixels(0, 1)], f"val/{n}/0") for n in range(5)]
    report = cases.scored(questions, [answer([pixels(0)], one.id) for one in questions])
    assert report.overall.intervals["giou"] == (0.5, 0.5)


def test_released_counts_by_image():
    report = cases.scored(*sample(10), protocol="released")
    assert report.to_json()["bootstrap"]["units"] == "images"
    assert report.splits.keys() == {"targets"}
