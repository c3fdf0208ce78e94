"""Sampling: how the next token of a row is chosen, with transformers' logits processors and stopping criteria.

Shapes:  V vocabulary · D LLM width
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    EosTokenCriteria,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pixellm.model.modeling import PixelLMForConditionalGeneration
from pixellm.sampling import Sampling


def build_processors(sampling: Sampling) -> LogitsProcessorList:
    """Return transformers' processors for sampling settings."""
    processors = LogitsProcessorList(sampling.processors)
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(sampling.no_repeat_ngram_size))
    if sampling.temperature > 0:
        processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_k is not None:
            processors.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p is not None:
            processors.append(TopPLogitsWarper(sampling.top_p))
    return processors


@dataclass
class Row:
    """One question that is being answered.

    Args:
        index: name of the row in its steps.
        image: row of its image in the prefix.
        ids: ids of prefix and conversation so far, without image tokens.
        pending: ids that the LLM has not read yet.
        sampler: chooses the next ids.
        generated: number of ids sampled so far.
        last_input: (D,) what the codebook would read of the last id.
        generator: random numbers of this row.
    """

    index: int
    image: int
    ids: list[int]
    pending: list[int]
    sampler: "Sampler"
    generated: int = 0
    last_input: Tensor | None = None
    generator: torch.Generator = field(default_factory=torch.Generator)


class Sampler:
    """Chooses the next ids of a row: a text token, the end, or a whole codebook group."""

    def __init__(self, model: PixelLMForConditionalGeneration, eos_ids: Sequence[int], sampling: Sampling) -> None:
        self.group = model.config.codebook_ids
        self.sampling = sampling
        self.eos_ids = set(eos_ids)
        self.processors = build_processors(sampling)
        ends = [EosTokenCriteria(list(eos_ids))] if eos_ids else []
        self.stopping = StoppingCriteriaList([*ends, *sampling.stopping])

    def sample(self, row: Row, scores: Tensor) -> list[int]:
        """Return the ids that follow, given the scores (1, V) of the row's last state."""
        # Only the first token of a group is ever sampled.
        scores[:, self.group[1:]] = -torch.inf
        scores = self.processors(torch.tensor([row.ids], device=scores.device), scores)
        scores[:, self.group[1:]] = -torch.inf  # whatever the processors made of it
        if self.sampling.temperature > 0:
            token = int(torch.multinomial(F.softmax(scores, dim=-1).cpu(), 1, generator=row.generator))
        else:
            token = int(scores.argmax())
        return list(self.group) if token == self.group[0] else [token]

    def ends(self, row: Row) -> bool:
        """Return whether the ids sampled last end the row."""
        if row.generated >= self.sampling.max_new_tokens:
            return True
        return bool(self.stopping(torch.tensor([row.ids]), None).any()) if self.stopping else False
