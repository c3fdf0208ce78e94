"""Mixtures of datasets: which record is sample i, its conversations, and which samples make a batch.

Sample i of epoch e depends on (seed, e, i) alone; so does the order of batches. Workers, prefetching and the number of
processes change nothing about it, and a run goes on anywhere without repeating what came before.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset, Sampler

from pixellm.data.chat import Chat, LazySample
from pixellm.data.datasets import RecordDataset
from pixellm.data.records import Record
from pixellm.data.semantic import LabelMaps
from pixellm.types import Sample

CHARACTERS_PER_TOKEN = 4  # English, about; lengths are only compared with each other
TYPICAL_CHARACTERS = 60  # characters of a short question and its answer


@dataclass(frozen=True)
class SampleIndex:
    """Record `record` of source `source`, and the generator for whatever else is random about the sample."""

    source: int
    record: int
    rng: random.Random


@dataclass(frozen=True)
class MixturePlan:
    """Mixture of sources: in each epoch exactly their shares, each source's records all once before any comes again.

    Args:
        sizes: number of records of each source.
        weights: their shares, in any unit; one without a weight is never drawn.
        epoch_length: samples of an epoch.
        seed: seed of everything random.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    epoch_length: int
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.weights) or not self.sizes:
            raise ValueError(f"expected as many weights as sources, got {len(self.weights)} for {len(self.sizes)}.")
        if min(self.weights) < 0 or not sum(self.weights) > 0 or self.epoch_length < 1:
            raise ValueError(
                f"expected weights of at least 0, one of them more, and an epoch of at least one sample, got "
                f"{self.weights} and {self.epoch_length}."
            )
        if any(weight > 0 and size == 0 for size, weight in zip(self.sizes, self.weights, strict=True)):
            raise ValueError(f"expected records in every source that has a weight, got sizes {self.sizes}.")

    @property
    def quotas(self) -> list[int]:
        """Samples of each source in an epoch: its share, rounded so that they add up."""
        exact = np.array(self.weights) / sum(self.weights) * self.epoch_length
        quotas = np.floor(exact).astype(int)
        largest_rests = np.argsort(quotas - exact, kind="stable")[: self.epoch_length - quotas.sum()]
        quotas[largest_rests] += 1
        return quotas.tolist()

    def __getitem__(self, index: int) -> SampleIndex:
        """Return sample number `index`, counted through all epochs."""
        if index < 0:
            raise IndexError(index)
        epoch, place = divmod(index, self.epoch_length)
        source, rank = (int(column[place]) for column in _order(self, epoch))
        around, at = divmod(epoch * self.quotas[source] + rank, self.sizes[source])
        record = int(_shuffled(self.sizes[source], self.seed, source, around)[at])
        return SampleIndex(source, record, random.Random(f"{self.seed}:{index}"))


@lru_cache(maxsize=4)
def _order(plan: MixturePlan, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the source of each sample of an epoch, and how many of the same source come before it."""
    sources = np.repeat(np.arange(len(plan.sizes)), plan.quotas)
    sources = np.random.default_rng((plan.seed, epoch)).permutation(sources)
    ranks = np.empty_like(sources)
    for source in range(len(plan.sizes)):
        places = np.flatnonzero(sources == source)
        ranks[places] = np.arange(len(places))
    return sources, ranks


@lru_cache(maxsize=64)
def _shuffled(size: int, seed: int, source: int, around: int) -> np.ndarray:
    """Return a source's records in the order of their pass number `around`."""
    return np.random.default_rng((seed, source, around)).permutation(size)


@dataclass(frozen=True)
class Mixture:
    """Datasets and the plan that mixes them, in the same order."""

    datasets: Sequence[RecordDataset]
    plan: MixturePlan

    @classmethod
    def of(cls, datasets: Sequence[RecordDataset], weights: Sequence[float], length: int, seed: int) -> "Mixture":
        """Mix datasets with epochs of `length` samples; 0: as many as there are records."""
        sizes = tuple(map(len, datasets))
        return cls(datasets, MixturePlan(sizes, tuple(weights), length or sum(sizes), seed))

    def __len__(self) -> int:
        """Samples of an epoch."""
        return self.plan.epoch_length

    def __getitem__(self, index: int) -> tuple[Record, random.Random]:
        """Record of sample number `index`, and the generator for whatever else is random about it."""
        drawn = self.plan[index]
        return self.datasets[drawn.source][drawn.record], drawn.rng


@dataclass
class ChatSamples(Dataset):
    """Training samples of a mixture: sample i is its record i, with conversations about it.

    Args:
        mixture: the datasets.
        chat: the conversation builder.
        group_size: tokens of a codebook group.
    """

    mixture: Mixture
    chat: Chat = field(default_factory=Chat)
    group_size: int = 6

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.mixture)

    def draft(self, index: int) -> LazySample:
        """Return sample number `index` before its image is read."""
        return self.chat.draft(*self.mixture[index])

    def __getitem__(self, index: int) -> Sample:
        return self.draft(index).load()

    def length(self, index: int) -> float:
        """Estimate how many tokens of text sample `index` has."""
        source = self.mixture.plan[index].source
        if isinstance(self.mixture.datasets[source], LabelMaps):  # a look at its names would read the map
            groups = self.chat.questions * (1 + self.chat.targets) / 2
            return self.chat.questions * TYPICAL_CHARACTERS / CHARACTERS_PER_TOKEN + groups * self.group_size
        drafted = self.draft(index)
        return drafted.characters / CHARACTERS_PER_TOKEN + drafted.groups * self.group_size


class LengthBatches(Sampler[list[int]]):
    """Batches of samples of about the same length, so that little of them is padding.

    Step s takes samples s·n to (s + 1)·n - 1, sorted by length and cut into batches: what it sees, and the mean of its
    losses, does not depend on how its batches are shared by processes and accumulation.

    Args:
        length: length of sample number i, in any unit.
        steps: steps of the whole training.
        batch_size: samples of a batch.
        per_step: batches of a step.
        start: steps that are over already: the first batch is the next one's.
    """

    def __init__(
        self, length: Callable[[int], float], steps: int, batch_size: int, per_step: int = 1, start: int = 0
    ) -> None:
        self.length, self.steps, self.batch_size, self.per_step, self.start = length, steps, batch_size, per_step, start

    def __len__(self) -> int:
        return self.steps * self.per_step

    def __iter__(self) -> Iterator[list[int]]:
        samples = self.per_step * self.batch_size
        for step in range(self.start, self.steps):
            indices = sorted(range(step * samples, (step + 1) * samples), key=self.length)
            yield from (indices[at : at + self.batch_size] for at in range(0, samples, self.batch_size))
