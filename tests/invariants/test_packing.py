"""Several conversations in one row give what each of them gives alone; padding changes nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pixellm.model.losses import IGNORE_INDEX
from pixellm.model.modeling import IMAGE_TOKEN_ID
from pixellm.model.packing import packed_attention_bias, packed_positions
from pixellm.types import Conversation, Sample
from tests.support import tiny

HEIGHT, WIDTH = 24, 50


def masks(count, seed):
    return np.random.default_rng(seed).random((count, HEIGHT, WIDTH)) > 0.5


CONVERSATIONS = (
    Conversation("Where is the dog?", "The dog {seg} and the cat {seg}{seg} are on the table.", masks(3, 1)),
    Conversation("What?", "Sure.", masks(0, 2)),
    Conversation("the red apple, please: output the mask", "{seg}", masks(1, 3)),
)


def sample(*conversations):
    return Sample(tiny.picture(WIDTH, HEIGHT), conversations)


@torch.no_grad()
def forward(model, batch, **changes):
    return model(**(vars(batch) | changes))


@pytest.mark.parametrize("own_state", [True, False])
def test_packed_row_equals_separate_rows(tiny_pair, monkeypatch, own_state):
    model, processor = tiny_pair
    monkeypatch.setattr(model.config, "own_state", own_state)
    packed = forward(model, processor([sample(*CONVERSATIONS)]))
    rows = forward(model, processor([sample(c) for c in CONVERSATIONS]))
    expected = {"ce", "bce", "dice"}
    assert packed.losses.keys() == rows.losses.keys() == expected
    for name, loss in rows.losses.items():
        torch.testing.assert_close(packed.losses[name], loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed.loss, rows.loss, atol=1e-5, rtol=1e-5)
    assert [len(logits) for logits in rows.mask_logits] == [3, 0, 1]
    torch.testing.assert_close(packed.mask_logits[0], torch.cat(rows.mask_logits), atol=1e-4, rtol=1e-4)


def test_each_conversation_keeps_its_own_loss(tiny_pair):
    model, processor = tiny_pair
    batch = processor([sample(*CONVERSATIONS)])
    seen = set()
    for number, conversation in enumerate(CONVERSATIONS, start=1):
        alone = forward(model, processor([sample(conversation)]), target_masks=None)
        labels = batch.labels.masked_fill(batch.segment_ids != number, IGNORE_INDEX)
        among_others = forward(model, batch, labels=labels, target_masks=None)
        torch.testing.assert_close(among_others.losses["ce"], alone.losses["ce"], atol=1e-5, rtol=1e-5)
        seen.add(round(float(alone.losses["ce"]), 3))
    assert len(seen) == 3


def test_order_of_conversations(tiny_pair):
    model, processor = tiny_pair
    forwards = forward(model, processor([sample(*CONVERSATIONS)]))
    backwards = forward(model, processor([sample(*reversed(CONVERSATIONS))]))
    torch.testing.assert_close(backwards.loss, forwards.loss, atol=1e-5, rtol=1e-5)
    expected = torch.cat([forwards.mask_logits[0][3:], forwards.mask_logits[0][:3]])
    torch.testing.assert_close(backwards.mask_logits[0], expected, atol=1e-4, rtol=1e-4)


def test_padding_on_the_right_changes_nothing(tiny_pair):
    model, processor = tiny_pair
    batch = processor([sample(*CONVERSATIONS)])
    plain = forward(model, batch)
    padded = forward(
        model,
        batch,
        input_ids=F.pad(batch.input_ids, (0, 9), value=17),
        segment_ids=F.pad(batch.segment_ids, (0, 9), value=-1),
        labels=F.pad(batch.labels, (0, 9), value=IGNORE_INDEX),
    )
    for name, loss in plain.losses.items():
        torch.testing.assert_close(padded.losses[name], loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(padded.mask_logits[0], plain.mask_logits[0], atol=1e-5, rtol=1e-5)


def test_images_of_a_batch_do_not_see_each_other(tiny_pair):
    model, processor = tiny_pair
    other = Sample(tiny.picture(30, 60, seed=5), (Conversation("Where?", "Here {seg}.", np.ones((1, 60, 30), bool)),))
    together = forward(model, processor([sample(*CONVERSATIONS), other]), labels=None, target_masks=None)
    for row, alone in enumerate((sample(*CONVERSATIONS), other)):
        expected = forward(model, processor([alone]), labels=None, target_masks=None).mask_logits[0]
        torch.testing.assert_close(together.mask_logits[row], expected, atol=1e-4, rtol=1e-4)


def test_positions_and_attention_by_hand():
    segments = torch.tensor([[0, 0, 1, 1, 2, 2, 2, -1]])
    assert packed_positions(segments)[0, :7].tolist() == [0, 1, 2, 3, 2, 3, 4]
    valid = torch.tensor([[True, False, True, True, True, True, True, False]])  # one image token lies in the padding
    seen = packed_attention_bias(segments, valid, torch.float32)[0, 0] == 0
    expected = [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0, 0, 0],
        [1, 0, 1, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 1, 0, 0, 0],
        [1, 0, 0, 0, 1, 1, 0, 0],
        [1, 0, 0, 0, 1, 1, 1, 0],
    ]
    assert seen[:7].int().tolist() == expected


def test_wrong_batches_are_named(clip_model, clip_processor):
    batch = clip_processor([sample(*CONVERSATIONS)])
    with pytest.raises(ValueError, match="4 codebook groups but 3 masks"):
        forward(clip_model, batch, target_masks=[batch.target_masks[0][:3]])
    with pytest.raises(ValueError, match="expected 4 image tokens in every row"):
        forward(
            clip_model,
            batch,
            input_ids=batch.input_ids.masked_fill(batch.input_ids == IMAGE_TOKEN_ID, 5).index_fill(
                1, torch.tensor([0]), IMAGE_TOKEN_ID
            ),
        )
    with pytest.raises(ValueError, match="record 12: the answer has 1 mask slots but 2 masks"):
        clip_processor([Sample(tiny.picture(8, 8), (Conversation("a", "b {seg}", np.ones((2, 8, 8), bool)),), "12")])
