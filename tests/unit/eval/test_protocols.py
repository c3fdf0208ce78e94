"""Protocols by hand and against brute force over bool arrays."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixellm.eval.protocols import choose_protocol
from tests.support import cases
from tests.support.cases import answer, pixels, question

HW = (4, 5)


def overall(*of, **settings):
    return cases.scored(*of, **settings).overall.values


def test_fixed_by_hand():
    """Swapped order, one pixel too many, one target missing, one mask too many."""
    first = question([pixels(0, 1), pixels(4, 5, 6)], "val/1/0")
    second = question([pixels(0, 1), pixels(8, 9)], "val/2/0")
    third = question([pixels(0)], "val/3/0")
    answers = [
        answer([pixels(4, 5, 6), pixels(0, 1, 2)], "val/1/0"),  # IoU 2/3 and 1
        answer([pixels(8)], "val/2/0"),  # missing 0, and 1/2
        answer([pixels(5, 6, 7), pixels(0)], "val/3/0"),  # 1, too many 0
    ]
    found = overall([first, second, third], answers)
    assert found["giou"] == pytest.approx((2 / 3 + 1 + 0 + 1 / 2 + 1 + 0) / 6)
    assert found["ciou"] == pytest.approx((2 + 3 + 0 + 1 + 1 + 0) / (3 + 3 + 2 + 2 + 1 + 3))
    assert found["precision@0.5"] == pytest.approx(4 / 6)
    assert found["precision@0.6"] == pytest.approx(3 / 6)
    assert found["precision@0.9"] == pytest.approx(2 / 6)


def test_fixed_and_empty_masks():
    empty = pixels()
    assert overall([question([pixels(1)])], [answer([empty, pixels(1)])])["giou"] == 0.5  # too many, though empty
    assert overall([question([pixels(1)])], [answer([empty])])["giou"] == 0
    assert overall([question([pixels(1)])], [answer([])])["giou"] == 0
    nothing = cases.scored([question([pixels(1)])], [])
    assert (nothing.overall.values["giou"], nothing.missing) == (0, ("val/1/0",))


def test_no_answer_is_an_answer_without_masks():
    both = [question([pixels(1)], "val/1/0"), question([pixels(2), pixels(3)], "val/2/0")]
    report = cases.scored(both, [answer([pixels(1)])])
    assert report.overall.values["giou"] == pytest.approx(1 / 3)
    assert report.to_json()["missing"] == 1


def test_sizes_must_be_the_images():
    with pytest.raises(ValueError, match=r"val/1/0, mask 0: expected the image's size \[1, 10\]"):
        overall([question([pixels(1)])], [answer([pixels(1, width=9)])])


def test_ordered():
    asked = [question([pixels(0, 1), pixels(5), pixels(7)])]
    found = overall(asked, [answer([pixels(5), pixels(0, 1)])], name="multi-refer", protocol="ordered")
    assert found["giou"] == 0
    found = overall(asked, [answer([pixels(0), pixels(5)])], name="multi-refer", protocol="ordered")
    assert found["giou"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["ciou"] == pytest.approx(2 / (2 + 1 + 1))


def test_united_and_ignored_pixels():
    asked = [question([pixels(0, 1, 2, 3)], ignored=pixels(8, 9))]
    found = overall(asked, [answer([pixels(0, 1), pixels(1, 2), pixels(7, 8, 9)])], name="reasonseg")
    assert found["giou"] == pytest.approx(3 / 5)  # pixel 7 is wrong, 8 and 9 are nothing
    assert found["ciou"] == pytest.approx(3 / 5)


def test_grefcoco_by_hand():
    """A gIoU of 1 for a no-target question answered without a pixel, 0 otherwise; its pixels go into cIoU's union."""
    ids = [f"grefcoco/val/{number}/0" for number in range(5)]
    asked = [
        question([], ids[0]),
        question([], ids[1]),
        question([], ids[2]),
        question([pixels(0, 1)], ids[3]),
        question([pixels(0, 1)], ids[4]),
    ]
    answers = [
        answer([], ids[0]),  # right
        answer([pixels()], ids[1]),  # right: an empty mask has no pixel
        answer([pixels(0, 1, 2)], ids[2]),  # wrong
        answer([pixels(0), pixels(1)], ids[3]),  # both united: 1
        answer([], ids[4]),  # 0
    ]
    found = overall(asked, answers, name="grefcoco")
    assert found["giou"] == pytest.approx((1 + 1 + 0 + 1 + 0) / 5)
    assert found["ciou"] == pytest.approx(2 / (3 + 2 + 2))
    assert found["n_acc"] == pytest.approx(2 / 3)
    assert found["t_acc"] == pytest.approx(1 / 2)
    assert found["precision@0.5"] == pytest.approx(1 / 2)  # of the questions with targets


def test_protocols_belong_to_benchmarks():
    assert choose_protocol("muse", None).name == "fixed"
    assert choose_protocol("grefcoco", None).name == "united"
    with pytest.raises(ValueError, match=r"expected one of refer's \(united\), got 'released'"):
        choose_protocol("refer", "released")


def test_ids_of_no_question_are_refused():
    with pytest.raises(ValueError, match="expected ids of the benchmark's questions, got 1 others: val/9/0"):
        overall([question([pixels(1)])], [answer([], "val/9/0")])


stacks = st.lists(st.lists(st.booleans(), min_size=20, max_size=20), max_size=4).map(
    lambda rows: [np.array(row).reshape(HW) for row in rows]
)


def assignments(count: int, total: int):
    """Every way to pair as many as the smaller side allows."""
    if count <= total:
        yield from (list(enumerate(order)) for order in permutations(range(total), count))
    else:
        yield from ([(p, t) for t, p in enumerate(order)] for order in permutations(range(count), total))


def brute(predicted, targets, order):
    """ΣIoU, ΣI, ΣU of one assignment, by counting pixels."""
    pairs = [(predicted[p], targets[t], True) for p, t in order]
    used = {p for p, _ in order}, {t for _, t in order}
    pairs += [(mask, np.zeros(HW, bool), False) for i, mask in enumerate(predicted) if i not in used[0]]
    pairs += [(np.zeros(HW, bool), mask, False) for i, mask in enumerate(targets) if i not in used[1]]
    iou = intersection = union = 0
    for one, other, matched in pairs:
        both, either = int((one & other).sum()), int((one | other).sum())
        intersection, union = intersection + both, union + either
        iou += (both / either if either else 1.0) if matched else 0.0
    return iou, intersection, union, len(pairs)


@settings(max_examples=60)
@given(st.lists(st.tuples(stacks, stacks.filter(len)), min_size=1, max_size=3))
def test_fixed_equals_brute_force(drawn):
    """ΣIoU is the largest of all assignments, and ΣI and ΣU are those of an assignment that reaches it."""
    total_iou, total_pairs, sums = 0.0, 0, {(0, 0)}
    questions, answers = [], []
    for number, (predicted, targets) in enumerate(drawn):
        questions.append(question(targets, f"val/{number}/0"))
        answers.append(answer(predicted, f"val/{number}/0"))
        every = [brute(predicted, targets, order) for order in assignments(len(predicted), len(targets))]
        best = max(iou for iou, *_ in every)
        total_iou, total_pairs = total_iou + best, total_pairs + every[0][3]
        sums = {(i + a, u + b) for i, u in sums for iou, a, b, _ in every if iou > best - 1e-9}
    found = overall(questions, answers)
    assert found["giou"] == pytest.approx(total_iou / total_pairs)
    ciou = found.get("ciou")
    assert any(ciou is None if not u else ciou == pytest.approx(i / u) for i, u in sums)


@settings(max_examples=60)
@given(st.lists(st.tuples(stacks, stacks, stacks), min_size=1, max_size=4))
def test_united_equals_brute_force(drawn):
    questions, answers, rows = [], [], []
    for number, (predicted, targets, hidden) in enumerate(drawn):
        ignored = np.any([np.zeros(HW, bool), *hidden], axis=0)
        targets = [target & ~ignored for target in targets]
        questions.append(question(targets, f"val/{number}/0", ignored=ignored, hw=HW))
        answers.append(answer(predicted, f"val/{number}/0"))
        one = np.any([np.zeros(HW, bool), *predicted], axis=0) & ~ignored
        other = np.any([np.zeros(HW, bool), *targets], axis=0)
        rows.append((int((one & other).sum()), int((one | other).sum())))
    found = overall(questions, answers, name="reasonseg")
    assert found["giou"] == pytest.approx(np.mean([i / u if u else 1.0 for i, u in rows]))
    union = sum(u for _, u in rows)
    assert found.get("ciou") == (pytest.approx(sum(i for i, _ in rows) / union) if union else None)
