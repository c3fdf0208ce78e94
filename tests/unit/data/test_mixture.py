"""Which record is sample i, and which samples make a batch."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixellm.data.mixture import LengthBatches, MixturePlan

PLAN = MixturePlan(sizes=(7, 100, 30, 50), weights=(2, 9, 2, 4), epoch_length=170, seed=3)


def key(draw) -> tuple[int, int, float]:
    return draw.source, draw.record, draw.rng.random()


@given(
    st.lists(st.tuples(st.integers(1, 20), st.floats(0, 9)), min_size=1, max_size=5).filter(
        lambda sources: sum(weight for _, weight in sources) > 0.1
    ),
    st.integers(1, 60),
)
def test_an_epoch_has_exactly_its_shares(sources, length) -> None:
    sizes, weights = zip(*sources, strict=True)
    plan = MixturePlan(sizes, weights, length)
    quotas = plan.quotas
    assert sum(quotas) == length
    assert all(abs(q - length * w / sum(weights)) < 1 for q, w in zip(quotas, weights, strict=True))
    for epoch in (0, 3):
        drawn = Counter(plan[epoch * length + i].source for i in range(length))
        assert [drawn[s] for s in range(len(sizes))] == quotas


def test_every_record_comes_once_before_any_comes_again() -> None:
    draws = [PLAN[i] for i in range(4 * PLAN.epoch_length)]
    for source, size in enumerate(PLAN.sizes):
        records = [draw.record for draw in draws if draw.source == source]
        passes = [records[at : at + size] for at in range(0, len(records), size)]
        assert all(sorted(one) == list(range(size)) for one in passes[:-1])
        assert len(set(passes[-1])) == len(passes[-1])
    assert draws[0:7] != draws[7:14]


def test_a_sample_depends_on_its_number_alone() -> None:
    forwards = [key(PLAN[i]) for i in range(400)]
    backwards = [key(MixturePlan(PLAN.sizes, PLAN.weights, PLAN.epoch_length, 3)[i]) for i in reversed(range(400))][
        ::-1
    ]
    assert forwards == backwards
    other = MixturePlan(PLAN.sizes, PLAN.weights, PLAN.epoch_length, seed=4)
    assert forwards != [key(other[i]) for i in range(400)]
    assert forwards[:170] != forwards[170:340]


@pytest.mark.parametrize(
    ("sizes", "weights", "length"),
    [((), (), 5), ((3,), (1, 2), 5), ((3,), (0,), 5), ((3,), (-1,), 5), ((0,), (1,), 5), ((3,), (1,), 0)],
)
def test_bad_mixtures_are_refused(sizes, weights, length) -> None:
    with pytest.raises(ValueError, match="expected"):
        MixturePlan(sizes, weights, length)


def length(index: int) -> float:
    return (index * 7919) % 97


def test_a_step_sees_its_samples_however_it_is_split() -> None:
    for batch_size, per_step in ((12, 1), (3, 4), (1, 12)):
        sampler = LengthBatches(length, steps=10, batch_size=batch_size, per_step=per_step)
        batches = list(sampler)
        assert len(batches) == len(sampler) == 10 * per_step
        for step in range(10):
            seen = [i for batch in batches[step * per_step : (step + 1) * per_step] for i in batch]
            assert sorted(seen) == list(range(12 * step, 12 * step + 12))


def muse_like_length(index: int) -> float:
    """2 : 9 : 2 : 4; a photograph's questions of MUSE take from one to a few hundred tokens, with a long tail."""
    rng = random.Random(index)
    kind = rng.choices(("semantic", "refer", "vqa", "muse"), (2, 9, 2, 4))[0]
    if kind == "muse":
        targets = sum(min(34, 2 + int(rng.expovariate(0.6))) for _ in range(rng.randint(1, 5)))
        return 25 * targets
    return {"semantic": 160, "refer": 130, "vqa": 350}[kind] * rng.uniform(0.6, 1.4)


@pytest.mark.parametrize(("batch_size", "per_step"), [(2, 80), (4, 8), (8, 8)])
def test_little_is_padding(batch_size, per_step) -> None:
    prefix = 300  # system text and image

    def padding(batches) -> float:
        rows = [[prefix + muse_like_length(i) for i in batch] for batch in batches]
        return 1 - sum(map(sum, rows)) / sum(len(row) * max(row) for row in rows)

    count = 4000 // (batch_size * per_step)
    unsorted = [list(range(at, at + batch_size)) for at in range(0, 4000, batch_size)]
    by_length = padding(LengthBatches(muse_like_length, count, batch_size, per_step))
    assert by_length < 0.15
    assert by_length < 0.75 * padding(unsorted)


@given(st.integers(0, 10))
def test_going_on_gives_the_batches_that_are_left(start) -> None:
    def batches(start: int) -> list[list[int]]:
        return list(LengthBatches(length, steps=10, batch_size=3, per_step=2, start=start))

    assert batches(start) == batches(0)[2 * start :]


def test_processes_share_a_step_without_overlap() -> None:
    """Accelerate gives process r of n every n-th batch: together they see what one process with accumulation sees."""
    batches = list(LengthBatches(length, steps=6, batch_size=2, per_step=4))
    for step in range(6):
        alone = batches[4 * step : 4 * step + 4]
        together = [batch for rank in range(2) for batch in batches[rank::2][2 * step : 2 * step + 2]]
        assert sorted(together) == sorted(alone)
