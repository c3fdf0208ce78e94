"""Cached decoding with whole groups = one token at a time without a cache; batch of N = N singles; whole streams."""

import copy
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from pixellm.inference import batch_invariant, cuda_graphs
from pixellm.inference.generation import Decoding, Sampling, encode_prefix, generate
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.model.modeling import IMAGE_TOKEN_ID
from pixellm.predictor import Predictor
from pixellm.types import Done, Target, TextPiece
from tests.support import tiny

DOG, CAT, APPLE, TABLE = "Where is the dog?", "What is the cat?", "the red apple, please: output the mask", "table"
NO_TARGET, ONE_TARGET = "The cat is here.", "Sure, it is the dog {seg}."
FIVE_TARGETS = "{seg} The dog {seg} and the cat {seg}{seg} are on the table {seg}"


def plan(processor, answer, free_before=2, free_after=2):
    """The model's own choices, then a written answer, then own choices again."""
    return [*[None] * free_before, *tiny.plan_of(processor, answer), *[None] * free_after]


# --- cache and burst = full recomputation, token by token ---


@torch.no_grad()
def decode_plainly(model, processor, image, question, write, max_new_tokens=100):
    """No cache, no bursts: every step runs the whole text, and every id is appended alone."""
    inputs = processor.images([image])
    images = model.encode_images(inputs["pixel_values"], inputs["resized_hw"])
    ids = [*processor.prefix_ids, *processor.prompt_ids(question)]
    prompt_length = len(ids)
    group = processor.codebook_ids
    waiting: list[int] = []  # what is left of a group that has begun
    while True:
        hidden = run_whole_text(model, images, torch.tensor([ids]))
        if waiting:
            ids.append(waiting.pop(0))
        else:
            if len(ids) - prompt_length >= max_new_tokens:
                break
            scores = model.get_output_embeddings()(hidden[None, -1])
            scores[:, group[1:]] = -torch.inf
            text = torch.tensor([[i for i in ids if i != IMAGE_TOKEN_ID]])
            ids.append(int(write(text, scores).argmax()))
            if ids[-1] == processor.eos_ids[0]:
                ids.pop()
                break
            if ids[-1] == group[0]:
                waiting = list(group[1:])
    hidden = run_whole_text(model, images, torch.tensor([ids]))
    starts = [i for i, token in enumerate(ids) if token == group[0]]
    first = 0 if model.config.own_state else -1
    states = [hidden[start + first : start + first + len(group)] for start in starts]
    return ids[prompt_length:], states


def run_whole_text(model, images, ids):
    """Last-layer states (T, D), keys in the padding masked, written out without the package's mask helpers."""
    embeddings = model.get_input_embeddings()(ids.clamp(min=0))
    embeddings[ids == IMAGE_TOKEN_ID] = images.tokens[0]
    if isinstance(model, MiniForConditionalGeneration):
        embeddings[0] += marks(model, images, ids[0].tolist())
    seen = torch.ones(ids.shape[1], ids.shape[1]).tril().bool()
    seen[:, ids[0] == IMAGE_TOKEN_ID] &= images.token_valid[0]
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
    positions = torch.arange(ids.shape[1])[None]
    backbone = model.language_model.model
    output = backbone(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False)
    return output.last_hidden_state[0]


def marks(model, images, ids):
    """What is added where a name ends, (T, D), written out."""
    added = torch.zeros(len(ids), model.config.text_config.hidden_size)
    candidates = images.candidates
    for end in range(1, len(ids) + 1):
        longest = 0
        for name, forms in enumerate(model.config.vocabulary_ids):
            for form in forms:
                if len(form) > longest and ids[max(0, end - len(form)) : end] == form:
                    longest = len(form)
                    own = candidates.valid[0] & (candidates.classes[0] == name)
                    score = float(candidates.scores[0][own].mean().div(6).clamp(-1, 1)) if bool(own.any()) else 0.0
                    count = model.mentions.count.weight[min(int(own.sum()), 8)]
                    added[end - 1] = (count + score * model.mentions.score).detach()
    return added


@pytest.mark.parametrize("own_state", [True, False])
@pytest.mark.parametrize("answer", [NO_TARGET, ONE_TARGET, FIVE_TARGETS], ids=["none", "one", "five"])
def test_cache_and_burst_equal_plain_decoding(tiny_pair, monkeypatch, answer, own_state):
    model, processor = tiny_pair
    monkeypatch.setattr(model.config, "own_state", own_state)
    write = tiny.Write(processor, {DOG: plan(processor, answer)})
    image = tiny.picture(50, 20)  # most of the square is padding
    steps, prefix = run(model, processor, [image], [DOG], write)
    got_ids = [i for step in steps for i in step.ids]
    got_states = [step.states for step in steps if step.states is not None]
    assert not prefix.valid.all()

    ids, states = decode_plainly(model, processor, image, DOG, write)
    assert got_ids == ids
    assert len(got_states) == len(states) == answer.count("{seg}")
    for got, expected in zip(got_states, states, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def run(model, processor, images, questions, *processors, **sampling):
    inputs = processor.images(images)
    prefix = encode_prefix(model, inputs["pixel_values"], inputs["resized_hw"], processor.prefix_ids)
    settings = Sampling(**{"max_new_tokens": 100, "processors": processors} | sampling)
    prompts = [processor.prompt_ids(question) for question in questions]
    return list(generate(model, prefix, range(len(images)), prompts, processor.eos_ids, settings)), prefix


@pytest.mark.parametrize("answer", [ONE_TARGET, FIVE_TARGETS], ids=["one", "five"])
def test_answers_with_transformers_own_attention_are_the_same(clip_model, clip_processor, answer):
    clip_model = copy.deepcopy(clip_model)
    predictor, write = (
        Predictor(clip_model, clip_processor),
        tiny.Write(clip_processor, {DOG: plan(clip_processor, answer)}),
    )
    found = {}
    for attention in ("sdpa", "eager", "pixellm"):
        clip_model.set_attn_implementation(attention)
        predictor.set_image(tiny.picture(50, 20))
        found[attention] = predictor.ask(DOG, processors=(write,))
    for attention in ("sdpa", "eager"):
        assert found[attention].token_ids == found["pixellm"].token_ids
        for one, other in zip(found[attention].targets, found["pixellm"].targets, strict=True):
            assert (one.mask & other.mask).sum() >= 0.999 * (one.mask | other.mask).sum()
            assert one.score == pytest.approx(other.score, abs=1e-4)


def record_on_the_cpu(monkeypatch, room):
    """As on a GPU, but that the pass is computed again where a graph would make its kernels again."""
    recorded = []
    monkeypatch.setattr(cuda_graphs, "recordable", lambda _: True)
    monkeypatch.setattr(cuda_graphs, "record", lambda run, _: recorded.append(run) or run)
    monkeypatch.setattr(cuda_graphs, "SPARE_TOKENS", room)
    monkeypatch.setattr(cuda_graphs, "WARMUP_STEPS", 1)
    return recorded


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("room", [4, 9, 256])
def test_rows_that_come_and_go_while_passes_are_recorded(clip_model, clip_processor, monkeypatch, room, joint):
    image, long, short = tiny.picture(50, 20), "Where is the dog?" * 3, "Where is the dog?"
    inputs = clip_processor.images([image])
    prefix = encode_prefix(clip_model, inputs["pixel_values"], inputs["resized_hw"], clip_processor.prefix_ids)

    def answers():
        decoding, found = Decoding(clip_model, (), joint), []
        # One that stays, one that stays for a while, and many that end in their first step.
        joining = {0: (long, 40), 5: (short, 8)} | {step: (short, 1) for step in range(20, 30)}
        for step in range(40):
            if step in joining:
                text, count = joining[step]
                prompt = clip_processor.prompt_ids(text)
                decoding.join([step], prefix, [0], [prompt], Sampling(max_new_tokens=count))
            found += [(one.row, one.ids) for one in decoding.step()]
        return found

    plain = answers()
    recorded = record_on_the_cpu(monkeypatch, room)
    assert answers() == plain
    assert bool(recorded) == joint


@pytest.mark.parametrize("room", [1, 4, 256])
def test_passes_that_are_recorded_change_nothing(tiny_pair, monkeypatch, room):
    model, processor = tiny_pair
    plans = {DOG: plan(processor, FIVE_TARGETS), CAT: plan(processor, ONE_TARGET), APPLE: plan(processor, NO_TARGET)}
    predictor, write = Predictor(model, processor), tiny.Write(processor, plans)
    predictor.set_image(tiny.picture(50, 20))
    plain = predictor.ask_many(list(plans), processors=(write,))
    recorded = record_on_the_cpu(monkeypatch, room)
    for found, expected in zip(predictor.ask_many(list(plans), processors=(write,)), plain, strict=True):
        assert found.token_ids == expected.token_ids
        for one, other in zip(found.targets, expected.targets, strict=True):
            assert np.array_equal(one.mask, other.mask)
            assert one.score == pytest.approx(other.score, abs=1e-5)
    assert recorded


def test_own_state_is_another_state(clip_model, clip_processor, monkeypatch):
    """Else the two cases of the test above would be one."""
    write = tiny.Write(clip_processor, {DOG: plan(clip_processor, ONE_TARGET)})
    states = []
    for own_state in (True, False):
        monkeypatch.setattr(clip_model.config, "own_state", own_state)
        steps, _ = run(clip_model, clip_processor, [tiny.picture(50, 20)], [DOG], write)
        states += [step.states for step in steps if step.states is not None]
    torch.testing.assert_close(states[0][:-1], states[1][1:])  # shifted by one
    assert not torch.allclose(states[0], states[1], atol=1e-2)


# --- how often the parts run ---


@pytest.fixture
def calls(clip_model):
    """Counts forward passes of the language model, its output layer, and the vision encoder."""
    counter = Counter()
    parts = {
        "llm": clip_model.language_model.base_model,
        "head": clip_model.get_output_embeddings(),
        "vision": clip_model.vision_encoder,
    }
    hooks = [
        module.register_forward_hook(lambda *_, name=name: counter.update([name])) for name, module in parts.items()
    ]
    yield counter
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("answer", [NO_TARGET, ONE_TARGET, FIVE_TARGETS], ids=["none", "one", "five"])
def test_one_pass_for_each_text_token_and_each_group(predictor, clip_processor, calls, answer):
    predictor.set_image(tiny.picture(50, 20))
    assert calls == {"vision": 1, "llm": 1}
    decisions = plan(clip_processor, answer)
    asked = predictor.ask(DOG, processors=(tiny.Write(clip_processor, {DOG: decisions}),))
    assert len(asked.targets) == answer.count("{seg}")
    assert calls == {"vision": 1, "llm": 1 + 1 + len(decisions), "head": 1 + len(decisions)}
    predictor.ask(DOG, processors=(tiny.Write(clip_processor, {DOG: decisions}),))
    assert calls == {"vision": 1, "llm": 1 + 2 * (1 + len(decisions)), "head": 2 * (1 + len(decisions))}


def test_many_questions_share_the_image(predictor, clip_processor, calls):
    plans = {
        DOG: plan(clip_processor, FIVE_TARGETS),
        CAT: plan(clip_processor, ONE_TARGET),
        APPLE: plan(clip_processor, NO_TARGET),
        TABLE: [],
    }
    predictor.set_image(tiny.picture(50, 20))
    answers = predictor.ask_many(list(plans), processors=(tiny.Write(clip_processor, plans),))
    assert [len(a.targets) for a in answers] == [5, 1, 0, 0]
    steps = 1 + max(map(len, plans.values()))  # of all rows together, and so is the choice of their tokens
    assert calls == {"vision": 1, "llm": 1 + steps, "head": steps}
    predictor.ask(CAT, max_new_tokens=1)  # the only token is chosen from the question's own pass
    assert calls == {"vision": 1, "llm": 1 + steps + 1, "head": steps + 1}


# --- groups are complete, and nothing of them stands alone ---


@pytest.mark.parametrize("own_state", [True, False])
@pytest.mark.parametrize("budget", range(1, 9))
def test_a_group_that_began_is_completed(clip_model, clip_processor, monkeypatch, budget, own_state):
    monkeypatch.setattr(clip_model.config, "own_state", own_state)
    group = clip_processor.codebook_ids
    write = tiny.Write(clip_processor, {DOG: [None, group[0], None, group[0], None]})
    steps, _ = run(clip_model, clip_processor, [tiny.picture(50, 20)], [DOG], write, max_new_tokens=budget)
    expected = [1] if budget == 1 else [1, 6] if budget < 8 else [1, 6, 1]
    assert [len(step.ids) for step in steps] == expected
    assert [step.finished for step in steps] == [*[False] * (len(expected) - 1), True]
    for step in steps:
        assert (step.states is not None) == (step.ids == tuple(group))
        assert step.states is None or step.states.shape == (6, 32)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 3}], ids=["greedy", "drawn"])
def test_later_codebook_tokens_are_never_chosen(clip_processor, sampling):
    model = tiny.build(tiny.clip_config())
    group = clip_processor.codebook_ids
    favoured = model.get_output_embeddings().weight.data

    def favour(ids, scores):
        scores = scores.clone()
        scores[:, group[3]] += 1e4
        return scores

    # The head itself favours [SEG3], in whichever direction the state points, and so does a processor.
    favoured[group[3]] = 50 * favoured[: group[0]].abs().mean(0)
    favoured[group[4]] = -favoured[group[3]]
    steps, _ = run(model, clip_processor, [tiny.picture(50, 20)], [DOG], favour, max_new_tokens=40, **sampling)
    assert sum(len(step.ids) for step in steps) >= 1
    for step in steps:
        assert step.ids == tuple(group) or not set(step.ids) & set(group)


# --- together = alone ---


@dataclass
class Case:
    image: object
    question: str
    answer: str


CASES = [
    Case(tiny.picture(50, 20, 1), DOG, FIVE_TARGETS),
    Case(tiny.picture(20, 70, 2), CAT, NO_TARGET),
    Case(tiny.picture(64, 64, 3), APPLE, "The table " * 6 + ONE_TARGET),
    Case(tiny.picture(130, 90, 4), TABLE, "{seg}"),
]
SAMPLINGS = {
    "greedy": {},
    "drawn": {"temperature": 1.0, "seed": 7},
    "top": {"temperature": 1, "top_k": 20, "top_p": 0.9},
}


def same(got, expected):
    assert got.text == expected.text
    assert got.token_ids == expected.token_ids
    assert [(t.phrase, t.span) for t in got.targets] == [(t.phrase, t.span) for t in expected.targets]
    for one, other in zip(got.targets, expected.targets, strict=True):
        assert one.mask.shape == other.mask.shape == (expected.image.height, expected.image.width)
        assert (one.mask != other.mask).mean() < 2e-3  # pixels whose logit is zero but for fp32 noise
        assert one.score == pytest.approx(other.score, abs=1e-4)


@pytest.fixture(params=SAMPLINGS.values(), ids=SAMPLINGS)
def sampling(request):
    return request.param


def test_batch_of_images_equals_singles(tiny_pair, sampling):
    model, processor = tiny_pair
    predictor = Predictor(model, processor)
    write = tiny.Write(processor, {case.question: plan(processor, case.answer, 3, 3) for case in CASES})
    options = {"processors": (write,), **sampling}
    together = predictor.ask_batch([c.image for c in CASES], [c.question for c in CASES], **options)
    assert [len(answer.targets) for answer in together] == [5, 0, 1, 1]
    masks = [target.mask for answer in together for target in answer.targets]
    assert any(0 < mask.mean() < 1 for mask in masks)
    for case, answer in zip(CASES, together, strict=True):
        predictor.set_image(case.image)
        same(answer, predictor.ask(case.question, **options))


def test_many_questions_equal_single_questions(tiny_pair, sampling):
    model, processor = tiny_pair
    predictor = Predictor(model, processor)
    predictor.set_image(CASES[0].image)
    write = tiny.Write(processor, {case.question: plan(processor, case.answer, 3, 3) for case in CASES})
    options = {"processors": (write,), **sampling}
    together = predictor.ask_many([case.question for case in CASES], **options)
    assert [len(answer.targets) for answer in together] == [5, 0, 1, 1]
    for case, answer in zip(CASES, together, strict=True):
        same(answer, predictor.ask(case.question, **options))


def test_states_of_a_batch_equal_those_of_singles(tiny_pair):
    """Sharper than masks: the states themselves, with the shortest rows padded to the longest at every step."""
    model, processor = tiny_pair
    write = tiny.Write(processor, {case.question: plan(processor, case.answer) for case in CASES})
    together, _ = run(model, processor, [c.image for c in CASES], [c.question for c in CASES], write)
    for row, case in enumerate(CASES):
        alone, _ = run(model, processor, [case.image], [case.question], write)
        mine = [step for step in together if step.row == row]
        assert [(s.ids, s.finished) for s in mine] == [(s.ids, s.finished) for s in alone]
        for one, other in zip(mine, alone, strict=True):
            if other.states is not None:
                torch.testing.assert_close(one.states, other.states, atol=1e-4, rtol=1e-4)


def test_the_image_matters(predictor, clip_processor):
    write = tiny.Write(clip_processor, {DOG: plan(clip_processor, ONE_TARGET)})
    first, second = predictor.ask_batch(
        [tiny.picture(50, 50, 1), tiny.picture(50, 50, 2)], [DOG, DOG], processors=(write,)
    )
    assert (first.targets[0].mask != second.targets[0].mask).any()


def test_a_batch_leaves_the_photograph_as_it_is(predictor):
    predictor.set_image(CASES[0].image)
    before = predictor.ask(DOG, max_new_tokens=8)
    predictor.ask_batch([CASES[1].image], [CAT], max_new_tokens=3)
    same(predictor.ask(DOG, max_new_tokens=8), before)


def test_seed(predictor):
    predictor.set_image(CASES[0].image)
    one, again, other = (
        predictor.ask(DOG, max_new_tokens=12, temperature=2.0, seed=seed).token_ids for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other


# --- settings ---


def test_nothing_to_ask(predictor):
    predictor.set_image(CASES[0].image)
    assert predictor.ask_many([]) == []
    assert predictor.ask_batch([], []) == []


def test_wrong_use(predictor):
    with pytest.raises(ValueError, match="set_image"):
        predictor.ask(DOG)
    with pytest.raises(ValueError, match="set_image"):
        next(predictor.stream(DOG))
    with pytest.raises(ValueError, match="one question for each image"):
        predictor.ask_batch([CASES[0].image], [DOG, CAT])
    predictor.set_image(CASES[0].image)
    with pytest.raises(ValueError, match="empty"):
        predictor.ask(" \n")


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 2},
        {"temperature": 1},
        {"temperature": 0.7, "top_k": 5},
        {"temperature": 0.7, "top_p": 0.5},
        {"temperature": 0.7, "top_k": 5, "top_p": 0.5, "repetition_penalty": 1.1, "seed": 5},
    ],
)
def test_sampling_settings_are_accepted(predictor, options):
    predictor.set_image(CASES[0].image)
    answer = predictor.ask(DOG, max_new_tokens=5, **options)
    assert 1 <= len(answer.token_ids) <= 5 + 6


def test_repetition_penalty_makes_used_words_less_likely(predictor):
    """Two words with fixed scores, of which the likelier one stands in the question."""
    predictor.set_image(CASES[0].image)
    prompt = predictor.processor.prompt_ids(DOG)
    used = prompt[0]
    text = {i for i in predictor.processor.prefix_ids if i != IMAGE_TOKEN_ID} | set(prompt)
    new = next(i for i in range(10, 300) if i not in text)

    def two_words(ids, scores):
        fixed = torch.full_like(scores, -torch.inf)
        fixed[:, used], fixed[:, new] = 2.0, 1.0
        return fixed

    options = {"max_new_tokens": 3, "processors": (two_words,)}
    assert predictor.ask(DOG, **options).token_ids == (used, used, used)
    assert predictor.ask(DOG, repetition_penalty=3, **options).token_ids == (new, used, used)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": 1.0, "top_p": 1.5},
        {"temperature": 1.0, "top_k": 0},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -1.0},
    ],
)
def test_bad_sampling_settings(predictor, options):
    predictor.set_image(CASES[0].image)
    with pytest.raises(ValueError, match=next(k for k in reversed(options)).removeprefix("repetition_")):
        predictor.ask(DOG, **options)


def test_lists_that_do_not_end(predictor, clip_processor, monkeypatch):
    """No run of tokens comes twice, groups included, where the caller or else the config says so."""

    class Chair:
        """Wants "the dog {seg}, the dog {seg}, …" for ever."""

        loop = tiny.plan_of(clip_processor, " dog {seg},")

        def __call__(self, ids, scores):
            last = int(ids[0, -1])
            known = [self.loop[(i + 1) % len(self.loop)] for i, token in enumerate(self.loop) if token == last]
            wanted = torch.zeros_like(scores)
            wanted[:, known[0] if known else self.loop[0]] = 10
            return wanted

    def repeats(**options):
        ids = predictor.ask("Go.", processors=(Chair(),), max_new_tokens=90, **options).token_ids
        runs = [ids[i : i + 8] for i in range(len(ids) - 7)]
        return len(runs) - len(set(runs))

    predictor.set_image(CASES[0].image)
    assert repeats() > 50
    assert repeats(no_repeat_ngram_size=8) == 0
    monkeypatch.setattr(type(predictor.model), "default_sampling", {"no_repeat_ngram_size": 8})
    assert repeats() == 0
    assert repeats(no_repeat_ngram_size=0) > 50


def test_own_stopping_criterion(predictor, clip_processor):
    prompt = len(clip_processor.prefix_ids) - 4 + len(clip_processor.prompt_ids(DOG))

    def after_three(ids, scores):
        return torch.tensor([ids.shape[1] >= prompt + 3])

    predictor.set_image(CASES[0].image)
    write = tiny.Write(clip_processor, {DOG: [None] * 10})
    assert len(predictor.ask(DOG, processors=(write,), stopping=(after_three,)).token_ids) == 3


def test_stopping_at_a_group_completes_it(predictor, clip_processor):
    """A criterion that comes true inside a group ends the answer right after it, not at the next text token."""
    begin = len(clip_processor.prefix_ids) - 4 + len(clip_processor.prompt_ids(DOG))

    def after_two(ids, scores):
        return torch.tensor([ids.shape[1] >= begin + 2])

    predictor.set_image(CASES[0].image)
    write = tiny.Write(clip_processor, {DOG: tiny.plan_of(clip_processor, "{seg}{seg} and more")})
    answer = predictor.ask(DOG, processors=(write,), stopping=(after_two,))
    assert list(answer.token_ids) == clip_processor.codebook_ids


# --- other language models ---

OTHER_LLMS = {
    "qwen2": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 8, "head_dim": 8},
    "gpt2": {},
    "gpt_neox": {},
}


@pytest.mark.parametrize("kind", OTHER_LLMS)
def test_other_language_models(kind):
    """Cache and bursts equal plain decoding, also where the language model has attention windows of its own."""
    sizes = tiny.text_config().to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    text = AutoConfig.for_model(kind, **{name: sizes[name] for name in names}, **OTHER_LLMS[kind])
    config = tiny.clip_config()
    config.text_config = text
    model = tiny.build(config)
    processor = tiny.tiny_processor(image_size=56, num_image_tokens=4)
    write = tiny.Write(processor, {DOG: plan(processor, FIVE_TARGETS)})
    image = tiny.picture(50, 20)
    steps, _ = run(model, processor, [image], [DOG], write)
    states = [step.states for step in steps if step.states is not None]
    inputs = processor.images([image])
    images = model.encode_images(inputs["pixel_values"], inputs["resized_hw"])
    ids = [*processor.prefix_ids, *processor.prompt_ids(DOG), *(i for step in steps for i in step.ids)]
    whole = torch.tensor([ids])
    seen = torch.ones(len(ids), len(ids)).tril().bool()
    seen[:, whole[0] == IMAGE_TOKEN_ID] &= images.token_valid[0]
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
    hidden = model.hidden_states(model.embed(whole, images), mask, torch.arange(len(ids))[None])[0]
    starts = [i for i, token in enumerate(ids) if token == processor.codebook_ids[0]]
    assert len(states) == len(starts) == 5
    for got, start in zip(states, starts, strict=True):
        expected = hidden[start : start + len(processor.codebook_ids)]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


# --- streaming ---

ANSWERS = [
    NO_TARGET,
    ONE_TARGET,
    FIVE_TARGETS,
    "",
    "{seg}",
    "Here: 猫 {seg}, 😀😀 {seg}; é{seg}",
    "The dog{seg} and the cat{seg}.",
    "The dog {seg}\nThe cat {seg}.  ",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_stream(tiny_pair, answer):
    model, processor = tiny_pair
    predictor = Predictor(model, processor)
    predictor.set_image(CASES[0].image)
    options = {"processors": (tiny.Write(processor, {DOG: tiny.plan_of(processor, answer)}),)}
    events = list(predictor.stream(DOG, **options))
    assert [isinstance(event, Done) for event in events] == [*[False] * (len(events) - 1), True]
    final = events[-1].answer
    same(final, predictor.ask(DOG, **options))
    assert final.question == DOG
    assert list(final.targets) == [event for event in events if isinstance(event, Target)]
    assert len(final.targets) == answer.count("{seg}")
    assert "\N{REPLACEMENT CHARACTER}" not in final.text

    written = ""
    for event in events:
        if isinstance(event, TextPiece):
            assert event.text
            written += event.text
        elif isinstance(event, Target):
            assert written.rstrip()[slice(*event.span)] == event.phrase  # its words came before it
            assert event.span[1] <= len(written)
    for target in final.targets:
        assert final.text[slice(*target.span)] == target.phrase
    words = "".join(answer.split()).replace("{seg}", "")
    assert "".join(final.text.split()) == words
    starts = [target.span[0] for target in final.targets]
    assert starts == sorted(starts)


@pytest.mark.parametrize("answer", ANSWERS)
def test_streamed_pieces_are_the_text(predictor, clip_processor, answer):
    predictor.set_image(CASES[0].image)
    options = {"processors": (tiny.Write(clip_processor, {DOG: tiny.plan_of(clip_processor, answer)}),)}
    events = list(predictor.stream(DOG, **options))
    pieces = "".join(event.text for event in events if isinstance(event, TextPiece))
    assert pieces.rstrip() == events[-1].answer.text


def test_targets_come_at_their_place_in_the_stream(predictor, clip_processor):
    predictor.set_image(CASES[0].image)
    answer = "The dog {seg} and the cat {seg}."
    options = {"processors": (tiny.Write(clip_processor, {DOG: tiny.plan_of(clip_processor, answer)}),)}
    order = ""
    for event in predictor.stream(DOG, **options):
        order += event.text if isinstance(event, TextPiece) else f"<{type(event).__name__}>"
    assert " ".join(order.split()).replace(" <", "<") == "The dog<Target> and the cat<Target>.<Done>"


def test_a_character_split_over_tokens_is_streamed_whole(predictor, clip_processor):
    assert len(clip_processor.answer_ids("猫")) > 2
    predictor.set_image(CASES[0].image)
    options = {"processors": (tiny.Write(clip_processor, {DOG: tiny.plan_of(clip_processor, "猫😀")}),)}
    pieces = [event.text for event in predictor.stream(DOG, **options) if isinstance(event, TextPiece)]
    assert pieces == ["猫", "😀"]


def test_masks_are_at_the_photographs_size(predictor, clip_processor):
    image = tiny.picture(200, 30)
    predictor.set_image(np.asarray(image))
    options = {"processors": (tiny.Write(clip_processor, {DOG: tiny.plan_of(clip_processor, ONE_TARGET)}),)}
    answer = predictor.ask(DOG, **options)
    (target,) = answer.targets
    assert target.mask.shape == (30, 200)
    assert target.mask.dtype == bool
    assert 0 <= target.score <= 1
    assert answer.to_json()["targets"][0]["area"] == int(target.mask.sum())


# --- rows side by side, each in its own shapes ---


def test_batch_invariant_rows_are_bitwise_identical(tiny_pair):
    """Rows of any length, some of them a whole group, on prefixes of their own."""
    model, processor = tiny_pair
    prompts = [processor.prompt_ids(question) for question in (DOG, TABLE, APPLE)] + [processor.codebook_ids]
    inputs = processor.images([tiny.picture(50, 20)])

    def rows():
        prefixes = [
            encode_prefix(model, inputs["pixel_values"], inputs["resized_hw"], processor.prefix_ids) for _ in prompts
        ]
        parts = []
        for prefix, prompt in zip(prefixes, prompts, strict=True):
            decoding = Decoding(model, processor.eos_ids, joint=False)
            decoding.join([0], prefix, [0], [prompt], Sampling())
            (group,) = decoding._groups
            parts.append(group.state.prepare(model, group.rows))
        return parts

    with torch.inference_mode():
        together = batch_invariant.hidden_states(model, rows())
        alone = [batch_invariant.hidden_states(model, [row])[0] for row in rows()]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))


def test_rows_that_join_later_in_one_matrix(tiny_pair):
    """Another length of context, other columns: the same answers."""
    model, processor = tiny_pair
    inputs = processor.images([tiny.picture(50, 20), tiny.picture(20, 50, seed=1)])
    prefix = encode_prefix(model, inputs["pixel_values"], inputs["resized_hw"], processor.prefix_ids)
    questions = [DOG, CAT, APPLE, TABLE]
    prompts = [processor.prompt_ids(question) for question in questions]
    decoding = Decoding(model, processor.eos_ids)
    found: dict[int, list[int]] = {row: [] for row in range(4)}
    for number in range(60):
        if number in (0, 2, 5, 9):
            row = (0, 2, 5, 9).index(number)
            decoding.join([row], prefix, [row % 2], [prompts[row]], Sampling(max_new_tokens=10 + 5 * row))
        for step in decoding.step():
            found[step.row] += step.ids
    assert not decoding
    for row, prompt in enumerate(prompts):
        steps = generate(model, prefix, [row % 2], [prompt], processor.eos_ids, Sampling(max_new_tokens=10 + 5 * row))
        assert found[row] == [i for step in steps for i in step.ids]
