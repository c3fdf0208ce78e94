"""Cached decoding = no cache, groups = one by one, batch = singles, shared prefix = a prefix each; every family."""

import pytest
import torch

from pixellm.backbones.predictor import encode_prefix
from pixellm.inference.generation import Decoding, Sampling, generate
from tests.support.tiny_vlms import families, position_image, whole_pass

IMAGES = [position_image(90, 120), position_image(60, 200), position_image(20, 20)]
QUESTIONS = ["What is the dog in this image?", "Where is the cat?", "table"]
# None: the model's own choice. Two groups one after another, then one after words; none; one at once.
PLANS = ("None None {seg} {seg} None the dog {seg} None", "None None None", "{seg} None")


class Write:
    """Logits processor that writes the plan of the question that a row begins with, then the end."""

    def __init__(self, processor, questions, plans) -> None:
        self.group, self.eos = processor.codebook_ids, processor.eos_ids[0]
        self.plans = {}
        for question, plan in zip(questions, plans, strict=True):
            ids: list[int | None] = []
            for word in plan.split():
                text = [] if word in ("None", "{seg}") else processor.answer_ids(word)[:-1]
                ids += [None] if word == "None" else [self.group[0]] if word == "{seg}" else text
            self.plans[tuple([*processor.text_ids, *processor.prompt_ids(question)])] = ids

    def __call__(self, ids, scores):
        row = ids[0].tolist()
        prompt = max((p for p in self.plans if tuple(row[: len(p)]) == p), key=len)
        answer, plan = row[len(prompt) :], self.plans[prompt]
        decisions = len(answer) - answer.count(self.group[0]) * (len(self.group) - 1)
        wanted = plan[decisions] if decisions < len(plan) else self.eos
        forced = torch.full_like(scores, -torch.inf)
        if wanted is None:
            forced = scores.clone()
            forced[:, [*self.group, self.eos]] = -torch.inf
        else:
            forced[:, wanted] = 0
        return forced


def answers(steps, count):
    """Ids and group states of each row."""
    rows = [([], []) for _ in range(count)]
    for step in steps:
        rows[step.row][0].extend(step.ids)
        if step.states is not None:
            rows[step.row][1].append(step.states)
    return rows


def run(predictor, images, questions, plans, joint=True, image_index=None):
    model, processor = predictor.model, predictor.processor
    prefix = encode_prefix(model, [processor.image_inputs(image) for image in images], processor.text_ids)
    prompts = [processor.prompt_ids(question) for question in questions]
    settings = Sampling(max_new_tokens=60, processors=(Write(processor, questions, plans),))
    index = range(len(images)) if image_index is None else image_index
    if joint:
        return answers(generate(model, prefix, index, prompts, processor.eos_ids, settings), len(questions))
    decoding, steps = Decoding(model, processor.eos_ids, joint=False), []
    decoding.join(range(len(questions)), prefix, index, prompts, settings)
    while decoding:
        steps += decoding.step()
    return answers(steps, len(questions))


@families
def test_cache_and_groups_equal_one_pass_of_the_base(family, predictors):
    """The base's own forward over the final ids, without a cache or a mask of ours: choices and group states."""
    predictor, *_ = predictors(family)
    model, processor = predictor.model, predictor.processor
    ((ids, states),) = run(predictor, IMAGES[1:2], QUESTIONS[:1], PLANS[:1])
    inputs = processor.image_inputs(IMAGES[1])
    prompt = [*inputs.prefix_ids, *processor.prompt_ids(QUESTIONS[0])]
    with torch.inference_mode():
        hidden = whole_pass(model, torch.tensor([[*prompt, *ids]]), inputs)[0]
        scores = model.get_output_embeddings()(hidden).float()
        scores[:, [*processor.codebook_ids, processor.eos_ids[0]]] = -torch.inf
    group, free = processor.codebook_ids, [0, 1, 2 + 2 * len(processor.codebook_ids)]
    assert [int(scores[len(prompt) + at - 1].argmax()) for at in free] == [ids[at] for at in free]
    starts = [len(prompt) + at for at, token in enumerate(ids) if token == group[0]]
    assert len(starts) == len(states) == 3
    for start, got in zip(starts, states, strict=True):
        torch.testing.assert_close(got, hidden[start : start + len(group)], atol=2e-4, rtol=1e-3)


@families
@pytest.mark.parametrize("joint", [True, False], ids=["joint", "invariant"])
def test_batch_equals_singles(family, joint, predictors):
    """Images of other sizes, questions of other lengths, answers of other lengths; not joint: bit by bit."""
    predictor, *_ = predictors(family)
    together = run(predictor, IMAGES, QUESTIONS, PLANS, joint)
    singles = [run(predictor, [i], [q], [p], joint)[0] for i, q, p in zip(IMAGES, QUESTIONS, PLANS, strict=True)]
    for (ids, states), (single_ids, single_states) in zip(together, singles, strict=True):
        assert ids == single_ids
        for got, expected in zip(states, single_states, strict=True):
            assert torch.equal(got, expected) if not joint else torch.allclose(got, expected, atol=2e-4, rtol=1e-3)


@families
def test_shared_prefix_equals_one_for_each_question(family, predictors):
    predictor, *_ = predictors(family)
    shared = run(predictor, IMAGES[:1], QUESTIONS, PLANS, joint=False, image_index=[0, 0, 0])
    apart = run(predictor, IMAGES[:1] * 3, QUESTIONS, PLANS, joint=False)
    for (ids, states), (own_ids, own_states) in zip(shared, apart, strict=True):
        assert ids == own_ids
        assert all(torch.equal(got, own) for got, own in zip(states, own_states, strict=True))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "qwen3_5"])
def test_positions_after_an_image_are_kept_for_each_row(family, predictors):
    """What the base keeps on itself (`rope_deltas`, of whatever came last) is not read."""
    predictor, *_ = predictors(family)
    model, processor = predictor.model, predictor.processor
    inputs = [processor.image_inputs(image) for image in IMAGES]
    prefix = encode_prefix(model, inputs, processor.text_ids)
    base, begins = model.backbone.base_model, []
    for image in inputs:
        row = torch.tensor([[*image.prefix_ids, *processor.prompt_ids(QUESTIONS[0])]])
        types = (row == base.config.image_token_id).int()
        positions, delta = base.get_rope_index(
            row, image_grid_thw=image.pixels["image_grid_thw"], mm_token_type_ids=types
        )
        begins.append(int(positions[0, 0, len(image.prefix_ids)]))
        assert begins[-1] == len(image.prefix_ids) + int(delta)
    assert prefix.next_position.tolist() == begins
    assert len(set(begins)) == 3
    expected = run(predictor, IMAGES, QUESTIONS, PLANS)
    base.rope_deltas = torch.full((1, 1), 1000)
    try:
        assert [ids for ids, _ in run(predictor, IMAGES, QUESTIONS, PLANS)] == [ids for ids, _ in expected]
    finally:
        base.rope_deltas = None
