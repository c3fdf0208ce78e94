"""Cached decoding: one image prefix for all questions on it, one forward pass for each codebook group.

As soon as the first token of a group is chosen the rest of the group is known, so all L·N ids go through the LLM at
once; causal attention gives exactly the states that feeding them one by one would give. Rows of a batch advance
together although some take one token in a step and some a whole group: short rows are padded, and padding is never
seen.

Shapes:  B images · R rows (questions) · P prefix tokens · W tokens of a step · D LLM width
"""

from collections.abc import Container, Iterator, Sequence
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

from pixellm.inference.batch_invariant import RowInputs, hidden_states
from pixellm.inference.cuda_graphs import Recorder
from pixellm.inference.kv_cache import KeyValues
from pixellm.model.modeling import IMAGE_TOKEN_ID, EncodedImages, PixelLMForConditionalGeneration
from pixellm.model.packing import additive


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen and when an answer ends.

    Args:
        max_new_tokens: budget of tokens; a codebook group that has begun is always completed.
        temperature: 0 takes the likeliest token, otherwise tokens are drawn.
        top_k, top_p: draw from the likeliest k tokens, from those that make up the probability p.
        repetition_penalty: > 1 makes used tokens less likely.
        no_repeat_ngram_size: > 0: no run of this many tokens, codebook groups included, comes twice.
        seed: of the draw.
        processors: further logits processors of transformers; they see a row's text ids (1, length) and scores (1, V).
        stopping: further stopping criteria of transformers; they see the same ids.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    seed: int = 0
    processors: tuple = ()
    stopping: tuple = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: expected at least 1, got {self.max_new_tokens}.")
        if self.temperature < 0:
            raise ValueError(f"temperature: expected 0 (likeliest token) or more, got {self.temperature}.")

    def build_processors(self) -> LogitsProcessorList:
        chosen = LogitsProcessorList(self.processors)
        if self.repetition_penalty != 1:
            chosen.append(RepetitionPenaltyLogitsProcessor(float(self.repetition_penalty)))
        if self.no_repeat_ngram_size:
            chosen.append(NoRepeatNGramLogitsProcessor(self.no_repeat_ngram_size))
        if self.temperature > 0:
            chosen.append(TemperatureLogitsWarper(float(self.temperature)))
            if self.top_k is not None:
                chosen.append(TopKLogitsWarper(self.top_k))
            if self.top_p is not None:
                chosen.append(TopPLogitsWarper(self.top_p))
        return chosen


@dataclass
class Prefix:
    """System text and image of B photographs: encoded once, shared by all questions on them.

    Args:
        images: what the vision side gave.
        cache: keys and values of the P prefix tokens.
        valid: bool (B, P), False for image tokens that lie in the padding.
        text_ids: the prefix without its image tokens; what logits processors see of it.
    """

    images: EncodedImages
    cache: KeyValues
    valid: Tensor
    text_ids: list[int]


@dataclass(frozen=True)
class Step:
    """What one row gained: a text token, or a complete codebook group with its (L·N, D) states; perhaps its end."""

    row: int
    ids: tuple[int, ...]
    states: Tensor | None = None
    finished: bool = False


@dataclass
class _Row:
    index: int
    image: int
    ids: list[int]
    pending: list[int]
    chooser: "_Chooser"
    generated: int = 0
    last_read: Tensor | None = None
    generator: torch.Generator = field(default_factory=torch.Generator)


@torch.inference_mode()
def encode_prefix(
    model: PixelLMForConditionalGeneration,
    pixel_values: Tensor,
    resized_hw: Tensor,
    prefix_ids: Sequence[int],
    context_pixel_values: Tensor | None = None,
) -> Prefix:
    """Run images and the token ids before the question once.

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
    cache = KeyValues()
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
        One `Step` for each token or group of each row, in the order in which they are chosen.
    """
    decoding = Decoding(model, eos_ids)
    decoding.join(range(len(prompts)), prefix, image_index, prompts, sampling)
    while decoding:
        yield from decoding.step()


class Decoding:
    """Rows that are decoded together, each as if it were alone; they may join and leave between any two steps.

    Args:
        model: in eval mode.
        eos_ids: ids that end an answer; they are not part of it.
        joint: all rows are one matrix, which is quickest; their last bits then depend on how many there are. False:
            each row is computed in its own shapes, exactly as if it were alone (`pixellm.inference.batch_invariant`).
    """

    def __init__(self, model: PixelLMForConditionalGeneration, eos_ids: Sequence[int], joint: bool = True) -> None:
        self.model, self.eos_ids, self.joint = model, eos_ids, joint
        # Joint: the first has been running, and those behind it are new. Their first step, a whole prompt long, is one
        # of their own: padding all rows to it would cost more than it saves. Otherwise one for each row.
        self._parts: list[_Part] = []

    def __len__(self) -> int:
        """How many rows are not finished yet."""
        return sum(len(part.rows) for part in self._parts)

    def join(
        self,
        indices: Sequence[int],
        prefix: Prefix,
        image_index: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
    ) -> None:
        """Add R rows; `indices` is what their steps are called by, all others as in `generate`."""
        chooser = _Chooser(self.model, self.eos_ids, sampling)
        rows = [
            _Row(index, image, [*prefix.text_ids, *ids], list(ids), chooser)
            for index, image, ids in zip(indices, image_index, prompts, strict=True)
        ]
        for row in rows:
            row.generator.manual_seed(sampling.seed)
        for group in [rows] if self.joint else [[row] for row in rows]:
            if group:
                self._parts.append(_Part(_Context.start(prefix, [row.image for row in group]), group))

    def drop(self, indices: Container[int]) -> None:
        """Take rows out that need not go on."""
        for part in self._parts:
            part.keep([slot for slot, row in enumerate(part.rows) if row.index not in indices])
        self._parts = [part for part in self._parts if part.rows]

    @torch.inference_mode()
    def step(self) -> Iterator[Step]:
        """One forward pass for all rows that are running; to be read to its end."""
        inputs = [part.context.prepare(self.model, part.rows) for part in self._parts]
        if self.joint and len(inputs) == 1:
            states = [self._parts[0].context.recorder.run(self.model, inputs[0])]
        else:
            states = hidden_states(self.model, inputs)
            for part in self._parts:
                part.context.recorder = Recorder()  # its keys and values may be elsewhere now
        for part, one, state in zip(self._parts, inputs, states, strict=True):
            part.context.took(one)
            yield from part.step(self.model, state, self.model.codebook_inputs(state, one.words))
        left = [part for part in self._parts if part.rows]
        self._parts = [_Part.joined(left)] if left and self.joint else left


@dataclass
class _Part:
    """Rows that go through the model together."""

    context: "_Context"
    rows: list[_Row]

    @classmethod
    def joined(cls, parts: "Sequence[_Part]") -> "_Part":
        if len(parts) == 1:
            return parts[0]
        return cls(_Context.joined([part.context for part in parts]), [row for part in parts for row in part.rows])

    def keep(self, slots: list[int]) -> None:
        if slots and len(slots) < len(self.rows):
            self.context.keep(torch.tensor(slots, device=self.context.valid.device))
        self.rows = [self.rows[slot] for slot in slots]

    def step(self, model: PixelLMForConditionalGeneration, states: Tensor, read: Tensor) -> Iterator[Step]:
        """What follows from the states (R, W, D) of the rows' pending ids, and what the codebook reads of them."""
        group = model.config.codebook_ids
        going: list[int] = []
        for slot, row in enumerate(self.rows):
            new = read[slot, : len(row.pending)]
            finished = row.pending == group and row.chooser.ends(row)
            if row.pending == group:
                yield Step(row.index, tuple(group), _group_states(model, row, new), finished)
            if not finished:
                row.last_read = new[-1]
                going.append(slot)
        if not going:
            self.keep([])
            return
        last = torch.stack([states[slot, len(self.rows[slot].pending) - 1] for slot in going])
        scores = model.get_output_embeddings()(last).float()
        kept: list[int] = []
        for slot, of_row in zip(going, scores.split(1), strict=True):
            row = self.rows[slot]
            row.pending = row.chooser.choose(row, of_row)
            row.ids.extend(row.pending)
            row.generated += len(row.pending)
            finished = row.pending != group and row.chooser.ends(row)  # a group is run first
            if row.pending != group:
                ids = () if row.ids[-1] in row.chooser.eos_ids else tuple(row.pending)
                yield Step(row.index, ids, None, finished)
            if not finished:
                kept.append(slot)
        self.keep(kept)


def _group_states(model: PixelLMForConditionalGeneration, row: _Row, new: Tensor) -> Tensor:
    if model.config.own_state:
        return new
    assert row.last_read is not None
    return torch.cat([row.last_read[None], new[:-1]])


@dataclass
class _Context:
    """State of all rows: KV cache, which of its entries are visible, the next position, and the conditioning."""

    cache: KeyValues
    valid: Tensor
    position: Tensor
    conditioning: Tensor | None
    recorder: Recorder = field(default_factory=Recorder)

    @classmethod
    def start(cls, prefix: Prefix, image_index: Sequence[int]) -> "_Context":
        index = torch.tensor(image_index, device=prefix.valid.device)
        conditioning = prefix.images.conditioning
        position = torch.full_like(index, prefix.valid.shape[1])
        rows = None if conditioning is None else conditioning[index]
        return cls(prefix.cache.select(index), prefix.valid[index], position, rows)

    def prepare(self, model: PixelLMForConditionalGeneration, rows: list[_Row]) -> "_Inputs":
        """Every row's pending ids, padded to the longest, ready for the language model."""
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
        earlier = [row.ids[: len(row.ids) - len(row.pending)] for row in rows]
        inputs = model.llm_inputs(words, ids, self.conditioning, earlier)
        return _Inputs(inputs, bias, positions, self.cache, words, own)

    def took(self, inputs: "_Inputs") -> None:
        """The model has read them; the cache knows that by itself."""
        self.valid = torch.cat([self.valid, inputs.own], dim=1)
        self.position = self.position + inputs.own.sum(dim=1)

    @classmethod
    def joined(cls, parts: "Sequence[_Context]") -> "_Context":
        """Rows of all; the shorter get columns that nobody sees."""
        width = max(part.valid.shape[1] for part in parts)
        cache = KeyValues.joined([part.cache for part in parts])
        valid = torch.cat([F.pad(part.valid, (0, width - part.valid.shape[1])) for part in parts])
        rows = [part.conditioning for part in parts if part.conditioning is not None]
        return cls(cache, valid, torch.cat([part.position for part in parts]), torch.cat(rows) if rows else None)

    def keep(self, slots: Tensor) -> None:
        """Only these rows, and only the columns that one of them sees."""
        self.valid, self.position = self.valid[slots], self.position[slots]
        seen = self.valid.any(dim=0)
        self.valid = self.valid[:, seen]
        self.cache, self.recorder = self.cache.select(slots, seen), Recorder()
        self.conditioning = None if self.conditioning is None else self.conditioning[slots]


@dataclass(frozen=True)
class _Inputs(RowInputs):
    """Of R rows: word embeddings (R, W, D) before anything was added, and which ids are a row's own, not padding."""

    words: Tensor
    own: Tensor


class _Chooser:
    """The next id of a row: a text token, the end, or a whole codebook group."""

    def __init__(self, model: PixelLMForConditionalGeneration, eos_ids: Sequence[int], sampling: Sampling) -> None:
        self.group = model.config.codebook_ids
        self.sampling = sampling
        self.eos_ids = set(eos_ids)
        self.processors = sampling.build_processors()
        ends = [EosTokenCriteria(list(eos_ids))] if eos_ids else []
        self.stopping = StoppingCriteriaList([*ends, *sampling.stopping])

    def choose(self, row: _Row, scores: Tensor) -> list[int]:
        """What follows, by the scores (1, V) of the row's last state."""
        # Inside a group nothing is chosen, and outside of it only its first token can be.
        scores[:, self.group[1:]] = -torch.inf
        scores = self.processors(torch.tensor([row.ids], device=scores.device), scores)
        scores[:, self.group[1:]] = -torch.inf  # whatever the processors made of it
        if self.sampling.temperature > 0:
            chosen = int(torch.multinomial(F.softmax(scores, dim=-1).cpu(), 1, generator=row.generator))
        else:
            chosen = int(scores.argmax())
        return list(self.group) if chosen == self.group[0] else [chosen]

    def ends(self, row: _Row) -> bool:
        """Whether what was chosen last is a row's last."""
        if row.generated >= self.sampling.max_new_tokens:
            return True
        return bool(self.stopping(torch.tensor([row.ids]), None).any()) if self.stopping else False
