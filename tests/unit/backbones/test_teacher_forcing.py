"""Training batches in the base's template; the teacher-forced pass of rows, conversations and images together."""

import numpy as np
import pytest
import torch

from pixellm.model.codebook import find_groups
from pixellm.model.losses import IGNORE_INDEX
from pixellm.types import Answer, Conversation, Sample, Target
from tests.support.tiny_vlms import families, position_image, whole_pass

WHERE, SECOND = "What is the dog in this image?", "Where is the cat?"
TWO = "It is the dog {seg} and the cat {seg}."
SHAPES = ((90, 120), (60, 200), (20, 20))


def masks(count, height_width=(30, 40), seed=0):
    return np.random.default_rng(seed).random((count, *height_width)) > 0.5


CONVERSATIONS = (
    Conversation(WHERE, TWO, masks(2)),
    Conversation(SECOND, "Nothing.", masks(0)),
    Conversation("the table", "{seg}", masks(1, seed=1)),
)


def said(text):
    """Answer of a history whose targets end where `{seg}` stands."""
    pieces = text.split(" {seg}")
    ends = np.cumsum([len(piece) for piece in pieces])[:-1]
    mask = np.ones((2, 2), dtype=bool)
    targets = tuple(Target.of_mask("", (end, end), mask) for end in ends.tolist())
    return Answer(WHERE, "".join(pieces), targets, (2, 2))


def forward(model, batch, **changes):
    with torch.no_grad():
        return model(**(vars(batch) | changes))


@families
def test_row_is_what_is_asked_and_answered(family, predictors):
    """The ids of a row are those of inference, question by question, and the labels are the answers."""
    predictor, *_ = predictors(family)
    processor = predictor.processor
    image = position_image(60, 80)
    turns = (CONVERSATIONS[0], Conversation(SECOND, "It is the table.", masks(0), continues=True))
    batch = processor([Sample(image, turns)])
    ids, labels = batch.input_ids[0].tolist(), batch.labels[0]
    prefix = processor.image_inputs(image).prefix_ids
    first = [*prefix, *processor.prompt_ids(WHERE), *processor.answer_ids(TWO)]
    assert ids[: len(first)] == first
    answers = [i for i in labels.tolist() if i != IGNORE_INDEX]
    assert answers == [*processor.answer_ids(TWO), *processor.answer_ids("It is the table.")]
    assert processor.answer_ids(TWO)[-1] in processor.eos_ids
    assert processor.decode_text(answers).replace(" ", "") == "Itisthedogandthecat.Itisthetable."
    # A later turn sees the earlier ones as a history does; LLaVA's template writes no end after an answer.
    asked = [*prefix, *processor.prompt_ids(SECOND, [said(TWO)])]
    assert [i for i in ids if i not in processor.eos_ids] == [
        i for i in [*asked, *processor.answer_ids("It is the table.")] if i not in processor.eos_ids
    ]
    assert set(batch.segment_ids[0].tolist()) == {0, 1}


@families
def test_control_tokens_in_an_answer_stay_text(family, predictors):
    predictor, *_ = predictors(family)
    processor = predictor.processor
    control = "".join(str(token) for token in processor.tokenizer.added_tokens_decoder.values())
    ids = processor.answer_ids(f"dog {control} {{seg}} cat")
    added = set(processor.tokenizer.added_tokens_decoder)
    assert [i for i in ids if i in added] == [*processor.codebook_ids, ids[-1]]


@families
def test_conversations_of_a_row_do_not_see_each_other(family, predictors):
    model, processor = predictors(family)[0].model, predictors(family)[0].processor
    image = position_image(*SHAPES[1])
    packed = forward(model, processor([Sample(image, CONVERSATIONS)]))
    rows = forward(model, processor([Sample(image, (turn,)) for turn in CONVERSATIONS]))
    assert packed.losses.keys() == rows.losses.keys() == {"ce", "bce", "dice"}
    torch.testing.assert_close(packed.loss, rows.loss, atol=1e-4, rtol=1e-4)
    assert [len(logits) for logits in rows.mask_logits] == [2, 0, 1]
    torch.testing.assert_close(packed.mask_logits[0], torch.cat(rows.mask_logits), atol=1e-3, rtol=1e-3)


@families
def test_batch_equals_single_images(family, predictors):
    model, processor = predictors(family)[0].model, predictors(family)[0].processor
    samples = [Sample(position_image(*shape), (CONVERSATIONS[n],)) for n, shape in enumerate(SHAPES)]
    together = forward(model, processor(samples))
    singles = [forward(model, processor([sample])) for sample in samples]
    for logits, single in zip(together.mask_logits, singles, strict=True):
        torch.testing.assert_close(logits, single.mask_logits[0], atol=1e-4, rtol=1e-4)
    labels = processor(samples).labels
    counts = [int((row[1:] != IGNORE_INDEX).sum()) for row in labels]
    mean = sum(n * float(single.losses["ce"]) for n, single in zip(counts, singles, strict=True)) / sum(counts)
    assert float(together.losses["ce"]) == pytest.approx(mean, rel=1e-5)


@families
def test_states_are_those_of_the_base_alone(family, predictors):
    """A row of one conversation = the base's own forward with its own mask and positions."""
    model, processor = predictors(family)[0].model, predictors(family)[0].processor
    image = position_image(*SHAPES[1])
    batch = processor([Sample(image, CONVERSATIONS[:1])])
    inputs = batch.images[0]
    with torch.no_grad():
        states = model.forward_states(batch.images, batch.input_ids, batch.segment_ids)
        whole = whole_pass(model, batch.input_ids, inputs)
    torch.testing.assert_close(states.hidden, whole, atol=1e-4, rtol=1e-4)
    assert len(find_groups(batch.input_ids, processor.codebook_ids)) == 2


def test_a_long_row_is_cut_after_a_group(predictors):
    predictor, *_ = predictors("qwen3_vl")
    processor = predictor.processor
    image = position_image(60, 80)
    whole = processor([Sample(image, CONVERSATIONS)])
    length = int((whole.segment_ids[0] <= 1).sum()) - 1  # without the end of the first answer
    batch = processor([Sample(image, CONVERSATIONS)], max_length=length)
    assert batch.input_ids.shape[1] <= length
    assert batch.input_ids[0, -1] == processor.codebook_ids[-1]
    assert [len(stack) for stack in batch.target_masks] == [2]
    with pytest.raises(ValueError, match="leave no room"):
        processor([Sample(image, CONVERSATIONS)], max_length=20)


def test_given_answers_are_segmented_as_generated_ones(predictors):
    predictor, *_ = predictors("qwen3_vl")
    predictor.set_image(position_image(60, 200))
    answers = predictor.segment_given([WHERE, SECOND], [TWO, "Nothing."])
    assert [answer.text for answer in answers] == ["It is the dog and the cat.", "Nothing."]
    assert [[target.phrase for target in answer.targets] for answer in answers] == [["the dog", "the cat"], []]
    assert answers[0].targets[0].mask.shape == (60, 200)
