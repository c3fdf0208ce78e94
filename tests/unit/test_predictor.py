"""Presence scores of a model, and answers without the targets that they make unlikely."""

import numpy as np
import pytest
import torch

from pixellm.predictor import Predictor
from pixellm.types import Done, Target, TextPiece
from tests.support import tiny

IMAGE = tiny.picture(60, 40)
QUESTION = "Where is the dog?"
ANSWER = "The dog {seg}, the cat {seg} and the red apple {seg}."
TEXT = "The dog, the cat and the red apple."
PHRASES = ["The dog", "the cat", "the red apple"]
PRESENCE = (0.9, 0.2, 0.6)


@pytest.fixture
def predictor(clip_model, clip_processor, monkeypatch) -> Predictor:
    """A model that gives the targets of an answer the scores in PRESENCE, in order, whenever it is asked."""
    given = iter(())

    def presence_scores(images, states, image_index, mask_logits):
        nonlocal given
        assert len(states) == len(mask_logits) * len(clip_model.config.codebook_ids)
        assert len(image_index) == len(mask_logits)
        if len(mask_logits) > 1:
            return torch.tensor(PRESENCE).repeat(len(mask_logits) // 3)
        score = next(given, None)
        if score is None:
            given = iter(PRESENCE)
            score = next(given)
        return torch.tensor([score])

    monkeypatch.setattr(clip_model, "presence_scores", presence_scores)
    plans = {QUESTION: tiny.plan_of(clip_processor, ANSWER)}
    predictor = Predictor(clip_model, clip_processor, sampling={"processors": (tiny.Write(clip_processor, plans),)})
    predictor.set_image(IMAGE)
    return predictor


def test_a_model_gives_no_presence_scores_by_itself(clip_model, clip_processor):
    plans = {QUESTION: tiny.plan_of(clip_processor, ANSWER)}
    answer = Predictor(clip_model, clip_processor)(IMAGE, QUESTION, processors=(tiny.Write(clip_processor, plans),))
    assert [target.presence for target in answer.targets] == [None] * 3
    assert [target.confidence for target in answer.targets] == [target.score for target in answer.targets]
    assert not any("presence" in target for target in answer.to_json()["targets"])


def test_presence_scores_go_with_their_targets(predictor):
    answer = predictor.ask(QUESTION)
    assert [target.presence for target in answer.targets] == pytest.approx(PRESENCE)
    assert [target.confidence for target in answer.targets] == pytest.approx(PRESENCE)
    assert [target["presence"] for target in answer.to_json()["targets"]] == list(PRESENCE)
    (given,) = predictor.segment_given([QUESTION], [ANSWER])
    assert [target.presence for target in given.targets] == pytest.approx(PRESENCE)


@pytest.mark.parametrize(("min_score", "kept"), [(0, [0, 1, 2]), (0.19, [0, 1, 2]), (0.5, [0, 2]), (0.7, [0]), (1, [])])
def test_targets_below_the_minimum_are_left_out(predictor, min_score, kept):
    whole = predictor.ask(QUESTION)
    answer = predictor.ask(QUESTION, min_score=min_score)
    assert answer.text == whole.text == TEXT
    assert [target.phrase for target in answer.targets] == [PHRASES[index] for index in kept]
    for target, index in zip(answer.targets, kept, strict=True):
        assert target == whole.targets[index]
        assert answer.text[slice(*target.span)] == PHRASES[index]
    assert answer.token_ids == whole.token_ids


def test_every_way_to_ask_leaves_the_same_targets_out(predictor):
    expected = ["The dog", "the red apple"]

    def phrases(answer):
        assert answer.text == TEXT
        return [target.phrase for target in answer.targets]

    assert phrases(predictor.ask(QUESTION, min_score=0.5)) == expected
    assert phrases(predictor(IMAGE, QUESTION, min_score=0.5)) == expected
    assert phrases(predictor.ask_many([QUESTION], min_score=0.5)[0]) == expected
    assert phrases(predictor.ask_batch([IMAGE], [QUESTION], min_score=0.5)[0]) == expected
    assert phrases(predictor.ask_about([IMAGE], [[QUESTION]], min_score=0.5)[0][0]) == expected
    predictor.min_score = 0.5
    assert phrases(predictor.ask(QUESTION)) == expected
    assert phrases(predictor.ask(QUESTION, min_score=0)) == PHRASES
    assert phrases(predictor.segment_given([QUESTION], [ANSWER])[0]) == expected


def test_a_stream_has_no_event_of_a_target_below_the_minimum(predictor):
    events = list(predictor.stream(QUESTION, min_score=0.5))
    order = "".join(event.text if isinstance(event, TextPiece) else f"<{type(event).__name__}>" for event in events)
    assert order == "The dog<Target>, the cat and the red apple<Target>.<Done>"
    done = events[-1]
    assert isinstance(done, Done)
    assert list(done.answer.targets) == [event for event in events if isinstance(event, Target)]


def test_without_presence_scores_the_masks_probability_counts(clip_model, clip_processor):
    plans = {QUESTION: tiny.plan_of(clip_processor, ANSWER)}
    predictor = Predictor(clip_model, clip_processor, sampling={"processors": (tiny.Write(clip_processor, plans),)})
    predictor.set_image(IMAGE)
    whole = predictor.ask(QUESTION)
    least = float(np.median([target.score for target in whole.targets]))
    kept = [target for target in whole.targets if target.score >= least]
    assert 0 < len(kept) < 3
    assert list(predictor.ask(QUESTION, min_score=least).targets) == kept


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan"), True, "0.5"])
def test_a_minimum_outside_of_0_to_1_is_refused(predictor, clip_model, clip_processor, wrong):
    with pytest.raises(ValueError, match=r"expected a min_score in 0\.\.1, got"):
        predictor.ask(QUESTION, min_score=wrong)
    with pytest.raises(ValueError, match=r"expected a min_score in 0\.\.1, got"):
        Predictor(clip_model, clip_processor, min_score=wrong)
