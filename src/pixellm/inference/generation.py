"""Cached decoding: one image prefix for all questions on it, one forward pass for each codebook group.

As soon as the first token of a group is sampled the rest of the group is known, so all L·N ids go through the LLM at
once; causal attention gives exactly the states that feeding them one by one would give. Rows of a batch advance
together although some take one token in a step and some a whole group: short rows are padded, and padding is never
seen.

Shapes:  B images · R rows (questions) · P prefix tokens · W tokens of a step · D LLM width
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pixellm.inference.base_predictor import Step, earlier_ids
from pixellm.inference.batch_invariant import RowInputs, hidden_states
from pixellm.inference.cuda_graphs import Recorder
from pixellm.inference.kv_cache import KVCache
from pixellm.inference.sampling import Row, Sampler
from pixellm.model.modeling import IMAGE_TOKEN_ID, PixelLMForConditionalGeneration
from pixellm.model.packing import additive
from pixellm.model.states import EncodedImages
from pixellm.sampling import Sampling

CACHED = ("keys", "values", "conv_states", "recurrent_states")  # of a layer, which has the first two or the others


@dataclass
class Prefix:
    """System text and image of B images: encoded once, shared by all questions on them.

    Args:
        images: the encoded images.
        cache: KV cache of the P prefix tokens.
        valid: bool (B, P), False for image tokens that lie in the padding.
        text_ids: the prefix without its image tokens, as logits processors see it.
        next_position: (B,) position of the first token after the prefix; None: P.
    """

    images: EncodedImages
    cache: KVCache
    valid: Tensor
    text_ids: list[int]
    next_position: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Size of features, keys and values, and of the states of linear attention."""
        images = [getattr(self.images, field.name) for field in fields(self.images)]
        cache = [getattr(layer, name, None) for layer in self.cache.layers for name in CACHED]
        return sum(tensor.nbytes for tensor in _tensors([images, cache]))


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        return _tensors(list(values.values()))
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, list | tuple) else []


@torch.inference_mode()
def encode_prefix(
    model: PixelLMForConditionalGeneration,
    pixel_values: Tensor,
    resized_hw: Tensor,
    prefix_ids: Sequence[int],
    context_pixel_values: Tensor | None = None,
) -> Prefix:
    """Encode images and the token ids before the question.

    Args:
        model: in eval mode.
        pixel_values: B images; see `PixelLMForConditionalGeneration.encode_images`.
        resized_hw: see there.
        context_pixel_values: see there.
        prefix_ids: see `PixelLMProcessor.prefix_ids`.
    """
    images = model.encode_images(pixel_values, resized_hw, context_pixel_values)
    ids = torch.tensor([prefix_ids] * len(pixel_values), device=pixel_values.device)
    valid = torch.ones_like(ids, dtype=torch.bool).masked_scatter(ids == IMAGE_TOKEN_ID, images.token_valid)
    embeddings = model.llm_inputs(model.embed(ids, images), ids, images.conditioning)
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    bias = additive(causal & valid[:, None, :], embeddings.dtype)[:, None]
    cache = KVCache()
    positions = torch.arange(length, device=ids.device).expand_as(ids)
    model.hidden_states(embeddings, bias, positions, cache)
    return Prefix(images, cache, valid, [i for i in prefix_ids if i != IMAGE_TOKEN_ID])


def generate(
    model: PixelLMForConditionalGeneration,
    prefix: Prefix,
    image_index: Sequence[int],
    prompts: Sequence[Sequence[int]],
    eos_ids: Sequence[int],
    sampling: Sampling,
) -> Iterator[Step]:
    """Answer R questions.

    Args:
        model: in eval mode.
        prefix: of B images.
        image_index: R rows of `prefix`.
        prompts: R lists of the ids that follow the prefix (question, and what opens the answer).
        eos_ids: ids that end an answer; they are not part of it.
        sampling: see there.

    Yields:
        One `Step` for each token or group of each row, in the order in which they are sampled.
    """
    decoding = Decoding(model, eos_ids)
    decoding.join(range(len(prompts)), prefix, image_index, prompts, sampling)
    while decoding:
        yield from decoding.step()


class Decoding:
    """Rows that are decoded together, independently of one another; they may join and leave between any two steps.

    Args:
        model: in eval mode.
        eos_ids: ids that end an answer; they are not part of it.
        joint: all rows are one matrix, which is fastest; their last bits then depend on how many there are. False: the
            states of each row are batch-invariant (`pixellm.inference.batch_invariant`), as with any recurrent model.
    """

    def __init__(self, model: PixelLMForConditionalGeneration, eos_ids: Sequence[int], joint: bool = True) -> None:
        self.model, self.eos_ids, self.joint = model, eos_ids, joint and not model.recurrent
        # Joint: one group of running rows, then groups of new rows, whose first step is a whole prompt: padding all
        # rows to its length would cost more than it saves. Not joint: one group for each row.
        self._groups: list[_RowGroup] = []

    def __len__(self) -> int:
        """Return the number of rows that are not finished."""
        return sum(len(group.rows) for group in self._groups)

    def join(
        self,
        indices: Sequence[int],
        prefix: Prefix,
        image_index: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
    ) -> None:
        """Add R rows, whose steps have the given `indices`; the other arguments are those of `generate`."""
        sampler = Sampler(self.model, self.eos_ids, sampling)
        rows = [
            Row(index, image, [*prefix.text_ids, *ids], list(ids), sampler)
            for index, image, ids in zip(indices, image_index, prompts, strict=True)
        ]
        for row in rows:
            row.generator.manual_seed(sampling.seed)
        for group in [rows] if self.joint else [[row] for row in rows]:
            if group:
                self._groups.append(_RowGroup(_RowState.start(prefix, [row.image for row in group]), group))

    def drop(self, indices: Container[int]) -> None:
        """Remove rows that need not be finished."""
        for group in self._groups:
            group.keep([slot for slot, row in enumerate(group.rows) if row.index not in indices])
        self._groups = [group for group in self._groups if group.rows]

    @torch.inference_mode()
    def step(self) -> Iterator[Step]:
        """Run one forward pass for all rows; the iterator has to be exhausted."""
        inputs = [group.state.prepare(self.model, group.rows) for group in self._groups]
        if self.joint and len(inputs) == 1:
            states = [self._groups[0].state.recorder.run(self.model, inputs[0])]
        else:
            states = hidden_states(self.model, inputs)
            for group in self._groups:
                group.state.recorder = Recorder()  # the KV cache may have moved
        for group, step_inputs, hidden in zip(self._groups, inputs, states, strict=True):
            group.state.advance(step_inputs)
            yield from group.step(self.model, hidden, self.model.codebook_inputs(hidden, step_inputs.words))
        unfinished = [group for group in self._groups if group.rows]
        self._groups = [_RowGroup.concatenated(unfinished)] if unfinished and self.joint else unfinished


@dataclass
class _RowGroup:
    """Rows that go through the model together."""

    state: "_RowState"
    rows: list[Row]

    @classmethod
    def concatenated(cls, groups: "Sequence[_RowGroup]") -> "_RowGroup":
        if len(groups) == 1:
            return groups[0]
        rows = [row for group in groups for row in group.rows]
        return cls(_RowState.concatenated([group.state for group in groups]), rows)

    def keep(self, slots: list[int]) -> None:
        if slots and len(slots) < len(self.rows):
            self.state.keep(torch.tensor(slots, device=self.state.valid.device))
        self.rows = [self.rows[slot] for slot in slots]

    def step(self, model: PixelLMForConditionalGeneration, states: Tensor, inputs: Tensor) -> Iterator[Step]:
        """Sample the next ids of each row.

        Args:
            model: in eval mode.
            states: (R, W, D) of the rows' pending ids.
            inputs: (R, W, D), what the codebook reads of them.
        """
        codebook = model.config.codebook_ids
        continuing: list[int] = []
        for slot, row in enumerate(self.rows):
            new = inputs[slot, : len(row.pending)]
            finished = row.pending == codebook and row.sampler.ends(row)
            if row.pending == codebook:
                yield Step(row.index, tuple(codebook), _group_states(model, row, new), finished)
            if not finished:
                row.last_input = new[-1]
                continuing.append(slot)
        if not continuing:
            self.keep([])
            return
        last = torch.stack([states[slot, len(self.rows[slot].pending) - 1] for slot in continuing])
        scores = model.get_output_embeddings()(last).float()
        kept: list[int] = []
        for slot, row_scores in zip(continuing, scores.split(1), strict=True):
            row = self.rows[slot]
            row.pending = row.sampler.sample(row, row_scores)
            row.ids.extend(row.pending)
            row.generated += len(row.pending)
            finished = row.pending != codebook and row.sampler.ends(row)  # a group is run first
            if row.pending != codebook:
                ids = () if row.ids[-1] in row.sampler.eos_ids else tuple(row.pending)
                yield Step(row.index, ids, None, finished)
            if not finished:
                kept.append(slot)
        self.keep(kept)


def _group_states(model: PixelLMForConditionalGeneration, row: Row, new: Tensor) -> Tensor:
    if model.config.own_state:
        return new
    assert row.last_input is not None
    return torch.cat([row.last_input[None], new[:-1]])


@dataclass
class _RowState:
    """State of all rows: KV cache, which of its entries are visible, the next position, and the conditioning."""

    cache: KVCache
    valid: Tensor
    position: Tensor
    conditioning: Tensor | None
    recorder: Recorder = field(default_factory=Recorder)

    @classmethod
    def start(cls, prefix: Prefix, image_index: Sequence[int]) -> "_RowState":
        index = torch.tensor(image_index, device=prefix.valid.device)
        conditioning = prefix.images.conditioning
        begins = prefix.next_position
        rows = None if conditioning is None else conditioning[index]
        valid = prefix.valid[index]
        if begins is None:
            return cls(prefix.cache.select(index), valid, torch.full_like(index, valid.shape[1]), rows)
        seen = valid.any(dim=0)  # prefixes of several lengths: not the padding to the longest of others
        return cls(prefix.cache.select(index, seen), valid[:, seen], begins[index], rows)

    def prepare(self, model: PixelLMForConditionalGeneration, rows: list[Row]) -> "_Inputs":
        """Return the inputs of the LLM: every row's pending ids, padded to the longest."""
        device = self.valid.device
        lengths = torch.tensor([len(row.pending) for row in rows], device=device)
        width = int(lengths.max())
        ids = torch.tensor([row.pending + [0] * (width - len(row.pending)) for row in rows], device=device)
        offsets = torch.arange(width, device=device)
        own = offsets < lengths[:, None]
        causal = (offsets[None] <= offsets[:, None]) & own[:, None, :]
        seen = torch.cat([self.valid[:, None].expand(-1, width, -1), causal], dim=2)
        words = model.get_input_embeddings()(ids)
        bias = additive(seen, words.dtype)[:, None]
        positions = self.position[:, None] + offsets
        earlier = None
        if count := model.lookback:
            earlier = torch.tensor([earlier_ids(row.ids, len(row.pending), count) for row in rows], device=device)
        inputs = model.llm_inputs(words, ids, self.conditioning, earlier)
        return _Inputs(inputs, bias, positions, self.cache, words, own)

    def advance(self, inputs: "_Inputs") -> None:
        """Append inputs that the model has read; the cache has them already."""
        self.valid = torch.cat([self.valid, inputs.own], dim=1)
        self.position = self.position + inputs.own.sum(dim=1)

    @classmethod
    def concatenated(cls, states: "Sequence[_RowState]") -> "_RowState":
        """Concatenate rows; shorter ones are padded with masked columns."""
        width = max(state.valid.shape[1] for state in states)
        cache = KVCache.concatenated([state.cache for state in states])
        valid = torch.cat([F.pad(state.valid, (0, width - state.valid.shape[1])) for state in states])
        rows = [state.conditioning for state in states if state.conditioning is not None]
        return cls(cache, valid, torch.cat([state.position for state in states]), torch.cat(rows) if rows else None)

    def keep(self, slots: Tensor) -> None:
        """Keep only these rows, and only the columns that one of them sees."""
        self.valid, self.position = self.valid[slots], self.position[slots]
        seen = self.valid.any(dim=0)
        self.valid = self.valid[:, seen]
        self.cache, self.recorder = self.cache.select(slots, seen), Recorder()
        self.conditioning = None if self.conditioning is None else self.conditioning[slots]


@dataclass(frozen=True)
class _Inputs(RowInputs):
    """Inputs of R rows, with the token embeddings (R, W, D) alone, and a mask of the ids that are not padding."""

    words: Tensor
    own: Tensor
