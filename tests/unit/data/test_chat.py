"""Records → conversations."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixellm.data.chat import Chat
from pixellm.data.records import Exchange, Instance, Record, Segments
from pixellm.types import SEG_SLOT
from tests.support import trees

RNG = random.Random


@dataclass(frozen=True)
class Filled:
    """A mask of one value, told apart by its number."""

    number: int

    def decode(self, height: int, width: int) -> np.ndarray:
        mask = np.zeros((height, width), dtype=bool)
        mask.flat[self.number] = True
        return mask


def instance(number: int, *names: str) -> Instance:
    return Instance(names or (f"thing {number}",), Filled(number))


def record(**fields) -> Record:
    return Record("r", Path("image.png"), **fields)


def turns(source: Record, seed: int, **chat) -> tuple[Exchange, ...]:
    return Chat(**chat).build(source, RNG(seed))


@pytest.mark.parametrize(("instances", "groups"), [(1, 1), (2, 2), (3, 3), (5, 3), (9, 3), (20, 3)])
def test_instances_are_shared_out_to_questions(instances, groups) -> None:
    """Up to three questions for up to three instances each, every instance at most once (the paper's recipe)."""
    source = record(instances=tuple(instance(i) for i in range(instances)))
    for seed in range(20):
        asked = turns(source, seed)
        sizes = [len(turn.targets) for turn in asked]
        assert len(asked) == groups
        assert max(sizes) <= 3
        assert sum(sizes) == min(instances, 9)
        assert len({r.names for turn in asked for r in turn.targets}) == sum(sizes)


def test_every_answer_has_a_slot_for_each_region_in_order() -> None:
    """Where names are said before masks, they come in the same order."""
    source = record(instances=tuple(instance(i, f"name{i}") for i in range(9)))
    seen = set()
    for seed in range(200):
        for turn in turns(source, seed):
            assert turn.answer.count(SEG_SLOT) == len(turn.targets)
            names = [r.names[0] for r in turn.targets]
            assert sorted(names, key=turn.question.lower().find) == names, turn
            said = [name for name in names if name in turn.answer.lower()]
            assert said in (names, [])
            assert sorted(names, key=turn.answer.lower().find) == names or not said
            seen.add(turn.answer)
    assert any(answer.startswith("{seg}") for answer in seen)
    assert any("name" in answer.lower() for answer in seen)


def test_what_fits_nothing_gets_no_mask() -> None:
    source = record(instances=(Instance(("The Unicorn",), None), instance(1)))
    for seed in range(10):
        by_size = {len(turn.targets): turn for turn in turns(source, seed)}
        assert "the unicorn" in by_size[0].question.lower()
        assert SEG_SLOT not in by_size[0].answer


def test_absent_names_are_asked_for_at_the_rate_given() -> None:
    source = record(instances=tuple(instance(i) for i in range(4)), absent=("zebra",))
    always = [turns(source, seed, absent_rate=1.0) for seed in range(10)]
    assert all(sum("zebra" in turn.question for turn in asked) == 1 for asked in always)
    assert all(len(asked) <= 3 for asked in always)
    assert not any("zebra" in turn.question for seed in range(10) for turn in turns(source, seed, absent_rate=0.0))
    (only,) = turns(record(absent=("zebra",)), 0, absent_rate=0.0)  # there is nothing else to ask
    assert "zebra" in only.question.lower()
    assert "zebra" in only.answer or "fits" in only.answer


def test_all_questions_of_a_record_as_far_as_memory_goes() -> None:
    exchanges = tuple(
        Exchange(f"question {i}?", "{seg} {seg}", (instance(1), instance(2)), "sentence") for i in range(5)
    )
    assert len(turns(record(exchanges=exchanges), 0)) == 5
    capped = [turns(record(exchanges=exchanges), seed, max_masks=7) for seed in range(20)]
    assert {len(asked) for asked in capped} == {3}
    assert len({tuple(sorted(turn.question[:10] for turn in asked)) for asked in capped}) > 1


def test_how_a_records_own_questions_are_put() -> None:
    target = (instance(1, "the cup"),)
    asked = {
        asks: turns(record(exchanges=(Exchange("What holds tea?", "A cup {seg}.", target, asks),)), 0)[0]
        for asks in ("verbatim", "sentence")
    }
    assert asked["verbatim"].question == "What holds tea?"
    assert asked["sentence"].question.startswith("What holds tea? ")
    assert {turn.answer for turn in asked.values()} == {"A cup {seg}."}
    (phrase,) = turns(record(exchanges=(Exchange("The Cup", None, target, "phrase"),)), 0)
    assert "the cup" in phrase.question.lower()
    (explained,) = turns(record(exchanges=(Exchange("Why?", "For {tea}.", target, "explain"),)), 0)
    assert explained.answer.count(SEG_SLOT) == 1
    assert explained.answer.endswith("For {tea}.")


def test_named_answers_name_each_region_before_its_mask() -> None:
    source = record(instances=tuple(instance(i) for i in range(9)))
    for seed in range(20):
        for turn in turns(source, seed, named=True):
            before = turn.answer.lower().split(f" {SEG_SLOT}")[:-1]
            assert len(before) == len(turn.targets)
            assert all(text.endswith(r.names[0]) for text, r in zip(before, turn.targets, strict=True))
    phrase = Exchange("The Cup", None, (instance(1, "The Cup"),), "phrase")
    assert turns(record(exchanges=(phrase,)), 0, named=True)[0].answer == f"The Cup {SEG_SLOT}."
    unnamed = record(exchanges=(Exchange("What?", None, (Instance((), Filled(1)),), "sentence"),))
    assert turns(unnamed, 0, named=True)[0].answer.count(SEG_SLOT) == 1


def test_an_answer_does_not_repeat_the_question() -> None:
    source = record(exchanges=(Exchange("What holds tea?", None, (instance(1, "What holds tea?"),), "sentence"),))
    for seed in range(30):
        (turn,) = turns(source, seed)
        assert "tea" not in turn.answer
        assert turn.answer.count(SEG_SLOT) == 1


def test_other_names_are_used_sometimes() -> None:
    source = record(
        exchanges=(Exchange("What?", None, (instance(1, "first"), instance(2, "red cup", "mug")), "sentence"),)
    )
    answers = [turns(source, seed, first_name_rate=0.5)[0].answer for seed in range(60)]
    assert any("mug" in answer for answer in answers)
    assert any("red cup" in answer for answer in answers)
    assert not any("mug" in turns(source, seed, first_name_rate=1.0)[0].answer for seed in range(60))


ODD = st.text(st.sampled_from("{}segwhatWs ä"), min_size=1, max_size=12).map(lambda text: f"x{text}")


@given(st.lists(ODD, min_size=1, max_size=5), st.integers(0, 1000))
def test_braces_in_names_do_no_harm(names, seed) -> None:
    source = record(instances=tuple(instance(i, name) for i, name in enumerate(names)), absent=tuple(names))
    for turn in turns(source, seed, absent_rate=0.5):
        assert turn.answer.count(SEG_SLOT) == len(turn.targets)


@given(ODD, st.integers(0, 1000))
def test_braces_in_texts_do_no_harm(text, seed) -> None:
    exchanges = (
        Exchange(text, text, ()),
        Exchange(text, None, (instance(1, text),), "phrase"),
        Exchange(text, text, (instance(1, text),), "explain"),
    )
    for source in (record(exchanges=exchanges), record(exchanges=exchanges[:1], dialogue=True)):
        for turn in turns(source, seed):
            assert turn.answer.count(SEG_SLOT) == len(turn.targets)


def test_load_reads_masks_and_what_is_ignored(tmp_path) -> None:
    image = trees.photograph(tmp_path / "a.png")
    exchange = Exchange("q", "{seg} {seg}", (instance(0), instance(7)), ignored=Segments(([trees.SQUARE],)))
    source = Record("r", image, (trees.HEIGHT, trees.WIDTH), exchanges=(exchange, Exchange("q2", "a2", ())))
    sample = Chat().draft(source, RNG(0)).load()
    with_masks, without = sorted(sample.conversations, key=lambda c: -len(c.masks))
    assert with_masks.masks.shape == (2, trees.HEIGHT, trees.WIDTH)
    assert with_masks.masks[1].flat[7]
    assert np.array_equal(with_masks.ignored, trees.square())
    assert without.masks.shape == (0, trees.HEIGHT, trees.WIDTH)
    coarse = Chat(mask_stride=4).draft(source, RNG(0)).load()
    assert {c.masks.shape[1:] for c in coarse.conversations} == {(8, 10)}


def test_load_names_the_record_that_is_wrong(tmp_path) -> None:
    image = trees.photograph(tmp_path / "a.png", (10, 10))
    with pytest.raises(ValueError, match=r"record r: expected .* \(30, 40\) pixels .* got \(10, 10\)"):
        Chat().draft(Record("r", image, (30, 40), instances=(instance(1),)), RNG(0)).load()
    with pytest.raises(ValueError, match="record r: expected an image file"):
        Chat().draft(Record("r", tmp_path / "absent.png", instances=(instance(1),)), RNG(0)).load()


def test_turns_of_a_dialogue_follow_each_other(tmp_path) -> None:
    image = trees.photograph(tmp_path / "a.png")
    exchanges = tuple(Exchange(f"q{i}", f"a{i}", ()) for i in range(3))
    sample = Chat().draft(Record("r", image, exchanges=exchanges, dialogue=True), RNG(0)).load()
    assert [c.question for c in sample.conversations] == ["q0", "q1", "q2"]
    assert [c.continues for c in sample.conversations] == [False, True, True]
