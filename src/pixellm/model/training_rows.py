"""Rows of a training batch: one image's prefix, then its conversations with labels, cut to a length.

Shapes:  B images · T tokens of a row · M masks of an image
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixellm.model.losses import IGNORE_INDEX
from pixellm.types import SEG_SLOT, Conversation

Turn = tuple[Conversation, list[int], list[int]]  # with the ids of its question and of its answer


@dataclass
class TrainingRow:
    """A row as it grows; `conversations` are those that it holds."""

    ids: list[int]
    segments: list[int] = field(init=False)
    labels: list[int] = field(init=False)
    conversations: list[Conversation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.segments, self.labels = [0] * len(self.ids), [IGNORE_INDEX] * len(self.ids)

    def append(self, conversation: Conversation, question: list[int], answer: list[int]) -> None:
        number = self.segments[-1] + (not conversation.continues)
        self.ids += [*question, *answer]
        self.segments += [max(number, 1)] * (len(question) + len(answer))
        self.labels += [*[IGNORE_INDEX] * len(question), *answer]
        self.conversations.append(conversation)


def training_row(
    prefix_ids: Sequence[int],
    turns: Iterable[Turn],
    codebook_ids: Sequence[int],
    max_length: int | None,
    record_id: str,
) -> TrainingRow:
    """Return one image's prefix and as many of its turns as `max_length` tokens hold.

    Raises:
        ValueError: slots and masks of a conversation differ in number, or not one conversation fits.
    """
    row, empty = TrainingRow(list(prefix_ids)), True
    for conversation, question, answer in turns:
        empty = False
        check_slots(conversation, record_id)
        if max_length is not None:
            whole, answer = len(answer), _shorten(answer, max_length - len(row.ids) - len(question), codebook_ids)
            if len(answer) < whole:
                kept = answer.count(codebook_ids[0])
                conversation = replace(conversation, masks=conversation.masks[:kept])
                if answer:
                    row.append(conversation, question, answer)
                break
        row.append(conversation, question, answer)
    if not row.conversations and not empty:
        raise ValueError(
            f"record {record_id or '?'}: expected rows of at most {max_length} tokens, but image and "
            f"first question leave no room for an answer. Raise max_length."
        )
    return row


def batch_of_rows(rows: Sequence[TrainingRow]) -> dict[str, Any]:
    """Return `input_ids`, `segment_ids`, `labels`, `target_masks` and `ignored` of a `Batch`."""
    length = max(len(row.ids) for row in rows)

    def padded(lists: list[list[int]], value: int) -> Tensor:
        return torch.tensor([ids + [value] * (length - len(ids)) for ids in lists])

    learned = [row.conversations for row in rows]
    return {
        "input_ids": padded([row.ids for row in rows], 0),
        "segment_ids": padded([row.segments for row in rows], -1),
        "labels": padded([row.labels for row in rows], IGNORE_INDEX),
        "target_masks": [_joined([c.masks for c in conversations]) for conversations in learned],
        "ignored": _ignored_of(learned),
    }


def check_slots(conversation: Conversation, record_id: str) -> None:
    """A ValueError if an answer has not one slot for each of its masks."""
    slots = conversation.answer.count(SEG_SLOT)
    if slots != len(conversation.masks):
        raise ValueError(
            f"record {record_id or '?'}: the answer has {slots} mask slots but {len(conversation.masks)} masks. Write "
            f"one {SEG_SLOT} for each mask, in the same order."
        )


def _shorten(answer: list[int], room: int, codebook_ids: Sequence[int]) -> list[int]:
    """At most `room` ids of an answer, up to the end of a group if it has any; none if not even one group fits."""
    if len(answer) <= room:
        return answer
    ends = [at + len(codebook_ids) for at, token in enumerate(answer) if token == codebook_ids[0]]
    return answer[: max((end for end in ends if end <= room), default=0) if ends else max(0, room)]


def _ignored_of(rows: Sequence[Sequence[Conversation]]) -> list[Tensor] | None:
    """For each image what each of its masks ignores; None where nothing is ignored in the whole batch."""
    if all(conversation.ignored is None for row in rows for conversation in row):
        return None

    def of(c: Conversation) -> np.ndarray:
        return np.zeros_like(c.masks) if c.ignored is None else np.broadcast_to(c.ignored, c.masks.shape)

    return [_joined([of(conversation) for conversation in row]) for row in rows]


def _joined(stacks: Sequence[np.ndarray]) -> Tensor:
    """Bool (M, H, W) of all masks of one image."""
    filled = [np.asarray(stack, dtype=bool) for stack in stacks if len(stack)]
    return torch.from_numpy(np.concatenate(filled) if filled else np.zeros((0, 1, 1), dtype=bool))
