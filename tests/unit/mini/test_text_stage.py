"""Scenes as training samples of the language model."""

import random

import pytest
import torch

from pixellm.mini.candidates import UNSURE
from pixellm.mini.scenes import Scene, SceneObject, draw_scene
from pixellm.mini.text_stage import SceneCollator, SceneSamples, SceneTraining, make_sample
from tests.support import tiny

COUNT = 6


def samples(annotated=()) -> SceneSamples:
    return SceneSamples(length=12, questions=3, count=COUNT, annotated=annotated, seed=3)


def test_samples_are_functions_of_seed_and_index() -> None:
    texts = [[(c.question, c.answer) for c in samples()[i].conversations] for i in range(6)]
    assert texts == [[(c.question, c.answer) for c in samples()[i].conversations] for i in range(6)]
    assert len({str(text) for text in texts}) == 6


def test_candidates_are_in_order() -> None:
    """The surest category first, its objects from left to right, and no more than there is room for."""
    for index in range(12):
        rows = samples()[index].candidates
        assert 0 < len(rows) <= COUNT
        keys = [(-row.score, row.category, row.box[0] + row.box[2]) for row in rows]
        assert keys == sorted(keys)
        assert all(0 <= side <= 1 for row in rows for side in row.box)


def test_targets_are_objects_of_the_phrase_before_them() -> None:
    """What a slot means is of one category in most answers, and always exists."""
    rng, checked = random.Random(0), 0
    for _ in range(40):
        scene = draw_scene(rng)
        sample = make_sample(scene, 4, 32, rng)
        slots = sum(conversation.answer.count("{seg}") for conversation in sample.conversations)
        assert slots == len(sample.meant)
        for conversation in sample.conversations:
            if not conversation.continues and conversation.question.startswith("Find the "):
                checked += 1
        assert all(0 <= n < len(sample.candidates) for one in sample.meant for n in one)
        assert all(one for one in sample.meant)
    assert checked


def test_unsure_categories_count_only_where_they_are_named() -> None:
    """None of a sure object's category is unsure; a target of an unsure one is named in its question or answer."""
    rng, found = random.Random(5), 0
    for _ in range(60):
        sample = make_sample(draw_scene(rng), 6, 32, rng)
        scores = {row.category: row.score for row in sample.candidates}
        assert all(score >= UNSURE for score in scores.values())
        meant = iter(sample.meant)
        for conversation in sample.conversations:
            targets = [next(meant) for _ in range(conversation.answer.count("{seg}"))]
            unsure = {sample.candidates[n].category for one in targets for n in one if sample.candidates[n].score < 0}
            found += len(unsure)
            said = f"{conversation.question} {conversation.answer}".lower()
            assert all(category.split()[-1][:3] in said for category in unsure), (unsure, said)
    assert found > 10


def test_annotated_scenes_are_mixed_in() -> None:
    scene = Scene((SceneObject("unicorn", (0.1, 0.1, 0.5, 0.5)),), frozenset(("unicorn", "dog")))
    shown = [{row.category for row in samples([scene])[i].candidates if row.score > 0} for i in range(12)]
    assert 0 < sum("unicorn" in names for names in shown) < 12


@pytest.fixture
def batch(timm_processor):
    scenes = samples()
    return SceneCollator(timm_processor, COUNT)([scenes[0], scenes[1]])


def test_collator_by_hand(batch, timm_processor) -> None:
    rows = samples()[1].candidates
    assert batch["valid"].sum(dim=1).tolist() == [len(samples()[i].candidates) for i in range(2)]
    ids = timm_processor.tokenizer.encode(f" {rows[0].category}", add_special_tokens=False)[:6]
    assert batch["names"][1, 0].tolist() == [*ids, *[-1] * (6 - len(ids))]
    torch.testing.assert_close(batch["boxes"][1, : len(rows)], torch.tensor([row.box for row in rows]))
    targets = [one for i in range(2) for one in samples()[i].meant]
    assert [row.nonzero()[:, 0].tolist() for row in batch["meant"]] == [sorted(set(one)) for one in targets]


def test_training_learns_to_point(batch, timm_model) -> None:
    """A few steps on two scenes lower both losses; gradients reach candidates, pointer and language model."""
    torch.manual_seed(0)
    model = tiny.build(timm_model.config).train()
    training = SceneTraining(model)
    training.centre_pointer(**batch)
    counts, weights = training.count_terms(**batch), model.default_loss_weights
    assert counts["targets"] == len(batch["meant"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(30):
        losses = training(**batch, counts=counts, loss_weights=weights).losses
        history.append({name: loss.item() for name, loss in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert model.pointer.query.weight.grad.abs().sum() > 0
    assert model.candidate_tokens.place[0].weight.grad.abs().sum() > 0
    assert model.vision_encoder.backbone.conv_stem.weight.grad is None
    assert history[-1]["ce"] < history[0]["ce"] * 0.7
    assert history[-1]["pointer"] < history[0]["pointer"] * 0.7
