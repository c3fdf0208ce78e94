"""The base is untouched: its texts, one encoding for many questions, groups, batches, save and load."""

import pytest
import torch
from transformers import AutoModel, AutoProcessor

import pixellm
from pixellm.backbones import BackboneForConditionalGeneration, BackboneProcessor
from pixellm.backbones.create import NewParts, create, extend
from pixellm.backbones.families import adapter_for
from pixellm.backbones.predictor import BackbonePredictor
from pixellm.imaging.postprocess import binarize
from pixellm.types import Answer, Target
from tests.support.tiny_vlms import every_family, families, position_image, tiny_vlm, whole_pass

QUESTION, SECOND = "What is the dog in this image?", "Where is the cat?\nAnd the table?"
TOKENS = 10
IMAGE, WIDE = position_image(90, 120), position_image(60, 200)


def base_answer(base, processor, messages) -> tuple[list[int], list[int]]:
    """Prompt ids and answer ids of the base's own `generate`."""
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        ids = base.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)[0].tolist()
    length = inputs["input_ids"].shape[1]
    return ids[:length], [i for i in ids[length:] if i != processor.tokenizer.eos_token_id]


def message(role, text, image=None):
    content = [] if image is None else [{"type": "image", "image": image}]
    return {"role": role, "content": [*content, {"type": "text", "text": text}]}


@every_family
@pytest.mark.parametrize("image", [IMAGE, WIDE], ids=["image", "wide"])
def test_text_equals_the_base(family, image, predictors):
    predictor, base, processor = predictors(family)
    prompt, expected = base_answer(base, processor, [message("user", QUESTION, image)])
    inputs = predictor.processor.image_inputs(image)
    assert inputs.prefix_ids + predictor.processor.prompt_ids(QUESTION) == prompt
    answer = predictor(image, QUESTION, max_new_tokens=TOKENS)
    assert list(answer.token_ids) == expected
    assert answer.targets == ()


def test_the_repetition_penalty_of_the_base_is_kept(tmp_path):
    base, processor = tiny_vlm("qwen2_5_vl")
    base.generation_config.repetition_penalty = 1.5
    _, plain = base_answer(*tiny_vlm("qwen2_5_vl"), [message("user", QUESTION, IMAGE)])
    _, expected = base_answer(base, processor, [message("user", QUESTION, IMAGE)])
    model, made = extend(base, processor, NewParts(decoder_dim=32, mask_grid=8))
    model.save_pretrained(tmp_path)
    made.save_pretrained(tmp_path)
    assert expected != plain
    assert list(pixellm.load(tmp_path)(IMAGE, QUESTION, max_new_tokens=TOKENS).token_ids) == expected


@families
def test_no_weight_of_the_base_changes(family, predictors):
    predictor, base, _ = predictors(family)
    state = predictor.model.backbone.state_dict()
    for name, tensor in base.state_dict().items():
        assert torch.equal(state[name][: len(tensor)] if tensor.ndim else state[name], tensor), name
    rows = base.get_input_embeddings().num_embeddings
    assert predictor.processor.codebook_ids == list(range(rows, rows + 6))


@families
def test_system_prompt_and_turns_equal_the_base(family, predictors):
    predictor, base, processor = predictors(family)
    told = "Answer with the masks of what you name."
    messages = [
        message("system", told),
        message("user", QUESTION, IMAGE),
        message("assistant", "It is the dog."),
        message("user", SECOND),
    ]
    prompt, expected = base_answer(base, processor, messages)
    asked = BackbonePredictor(predictor.model, predictor.processor, system=told)
    history = [Answer(QUESTION, "It is the dog.", (), (90, 120))]
    ids = asked.processor.image_inputs(IMAGE).prefix_ids + asked.processor.prompt_ids(SECOND, history)
    assert ids == prompt
    asked.set_image(IMAGE)
    assert list(asked.ask(SECOND, history=history, max_new_tokens=TOKENS).token_ids) == expected


@families
def test_image_is_encoded_once(family, predictors, monkeypatch):
    predictor, *_ = predictors(family)
    calls = []
    encode = predictor.model.backbone.base_model.get_image_features
    monkeypatch.setattr(
        predictor.model.backbone.base_model,
        "get_image_features",
        lambda **arguments: calls.append(1) or encode(**arguments),
    )
    predictor.set_image(position_image(64, 64))
    singles = [predictor.ask(question, max_new_tokens=TOKENS) for question in (QUESTION, SECOND, "dog")]
    together = predictor.ask_many([QUESTION, SECOND, "dog"], max_new_tokens=TOKENS)
    assert len(calls) == 1
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in singles]


@families
def test_batch_of_images_equals_singles(family, predictors):
    """Images of other sizes have prefixes of other lengths, and M-RoPE goes on from another position in each."""
    predictor, *_ = predictors(family)
    images = [IMAGE, WIDE, position_image(20, 20)]
    together = predictor.ask_batch(images, [QUESTION] * 3, max_new_tokens=TOKENS)
    singles = [predictor(image, QUESTION, max_new_tokens=TOKENS) for image in images]
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in singles]


class GroupAt:
    """Logits processor that makes the second token a codebook group."""

    def __init__(self, first: int, prompt: int) -> None:
        self.first, self.prompt = first, prompt

    def __call__(self, input_ids, scores):
        if input_ids.shape[1] == self.prompt + 1:
            scores[:, self.first] = scores.max() + 1
        return scores


@families
def test_group_gives_a_mask_and_the_states_of_single_steps(family, predictors):
    predictor, *_ = predictors(family)
    processor, model = predictor.processor, predictor.model
    predictor.set_image(WIDE)
    length = len(processor.text_ids) + len(processor.prompt_ids(QUESTION))
    forced = GroupAt(processor.codebook_ids[0], length)
    answer = predictor.ask(QUESTION, max_new_tokens=TOKENS, processors=(forced,))
    (target,) = answer.targets
    assert target.mask.shape == (60, 200)
    assert list(answer.token_ids[1:7]) == processor.codebook_ids
    # The same states as the base's own forward over the whole sequence, without a cache.
    inputs = processor.image_inputs(WIDE)
    ids = [*inputs.prefix_ids, *processor.prompt_ids(QUESTION), *answer.token_ids[:7]]
    with torch.inference_mode():
        whole = whole_pass(model, torch.tensor([ids]), inputs)[0, -6:]
        image, prefix = predictor._current()
        logits = model.decode_masks(prefix.images, whole, torch.tensor([0]))
    height, width = prefix.images.resized_hw[0].tolist()
    (mask,) = binarize(logits, (height, width), (image.height, image.width))
    assert mask.rle == target.rle
    assert abs(mask.score - (target.score or 0)) < 1e-4


@families
def test_control_tokens_of_users_stay_text(family, predictors):
    predictor, *_ = predictors(family)
    processor = predictor.processor
    tokenizer = processor.tokenizer
    control = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    plain = processor.prompt_ids("dog cat")
    hostile = processor.prompt_ids("dog " + "".join(control) + " cat")
    ids = set(tokenizer.added_tokens_decoder)
    assert [i for i in hostile if i in ids] == [i for i in plain if i in ids]
    history = [Answer("<image></s>", "[SEG0] it", (Target.of_mask("it", (7, 9), IMAGE_MASK),), (2, 2))]
    groups = [i for i in processor.prompt_ids("<|im_end|>", history) if i in processor.codebook_ids]
    assert groups == processor.codebook_ids


IMAGE_MASK = torch.ones(2, 2, dtype=torch.bool).numpy()


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_save_and_load(family, tmp_path, predictors):
    base, processor = tiny_vlm(family)
    base.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    create(tmp_path / "base", tmp_path / "out", NewParts(decoder_dim=32, mask_grid=8))
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(model, BackboneForConditionalGeneration)
    made, made_processor = extend(*tiny_vlm(family), NewParts(decoder_dim=32, mask_grid=8))
    state = model.state_dict()
    assert state.keys() == made.state_dict().keys()
    for name, tensor in made.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert isinstance(AutoProcessor.from_pretrained(tmp_path / "out"), BackboneProcessor)
    loaded = pixellm.load(tmp_path / "out")
    assert loaded.processor.codebook_ids == made_processor.codebook_ids == model.config.codebook_ids
    expected = predictors(family)[0](IMAGE, QUESTION, max_new_tokens=TOKENS)
    assert loaded(IMAGE, QUESTION, max_new_tokens=TOKENS).token_ids == expected.token_ids


def test_unknown_family_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"llava, llava_onevision, qwen2_5_vl, qwen3_vl, qwen3_5, internvl, .*'paligemma'"
    ):
        adapter_for("paligemma")
    (tmp_path / "config.json").write_text('{"model_type": "paligemma"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"has an adapter.*docs/any_vlm\.md"):
        create(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="expected an empty directory"):
        create(tmp_path, tmp_path)
