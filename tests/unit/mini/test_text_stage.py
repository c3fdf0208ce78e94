"""Scenes as training samples of the language model."""

import random

import pytest
import torch

from pixellm.mini.candidates import UNSURE
from pixellm.mini.scenes import Scene, SceneObject, draw_scene
from pixellm.mini.text_stage import SceneCollator, SceneSamples, SceneTraining, label_weights, make_sample
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


def test_targets_are_candidates() -> None:
    """What a slot means always exists."""
    rng, checked = random.Random(0), 0
    for _ in range(40):
        scene = draw_scene(rng)
        sample = make_sample(scene, 4, 32, rng)
        slots = sum(conversation.answer.count("{seg}") for conversation in sample.conversations)
        assert slots == len(sample.meant)
        checked += slots
        assert all(0 <= n < len(sample.candidates) for one in sample.meant for n in one)
        assert all(one for one in sample.meant)
    assert checked > 100


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


@pytest.fixture(scope="module")
def scenes():
    dogs = [SceneObject("dog", (left, 0.1, left + 0.2, 0.5)) for left in (0.1, 0.4, 0.7)]
    person = SceneObject("person", (0.1, 0.5, 0.5, 0.9))
    return [samples()[0], make_sample(Scene((*dogs, person), frozenset(tiny.VOCABULARY)), 6, COUNT, random.Random(2))]


@pytest.fixture
def batch(timm_processor, scenes):
    return SceneCollator(timm_processor, COUNT, tiny.VOCABULARY)(scenes)


def test_collator_by_hand(batch, timm_processor, scenes) -> None:
    rows = scenes[1].candidates
    assert batch["valid"].sum(dim=1).tolist() == [len(scene.candidates) for scene in scenes]
    ids = timm_processor.tokenizer.encode(f" {rows[0].category}", add_special_tokens=False)[:6]
    assert batch["names"][1, 0].tolist() == [*ids, *[-1] * (6 - len(ids))]
    torch.testing.assert_close(batch["boxes"][1, : len(rows)], torch.tensor([row.box for row in rows]))
    targets = [one for scene in scenes for one in scene.meant]
    assert [row.nonzero()[:, 0].tolist() for row in batch["meant"]] == [sorted(set(one)) for one in targets]
    assert torch.isin(batch["input_ids"], torch.tensor(timm_processor.codebook_ids[1:])).any()
    assert not torch.isin(batch["labels"], torch.tensor(timm_processor.codebook_ids[1:])).any()


def test_marks_tell_of_candidates_except_of_some_names(timm_processor) -> None:
    """Numbers and scores of candidates; more absent names than present ones stay unmarked."""
    scene = Scene(
        (SceneObject("dog", (0.1, 0.1, 0.5, 0.5)), SceneObject("dog", (0.6, 0.1, 0.9, 0.5))), frozenset(("dog",))
    )
    collator = SceneCollator(timm_processor, COUNT, tiny.VOCABULARY)
    rows = []
    for seed in range(200):
        sample = make_sample(scene, 2, COUNT, random.Random(seed))
        counts, scores = collator([sample])["conditioning"][0].chunk(2)
        rows.append(counts)
        own = next(row for row in sample.candidates if row.category == "dog")
        assert scores[0].item() == pytest.approx(own.score)
    dogs, cats = torch.stack(rows)[:, 0], torch.stack(rows)[:, 1]
    assert set(dogs.tolist()) == {-1.0, 2.0}
    assert set(cats.tolist()) <= {-1.0, 0.0, 1.0}
    assert 0.02 < (dogs < 0).float().mean() < 0.15
    assert 0.2 < (cats < 0).float().mean() < 0.4


def test_the_first_labels_of_an_answer_count_more() -> None:
    ignored = -100
    labels = torch.tensor([[ignored, 1, 2, 3, 4, 5, 6, ignored, 7, ignored]])
    assert label_weights(labels).tolist() == [[0, 4, 4, 4, 4, 1, 1, 0, 4, 0]]


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
    assert model.mentions.count.weight.grad.abs().sum() > 0
    assert model.vision_encoder.backbone.conv_stem.weight.grad is None
    assert history[-1]["ce"] < history[0]["ce"] * 0.7
    assert history[-1]["pointer"] < history[0]["pointer"] * 0.7
