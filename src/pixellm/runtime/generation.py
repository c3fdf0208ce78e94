"""Cached decoding with onnxruntime; see `pixellm.inference.generation`, whose rows and steps are the same.

Shapes:  R rows · P keys so far · W ids of a step · D LLM width
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pixellm.inference.base_predictor import Step, earlier_ids
from pixellm.prompts import IMAGE_TOKEN_ID
from pixellm.runtime.sampling import next_token
from pixellm.runtime.session import Cache, Graphs
from pixellm.sampling import Sampling

MASKED = np.finfo(np.float32).min


@dataclass
class EncodedPrefix:
    """System text and image of B images: encoded once, shared by all questions on them.

    Args:
        images: the tensors of each image, by name.
        cache: of the prefix, one row for each image.
        valid: bool (B, P), False for image tokens that lie in the padding.
        text_ids: the prefix without its image tokens, as sampling sees it.
    """

    images: list[dict[str, np.ndarray]]
    cache: Cache
    valid: np.ndarray
    text_ids: list[int]

    @property
    def nbytes(self) -> int:
        """Size of features, keys and values."""
        features = sum(array.nbytes for image in self.images for array in image.values())
        return features + sum(value.numpy().nbytes for value in self.cache.values)


def encode_prefix(
    graphs: Graphs, pixel_values: np.ndarray, resized_hw: np.ndarray, prefix_ids: Sequence[int]
) -> EncodedPrefix:
    """Encode images (B, 3, S, S) fp32 with their sizes (B, 2) int64, and the token ids before the question."""
    images = [graphs.encode(pixel_values[row : row + 1], resized_hw[row : row + 1]) for row in range(len(pixel_values))]
    ids = np.array([prefix_ids] * len(images))
    shown = np.concatenate([image["tokens"] for image in images])
    valid = np.ones(ids.shape, dtype=bool)
    valid[ids == IMAGE_TOKEN_ID] = np.concatenate([image["token_valid"] for image in images]).reshape(-1)
    length = ids.shape[1]
    seen = np.tri(length, dtype=bool) & valid[:, None]
    inputs = {
        "input_ids": ids,
        "earlier_ids": np.full((len(ids), graphs.manifest.lookback), IMAGE_TOKEN_ID),
        "image_tokens": shown,
        "conditioning": _conditioning(images),
        "bias": np.where(seen, np.float32(0), MASKED)[:, None],
        "position_ids": np.broadcast_to(np.arange(length), ids.shape).copy(),
        "last": np.zeros(len(ids), dtype=np.int64),
    }
    *_, cache = graphs.step(inputs, graphs.empty_cache(len(ids)))
    return EncodedPrefix(images, cache, valid, [i for i in prefix_ids if i != IMAGE_TOKEN_ID])


def _conditioning(images: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    none = np.zeros((1, 1), np.float32)
    return np.concatenate([image.get("conditioning", none) for image in images])


@dataclass
class _Row:
    """One question that is being answered; fields as in `pixellm.inference.sampling.Row`."""

    index: int
    ids: list[int]
    pending: list[int]
    sampling: Sampling
    generator: np.random.Generator
    generated: int = 0
    last_input: np.ndarray | None = None


class RuntimeDecoding:
    """Rows that are decoded together; see `pixellm.inference.generation.Decoding`.

    Args:
        graphs: of the model.
        eos_ids: ids that end an answer; they are not part of it.
        joint: all rows are one matrix. False: each goes through the language model alone, so that its answer does not
            depend on the others.
    """

    def __init__(self, graphs: Graphs, eos_ids: Sequence[int], joint: bool = True) -> None:
        self.graphs, self.eos_ids, self.joint = graphs, frozenset(eos_ids), joint
        self._groups: list[_RowBatch] = []

    def __len__(self) -> int:
        """Return the number of rows that are not finished."""
        return sum(len(group.rows) for group in self._groups)

    def join(
        self,
        indices: Sequence[int],
        prefix: EncodedPrefix,
        image_index: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
    ) -> None:
        """Add R rows, whose steps have the given `indices`; other arguments as in `pixellm.inference.generation`."""
        if sampling.processors or sampling.stopping:
            raise ValueError(
                "expected no processors or stopping criteria of transformers, got some. This runtime is without torch; "
                "load the model with runtime='torch'."
            )
        rows = [
            _Row(index, [*prefix.text_ids, *ids], list(ids), sampling, np.random.default_rng(sampling.seed))
            for index, ids in zip(indices, prompts, strict=True)
        ]
        each = [list(range(len(rows)))] if self.joint else [[slot] for slot in range(len(rows))]
        for slots in each if rows else []:
            at = np.array([image_index[slot] for slot in slots])
            conditioning = _conditioning([prefix.images[image] for image in at])
            position = np.full(len(at), prefix.valid.shape[1])
            own = [rows[slot] for slot in slots]
            self._groups.append(_RowBatch(own, prefix.cache.rows(at), prefix.valid[at], position, conditioning))

    def drop(self, indices: Container[int]) -> None:
        """Remove rows that need not be finished."""
        for group in self._groups:
            group.keep([slot for slot, row in enumerate(group.rows) if row.index not in indices])
        self._groups = [group for group in self._groups if group.rows]

    def step(self) -> Iterator[Step]:
        """Run one forward pass for all rows; the iterator has to be exhausted."""
        if self.joint and (joined := [group for group in self._groups if not group.rows[0].generated]):
            older = [group for group in self._groups if group.rows[0].generated]
            self._groups = [*older, _RowBatch.concatenated(joined)]  # prompts are read together
        for group in self._groups:
            yield from group.step(self.graphs, self.eos_ids)
        unfinished = [group for group in self._groups if group.rows]
        self._groups = [_RowBatch.concatenated(unfinished)] if unfinished and self.joint else unfinished


@dataclass
class _RowBatch:
    """Rows that go through the language model together, with their keys: which are visible, and the next position."""

    rows: list[_Row]
    cache: Cache
    valid: np.ndarray
    position: np.ndarray
    conditioning: np.ndarray

    @classmethod
    def concatenated(cls, groups: Sequence["_RowBatch"]) -> "_RowBatch":
        """Concatenate rows; shorter ones are padded with masked columns."""
        if len(groups) == 1:
            return groups[0]
        width = max(group.valid.shape[1] for group in groups)
        return cls(
            [row for group in groups for row in group.rows],
            Cache.joined([group.cache for group in groups], width),
            np.concatenate([np.pad(g.valid, ((0, 0), (0, width - g.valid.shape[1]))) for g in groups]),
            np.concatenate([group.position for group in groups]),
            np.concatenate([group.conditioning for group in groups]),
        )

    def keep(self, slots: list[int]) -> None:
        """Keep only these rows, and only the columns that one of them sees."""
        if slots and len(slots) < len(self.rows):
            self.valid, self.position = self.valid[slots], self.position[slots]
            seen = self.valid.any(axis=0)
            self.valid, self.conditioning = self.valid[:, seen], self.conditioning[slots]
            self.cache = self.cache.rows(slots, seen)
        self.rows = [self.rows[slot] for slot in slots]

    def step(self, graphs: Graphs, eos_ids: frozenset[int]) -> Iterator[Step]:
        """Read the pending ids of all rows, then sample the next ones of each."""
        group = graphs.manifest.codebook_ids
        logits, inputs = self._read(graphs)
        kept = []
        for slot, row in enumerate(self.rows):
            new = inputs[slot, : len(row.pending)]
            if row.pending == group:
                finished = row.generated >= row.sampling.max_new_tokens
                yield Step(row.index, tuple(group), _group_states(row, new, graphs.manifest.own_state), finished)
                if finished:
                    continue
            row.last_input = new[-1]
            _sample(row, logits[slot], group)
            spent = row.generated >= row.sampling.max_new_tokens
            finished = row.pending != group and (spent or row.ids[-1] in eos_ids)  # a group is read first
            if row.pending != group:
                yield Step(row.index, () if row.ids[-1] in eos_ids else tuple(row.pending), None, finished)
            if not finished:
                kept.append(slot)
        self.keep(kept)

    def _read(self, graphs: Graphs) -> tuple[np.ndarray, np.ndarray]:
        """Run the language model; return logits (R, V) after the last pending id, and what the codebook reads."""
        lengths = np.array([len(row.pending) for row in self.rows])
        width, lookback = int(lengths.max()), graphs.manifest.lookback
        offsets = np.arange(width)
        own = offsets < lengths[:, None]
        causal = (offsets[None] <= offsets[:, None]) & own[:, None]
        seen = np.concatenate(
            [np.broadcast_to(self.valid[:, None], (*causal.shape[:2], self.valid.shape[1])), causal], 2
        )
        earlier = [earlier_ids(row.ids, len(row.pending), lookback) for row in self.rows]
        logits, inputs, self.cache = graphs.step(
            {
                "input_ids": np.array([row.pending + [0] * (width - len(row.pending)) for row in self.rows]),
                "earlier_ids": np.array(earlier, dtype=np.int64),
                "image_tokens": np.zeros((len(self.rows), 1, graphs.manifest.width), np.float32),
                "conditioning": self.conditioning,
                "bias": np.where(seen, np.float32(0), MASKED)[:, None],
                "position_ids": self.position[:, None] + offsets,
                "last": lengths - 1,
            },
            self.cache,
        )
        self.valid = np.concatenate([self.valid, own], axis=1)
        self.position = self.position + lengths
        return logits, inputs


def _sample(row: _Row, scores: np.ndarray, group: list[int]) -> None:
    """Choose the next ids of a row: a text token, the end, or a whole codebook group."""
    scores[group[1:]] = -np.inf  # only the first token of a group is ever sampled
    token = next_token(scores, row.ids, row.sampling, row.generator)
    row.pending = list(group) if token == group[0] else [token]
    row.ids.extend(row.pending)
    row.generated += len(row.pending)


def _group_states(row: _Row, new: np.ndarray, own_state: bool) -> np.ndarray:
    if own_state:
        return new
    assert row.last_input is not None
    return np.concatenate([row.last_input[None], new[:-1]])
