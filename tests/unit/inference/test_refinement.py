"""Corrections of targets by a predictor: what changes, what stays, and what is remembered."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pixellm.imaging.visual_prompts import Prompts
from pixellm.predictor import Predictor
from pixellm.types import Answer, Target
from tests.support import tiny

IMAGE = tiny.picture(60, 40)


def rectangle(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def answer() -> Answer:
    dog = Target.of_mask("The dog", (0, 7), rectangle(5, 5, 25, 20), 0.7)
    cat = Target.of_mask("the cat", (12, 19), rectangle(30, 10, 50, 35), 0.6)
    return Answer(
        "Where?", "The dog and the cat.", (replace(dog, presence=0.4), cat), (40, 60), IMAGE, token_ids=(1, 2)
    )


@pytest.fixture(scope="module")
def refining():
    """A tiny pixellm-mini with random prompts, that remembers what it was asked."""
    predictor = Predictor(tiny.build(tiny.detector_config(refine_width=32)), tiny.tiny_processor(64, 6))
    predictor.set_image(IMAGE)
    return predictor


@pytest.fixture
def asked(refining, monkeypatch) -> list[Prompts]:
    """The prompts of each call; the model's answer is the previous mask and one further row above."""
    found = []

    def refine_mask(images, row, pixels, mask, prompts):
        assert row == 0
        assert torch.equal(pixels, torch.from_numpy(np.array(IMAGE.convert("RGB"))).permute(2, 0, 1))
        found.append(prompts)
        return mask | mask.roll(-1, dims=0), 0.5

    monkeypatch.setattr(refining.model, "refine_mask", refine_mask)
    return found


def test_one_target_changes_and_everything_else_stays(refining, asked):
    before = answer()
    after = refining.refine(before, 1, points=[(31, 9, 1)])
    assert after.targets[0] is before.targets[0]
    assert np.array_equal(after.targets[1].mask, rectangle(30, 9, 50, 35))
    assert after.targets[1].score == 0.5
    assert replace(after.targets[1], rle=before.targets[1].rle, score=0.6) == before.targets[1]
    assert replace(after, targets=before.targets) == before
    assert before == answer()
    alone = refining.refine(before.targets[0], points=[(6, 4, 1)])
    assert (alone.phrase, alone.span, alone.presence) == ("The dog", (0, 7), 0.4)


def test_refining_again_keeps_the_earlier_prompts_through_json(refining, asked):
    target = refining.refine(answer().targets[0], points=[(6, 4, 1)], box=(4, 3, 22, 18))
    row = json.loads(json.dumps(target.to_json()))
    again = refining.refine(Target.from_json(row, "The dog", (40, 60)), points=[(40, 30, 0)])
    assert asked[-1] == Prompts(((6, 4), (40, 30), (4, 3), (26, 21)), (1, 0, 2, 3))
    refining.refine(again, points=[(6, 4, 1)])  # given once more
    assert asked[-1] == Prompts(((6, 4), (40, 30), (4, 3), (26, 21)), (1, 0, 2, 3))
    refining.refine(answer().targets[1], points=[(31, 9, 1)])
    assert len(asked[-1]) == 1  # another target's are not its own


def test_another_image_forgets(refining, asked):
    target = refining.refine(answer().targets[0], points=[(6, 4, 1)])
    refining.set_image(IMAGE)
    refining.refine(target, points=[(7, 4, 1)])
    assert len(asked[-1]) == 1


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        (answer(), {"points": [(1, 1, 1)]}, "index of one of the answer's 2 targets, got None"),
        (answer().targets[0], {}, "points, a box or strokes"),
        (answer().targets[0], {"points": [(61, 1, 1)]}, "inside the image of 60×40"),
        (Target.of_mask("", (0, 0), rectangle(0, 0, 3, 3, (60, 40))), {"points": [(1, 1, 1)]}, "masks are 40×60"),
    ],
)
def test_wrong_requests(refining, target, given, message):
    with pytest.raises(ValueError, match=message):
        refining.refine(target, **given)


def test_a_model_without_trained_prompts_says_so(predictor, detector_model, timm_processor):
    for asked in (predictor, Predictor(detector_model, timm_processor)):
        asked.set_image(IMAGE)
        assert not asked.takes_prompts
        with pytest.raises(ValueError, match="trained with visual prompts"):
            asked.refine(answer(), 0, points=[(1, 1, 1)])


def test_prompts_need_an_image(clip_model, clip_processor):
    with pytest.raises(ValueError, match="set_image"):
        Predictor(clip_model, clip_processor).refine(answer(), 0, points=[(1, 1, 1)])


def test_the_model_itself(refining, tmp_path):
    """Masks of random weights: another prompt gives another mask, the same one the same; so does a saved model."""
    assert refining.takes_prompts
    first, second = (refining.refine(answer(), 0, points=[point]) for point in ((10, 10, 1), (10, 10, 0)))
    assert first.targets[0] != second.targets[0]
    assert refining.refine(answer(), 0, points=[(10, 10, 1)]) == first
    refining.model.save_pretrained(tmp_path)
    loaded = Predictor(type(refining.model).from_pretrained(tmp_path), refining.processor)
    loaded.set_image(IMAGE)
    again = loaded.refine(answer(), 0, points=[(10, 10, 1)])
    assert again.targets[0].rle == first.targets[0].rle
    assert again.targets[0].score == pytest.approx(first.targets[0].score)  # weights may lie elsewhere in memory


def test_texts_are_those_of_a_model_without_prompts(refining):
    """All other weights alike, the refiner changes masks alone."""
    plain = tiny.build(tiny.detector_config())
    missing, unexpected = plain.load_state_dict(refining.model.state_dict(), strict=False)
    assert not missing
    assert all(key.startswith("refiner.") for key in unexpected)
    other = Predictor(plain.eval(), refining.processor)
    other.set_image(IMAGE)
    refining.set_image(IMAGE)
    ours, theirs = (predictor.ask("Where?", max_new_tokens=6) for predictor in (refining, other))
    assert ours.text == theirs.text
    assert ours.token_ids == theirs.token_ids
