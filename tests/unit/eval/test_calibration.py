"""AUROC, ECE, AURC and their curves by hand, and against definitions written out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixellm.eval.calibration import BINS, ScoreTable, bin_of
from pixellm.eval.protocols import PROTOCOLS
from tests.support import cases
from tests.support.cases import answer, pixels, question

RIGHT, HALF, WRONG = pixels(0, 1), pixels(0), pixels(7, 8)


def hand():
    """Three questions with a target and two without: the hand case of docs/evaluation.md."""
    asked = [question([RIGHT], f"val/{n}/0") for n in range(3)] + [question([], f"val/{n}/0") for n in (3, 4)]
    answers = [
        answer([RIGHT], "val/0/0", scores=[0.9]),  # IoU 1
        answer([HALF, WRONG], "val/1/0", scores=[0.6, 0.3]),  # IoU 1/2, and one too many
        answer([], "val/2/0"),  # nothing: score 0
        answer([WRONG], "val/3/0", scores=[0.6]),  # no mask is expected
        answer([], "val/4/0"),
    ]
    return asked, answers


def test_by_hand():
    report = cases.scored(*hand(), name="jsonl")
    found = report.overall.values
    # With a target 0.9, 0.6, 0; without 0.6, 0: of six pairs of questions 2 + 1.5 + 0.5 are in order.
    assert found["auroc"] == pytest.approx(4 / 6)
    # 0.9: 1 of 1 right; 0.6: 1 of 2; 0.3: 0 of 1.
    assert found["ece"] == pytest.approx((1 * 0.1 + 2 * abs(1 / 2 - 0.6) + 1 * 0.3) / 4)
    # Risks 0; 1/2 and 1 in no order: 3/4 each; 1.
    assert found["aurc"] == pytest.approx((0 + (0 + 3 / 4) / 2 + (0 + 3 / 2) / 3 + (0 + 3 / 2 + 1) / 4) / 4)
    assert set(report.overall.intervals) >= {"auroc", "ece", "aurc"}


def test_curves_by_hand():
    curves = cases.scored(*hand(), name="jsonl").to_json()["curves"]
    assert curves["risk_coverage"] == [
        {"min_score": 0.9, "coverage": 0.25, "risk": 0},
        {"min_score": 0.6, "coverage": 0.75, "risk": pytest.approx(0.5)},
        {"min_score": 0.3, "coverage": 1, "risk": pytest.approx(2.5 / 4)},
    ]
    assert curves["roc"] == [
        {"min_score": 0.9, "true_positive_rate": pytest.approx(1 / 3), "false_positive_rate": 0},
        {"min_score": 0.6, "true_positive_rate": pytest.approx(2 / 3), "false_positive_rate": 0.5},
        {"min_score": 0, "true_positive_rate": 1, "false_positive_rate": 1},
    ]
    sure, likely, unlikely = curves["reliability"]
    assert (likely["predictions"], likely["score"], likely["correct"]) == (2, pytest.approx(0.6), 0.5)
    assert (sure["correct"], unlikely["correct"]) == (1, 0)
    assert likely["to"] - likely["from"] == pytest.approx(1 / BINS)
    assert likely["from"] < 0.6 <= likely["to"]


def test_bins_hold_their_upper_end():
    assert bin_of(np.array([0, 0.01, 1 / 15, 0.07, 0.5, 1.0])).tolist() == [0, 0, 0, 1, 7, 14]


def test_presence_scores_count_where_there_are_any():
    asked, answers = hand()
    (target,) = answers[3].targets
    answers[3] = replace(answers[3], targets=(replace(target, presence=0.1),))
    found = cases.scored(asked, answers, name="jsonl").overall.values
    assert found["auroc"] == pytest.approx((2 + 2 + 0.5) / 6)
    assert found["ece"] == pytest.approx((0.1 + 0.4 + 0.3 + 0.1) / 4)


def test_united_masks_are_one_prediction_with_the_highest_score():
    asked = [question([RIGHT], "val/0/0"), question([], "val/1/0")]
    answers = [
        answer([pixels(0), pixels(1)], "val/0/0", scores=[0.8, 0.3]),
        answer([pixels(4), pixels(5)], "val/1/0", scores=[0.1, 0.4]),
    ]
    found = cases.scored(asked, answers, name="grefcoco").overall.values
    assert found["auroc"] == 1
    assert found["ece"] == pytest.approx((0.2 + 0.4) / 2)
    assert found["aurc"] == pytest.approx((0 + 1 / 2) / 2)
    category = [replace(asked[0], kind="category"), replace(asked[1], kind="no-target")]
    found = cases.scored(category, answers, name="coco").overall.values
    assert found["ece"] == pytest.approx((0.2 + 0.1 + 0.4) / 3)  # where none is expected, each mask is a prediction


def test_answers_without_scores_have_no_such_metrics():
    asked, answers = hand()
    some = [*answers[:1], answer([HALF, WRONG], "val/1/0"), *answers[2:]]
    for given_answers in (some, [answer([], "val/0/0")]):
        report = cases.scored(asked, given_answers, name="jsonl")
        assert not {"auroc", "ece", "aurc"} & set(report.overall.values)
        assert "curves" not in report.to_json()
    released = cases.scored(asked[:2], answers[:2], protocol="released")
    assert not {"auroc", "ece", "aurc", "boundary_giou"} & set(released.overall.values)


def test_only_one_kind_of_question_has_no_auroc():
    asked, answers = hand()
    found = cases.scored(asked[:3], answers[:3], name="jsonl").overall.values
    assert "auroc" not in found
    assert set(found) >= {"ece", "aurc"}


def test_masks_below_a_minimum_score_are_left_out():
    report = cases.scored(*hand(), name="jsonl", min_score=0.5)
    whole = cases.scored(*hand(), name="jsonl")
    assert (whole.overall.values["n_acc"], whole.overall.values["giou"]) == (0.5, pytest.approx(1.5 / 4))
    assert report.overall.values["giou"] == pytest.approx(1.5 / 3)
    assert cases.scored(*hand(), name="jsonl", min_score=0.7).overall.values["n_acc"] == 1
    assert report.to_json()["min_score"] == 0.5
    assert "min_score" not in whole.to_json()
    assert "Masks with a score below 0.5 are left out." in report.about
    with pytest.raises(ValueError, match=r"expected a min_score in 0\.\.1, got 7"):
        cases.scored(*hand(), name="jsonl", min_score=7)
    with pytest.raises(ValueError, match="val/1/0: expected a score for every target"):
        cases.scored([question([RIGHT])], [answer([RIGHT])], min_score=0.5)


def test_the_report_has_the_scores_and_their_picture(tmp_path):
    report = cases.scored(*hand(), name="jsonl")
    (line,) = (line for line in report.about if line.startswith("Scores, percent: AUROC 66.7 ("))
    assert "ECE 15.0 (" in line
    assert line in report.markdown()
    assert (tmp_path / "scores.png") in report.write(tmp_path)
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")


# --- against the definitions ---

LEVELS = [0.0, 0.1, 0.25, 0.5, 0.9, 1.0]
PREDICTIONS = st.lists(st.tuples(st.sampled_from(LEVELS), st.sampled_from([0.0, 0.3, 0.5, 1.0])), max_size=3)
QUESTIONS = st.lists(st.tuples(st.booleans(), PREDICTIONS), min_size=1, max_size=7)


def table_of(drawn) -> ScoreTable:
    rows = [(number, *row) for number, (_, predictions) in enumerate(drawn) for row in predictions]
    index, score, iou = np.array(rows, dtype=float).reshape(-1, 3).T
    present = np.array([max((score for score, _ in predictions), default=0.0) for _, predictions in drawn])
    return ScoreTable(present, np.array([has for has, _ in drawn]), index.astype(int), score, iou)


def brute(drawn) -> dict[str, float]:
    """Count every pair of questions and every bin; predictions of equal score have their mean risk."""
    tops = [(has, max((score for score, _ in predictions), default=0.0)) for has, predictions in drawn]
    pairs = [(one, other) for has, one in tops if has for without, other in tops if not without]
    found = {"auroc": np.mean([(a > b) + (a == b) / 2 for a, b in pairs]) if pairs else np.nan}
    rows = [row for _, predictions in drawn for row in predictions]
    if not rows:
        return found | {"ece": np.nan, "aurc": np.nan}
    gaps = dict.fromkeys(range(BINS), 0.0)
    for score, iou in rows:
        (number,) = (b for b in range(BINS) if (b / BINS < score or b == 0) and score <= (b + 1) / BINS)
        gaps[number] += (iou >= 0.5) - score
    means = {level: np.mean([1 - iou for score, iou in rows if score == level]) for level, _ in rows}
    risks = [means[score] for score, _ in sorted(rows, key=lambda row: -row[0])]
    aurc = np.mean([np.mean(risks[:count]) for count in range(1, len(rows) + 1)])
    return found | {"ece": sum(map(abs, gaps.values())) / len(rows), "aurc": aurc}


@settings(max_examples=150)
@given(QUESTIONS, st.data())
def test_equal_to_the_definitions_under_any_weights(drawn, data):
    """A question that was drawn twice counts as two questions."""
    table = table_of(drawn)
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(drawn), max_size=len(drawn)).filter(any))
    found = table.metrics(np.array([weights, [1] * len(drawn)]))
    repeated = [row for row, times in zip(drawn, weights, strict=True) for _ in range(times)]
    for at, rows in enumerate((repeated, drawn)):
        for name, value in brute(rows).items():
            assert found[name][at] == pytest.approx(value, nan_ok=True), name


@settings(max_examples=50)
@given(QUESTIONS.filter(lambda drawn: any(predictions for _, predictions in drawn)))
def test_points_of_curves_are_those_of_their_thresholds(drawn):
    table = table_of(drawn)
    points = table.curves()["risk_coverage"]
    assert points[-1]["coverage"] == 1
    for point in points:
        kept = 1 - table.iou[table.score >= point["min_score"]]
        assert point["coverage"] == pytest.approx(len(kept) / len(table.score))
        assert point["risk"] == pytest.approx(kept.mean())
    for point in table.curves().get("roc", []):
        above = table.present >= point["min_score"]
        assert point["true_positive_rate"] == pytest.approx(above[table.has_target].mean())
        assert point["false_positive_rate"] == pytest.approx(above[~table.has_target].mean())


def test_long_curves_are_thinned():
    rng = np.random.default_rng(0)
    scores = rng.random(5000)
    table = ScoreTable(scores, rng.random(5000) < scores, np.arange(5000), scores, rng.random(5000))
    curves = table.curves()
    assert [len(curves[name]) <= 101 for name in ("risk_coverage", "roc", "reliability")] == [True] * 3
    assert curves["risk_coverage"][-1]["coverage"] == 1
    assert np.diff([point["coverage"] for point in curves["risk_coverage"]]).max() < 0.011


def test_every_protocol_says_what_it_unites():
    asked = question([RIGHT])
    united = {name for name, protocol in PROTOCOLS.items() if protocol.unites(replace(asked, kind="category"))}
    assert united == {"united", "coco"}
    assert not PROTOCOLS["coco"].unites(asked)
