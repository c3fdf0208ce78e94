"""Rows of a training batch: label spans, dialogues, shortening, ignored pixels."""

import numpy as np
import pytest
import torch

from pixellm.model.losses import IGNORE_INDEX, mask_bce, mask_dice
from pixellm.types import Conversation, Sample
from tests.support import tiny

IMAGE = tiny.picture(20, 10)


def masks(count: int) -> np.ndarray:
    """Mask number i has i + 1 pixels."""
    return np.arange(200).reshape(1, 10, 20) <= np.arange(count)[:, None, None]


def sample(*conversations: Conversation) -> Sample:
    return Sample(IMAGE, conversations, "r1")


def test_labels_are_exactly_the_assistants_text(clip_processor) -> None:
    answers = ["The dog {seg} and the cat {seg}.", "Nothing."]
    batch = clip_processor([sample(Conversation("q", answers[0], masks(2)), Conversation("q", answers[1], masks(0)))])
    row, labels = batch.input_ids[0], batch.labels[0]
    learned = labels != IGNORE_INDEX
    assert torch.equal(labels[learned], row[learned])
    spans = [labels[(batch.segment_ids[0] == k) & learned].tolist() for k in (1, 2)]
    assert spans == [clip_processor.answer_ids(answer) for answer in answers]
    texts = [clip_processor.decode_text([i for i in span if i not in clip_processor.codebook_ids]) for span in spans]
    assert texts == ["The dog and the cat.", "Nothing."]


def test_a_dialogue_is_one_conversation(clip_processor) -> None:
    turns = [Conversation(f"q{i}", f"a{i}", masks(0), continues=i > 0) for i in range(3)]
    alone = Conversation("q", "a", masks(0))
    batch = clip_processor([sample(*turns, alone)])
    segments = batch.segment_ids[0].tolist()
    assert sorted(set(segments)) == [0, 1, 2]
    expected = [
        i
        for turn in turns
        for i in (*clip_processor.prompt_ids(turn.question), *clip_processor.answer_ids(turn.answer))
    ]
    assert batch.input_ids[0][batch.segment_ids[0] == 1].tolist() == expected


def parts(processor, conversation: Conversation) -> tuple[int, list[int]]:
    """Tokens before the answer, and the answer's."""
    before = len(processor.prefix_ids) + len(processor.prompt_ids(conversation.question))
    return before, processor.answer_ids(conversation.answer)


def test_long_answers_end_after_a_whole_group(clip_processor) -> None:
    """For every room there is: the answer's beginning up to the last group that fits, and its masks."""
    conversation = Conversation("q", "The dog {seg}, the cat {seg} and the dog {seg} here.", masks(3))
    before, answer = parts(clip_processor, conversation)
    group = clip_processor.codebook_ids
    seen = set()
    for room in range(answer.index(group[0]) + len(group), len(answer) + 1):
        batch = clip_processor([sample(conversation)], max_length=before + room)
        labels = batch.labels[0][batch.labels[0] != IGNORE_INDEX].tolist()
        assert labels == answer[: len(labels)]
        assert len(labels) <= room
        assert room == len(answer) or labels[-len(group) :] == group
        kept = labels.count(group[0])
        assert len(batch.target_masks[0]) == kept
        assert torch.equal(batch.target_masks[0], torch.from_numpy(masks(3)[:kept]))
        seen.add(kept)
    assert seen == {1, 2, 3}


def test_an_answer_without_masks_is_cut_anywhere_and_never_ends(clip_processor) -> None:
    conversation = Conversation("q", "Sure, it is the dog.", masks(0))
    before, answer = parts(clip_processor, conversation)
    batch = clip_processor([sample(conversation)], max_length=before + 3)
    assert batch.labels[0][batch.labels[0] != IGNORE_INDEX].tolist() == answer[:3]


def test_what_comes_after_a_shortened_answer_is_left_out(clip_processor) -> None:
    long = Conversation("q", "The dog {seg} and the cat {seg}.", masks(2))
    late = Conversation("q", "The dog {seg}.", masks(1))
    before, answer = parts(clip_processor, long)
    batch = clip_processor([sample(long, late)], max_length=before + len(answer) - 1)
    assert len(batch.target_masks[0]) == 2
    assert batch.segment_ids.max() == 1
    whole = clip_processor([sample(long, late)], max_length=1000)
    assert torch.equal(whole.input_ids, clip_processor([sample(long, late)]).input_ids)


def test_no_room_at_all_is_an_error(clip_processor) -> None:
    conversation = Conversation("q", "The dog {seg}.", masks(1))
    before, answer = parts(clip_processor, conversation)
    first_end = answer.index(clip_processor.codebook_ids[-1]) + 1
    with pytest.raises(ValueError, match=r"record r1: expected rows of at most .* Raise max_length"):
        clip_processor([sample(conversation)], max_length=before + first_end - 1)
    clip_processor([sample(conversation)], max_length=before + first_end)


def test_ignored_pixels_reach_the_batch(clip_processor) -> None:
    ignored = np.zeros((10, 20), dtype=bool)
    ignored[:, :5] = True
    first = Conversation("q", "{seg} {seg}", masks(2), ignored=ignored)
    second = Conversation("q", "{seg}", masks(1))
    batch = clip_processor([sample(first, second), sample(second)])
    assert [len(one) for one in batch.ignored] == [3, 1]
    assert torch.equal(batch.ignored[0][1], torch.from_numpy(ignored))
    assert not batch.ignored[0][2].any()
    assert clip_processor([sample(second)]).ignored is None


def test_ignored_pixels_change_no_loss(clip_model, clip_processor) -> None:
    """Whatever the target says there, losses and gradients are the same; elsewhere it matters."""
    ignored = np.zeros((10, 20), dtype=bool)
    ignored[:, :5] = True

    def losses(target: np.ndarray) -> tuple[float, float]:
        batch = clip_processor([sample(Conversation("q", "The dog {seg}.", target, ignored=ignored))])
        with torch.no_grad():
            found = clip_model(**{k: v for k, v in vars(batch).items() if v is not None}).losses
        return float(found["bce"]), float(found["dice"])

    target = masks(1)
    assert losses(target) == losses(target | ignored)
    assert losses(target) != losses(target | ~ignored)


def test_weighted_losses_by_hand() -> None:
    logits, target = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[True, False]]])
    keep = torch.tensor([[[1.0, 0.0]]])
    assert mask_bce(logits, target, keep).item() == pytest.approx(np.log(2) / 2)
    assert mask_dice(logits, target, keep).item() == pytest.approx(1 - 2 * 0.5 / 1.5, rel=2e-3)


def test_a_batch_without_a_single_mask_trains(clip_model, clip_processor) -> None:
    batch = clip_processor([sample(Conversation("q", "Nothing.", masks(0)))])
    output = clip_model(**{k: v for k, v in vars(batch).items() if v is not None})
    assert torch.isfinite(output.loss)
    output.loss.backward()
