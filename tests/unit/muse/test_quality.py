"""Checks of records: what each finds, what it leaves alone, and how well on injected faults."""

from dataclasses import replace

import pytest

from pixellm.muse.quality.checks import NAMES, Issue, QualityRules, check
from pixellm.muse.quality.duplicates import check_all
from pixellm.muse.quality.fault_injection import inject, measure
from pixellm.muse.quality.spatial import wrong_place, wrong_size
from pixellm.muse.quality.wording import content_words, ends_with, name_in, word_list
from pixellm.muse.records import MuseImage, MuseRecord, MuseTarget, Provenance
from tests.support import muse_cases


def test_good_records_pass() -> None:
    assert {one.record_id: faults for one in muse_cases.records(60) if (faults := check(one))} == {}


def test_each_check_finds_its_fault() -> None:
    """Floors, not figures: the wordings that are injected are not those that the checks know."""
    measured = {one.check: one for one in measure(muse_cases.records(42))}
    assert tuple(measured) == NAMES
    for name, one in measured.items():
        assert one.injected >= 15, name
        assert one.recall >= 0.9, name
        assert one.precision >= 0.9, name


def test_injection_is_seeded() -> None:
    records = muse_cases.records(5)
    assert repr(inject(records, 1)) == repr(inject(records, 1))  # repr: one fault is a NaN
    assert repr(inject(records, 1)) != repr(inject(records, 2))


def thing(x: float, y: float, description: str, category: str = "dog", side: float = 10, number: int = 1) -> MuseTarget:
    """A square about (x, y) in an image of 100 × 100 pixels."""
    left, top = x - side / 2, y - side / 2
    outline = [left, top, left + side, top, left + side, top + side, left, top + side]
    return MuseTarget(number, category, description, [outline], (left, top, side, side), side * side)


def record(*targets: MuseTarget) -> MuseRecord:
    image = MuseImage(1, "1.jpg", 100, 100)
    text = " and ".join(f"{one.description} {{seg}}" for one in targets)
    return MuseRecord("1/0", image, "Who barks at night?", text, targets, Provenance("template", "v", "g@1", True))


@pytest.mark.parametrize(
    ("x", "y", "description", "true"),
    [
        (20, 50, "the dog on the left", True),
        (80, 50, "the dog on the left", False),
        (80, 50, "the dog on the left side of the image", False),
        (80, 50, "the dog in the lower left-hand corner", False),
        (80, 50, "the left dog", False),
        (80, 50, "the dog in the left foreground", False),
        (80, 50, "the dog on the left side of the bed", True),  # of something else
        (80, 50, "the dog to the left of the bench", True),
        (80, 50, "the dog with its ball in the left paw", True),
        (80, 50, "the dog left behind", True),
        (80, 50, "the dog right behind the fence", True),
        (55, 50, "the dog on the left", True),  # the middle is anybody's
        (20, 50, "the dog on the far right", False),
        (50, 20, "the dog at the bottom of the picture", False),
        (50, 80, "the dog at the top", False),
        (50, 80, "the dog at the top of the stairs", True),
        (50, 80, "the dog on the top bunk", True),
        (50, 80, "the dog in the upper right corner", False),
        (20, 20, "the dog in the upper right corner", False),
        (80, 20, "the dog in the upper right corner", True),
    ],
)
def test_places(x, y, description, true) -> None:
    one = thing(x, y, description)
    assert (wrong_place(one, record(one)) is None) is true


def test_places_among_things_of_a_kind() -> None:
    first, second = thing(70, 50, "the dog on the left"), thing(90, 50, "the rightmost dog", number=2)
    assert not wrong_place(first, record(first, second))
    assert not wrong_place(second, record(first, second))
    first, second = thing(70, 50, "the rightmost dog"), thing(90, 50, "the dog on the left", number=2)
    assert wrong_place(first, record(first, second))
    assert wrong_place(second, record(first, second))
    cat = thing(50, 50, "the cat", "cat", number=3)
    beside = thing(70, 50, "the dog to the left of the cat")
    assert "on the other side of 'the cat'" in (wrong_place(beside, record(beside, cat)) or "")
    beside = thing(30, 50, "the dog to the left of the cat")
    assert not wrong_place(beside, record(beside, cat))


def test_places_among_all_that_is_known() -> None:
    """Alone, "leftmost" can't be judged; beside a dog that is no target, it can."""
    one, cat = thing(80, 50, "the leftmost dog"), thing(60, 20, "the cat", "cat", number=2)
    other = thing(20, 50, "", number=3)

    def faults(rules: QualityRules) -> list[str]:
        return [fault.check for fault in check(record(one, cat), rules)]

    assert faults(QualityRules()) == []
    assert faults(QualityRules(others=lambda _: [other, one])) == ["place"]
    assert faults(QualityRules(others=lambda _: [thing(95, 50, "", number=3)])) == []


@pytest.mark.parametrize(
    ("side", "other", "description", "true"),
    [
        (60, None, "the tiny dog", False),
        (5, None, "the tiny dog", True),
        (5, None, "the huge dog", False),
        (20, None, "the large dog", True),
        (20, 40, "the large dog", False),
        (60, 80, "the small dog", True),
        (20, 21, "the largest dog", False),
        (22, 21, "the biggest dog", True),
        (22, 21, "the smallest dog", False),
    ],
)
def test_sizes(side, other, description, true) -> None:
    one = thing(50, 50, description, side=side)
    kin = [thing(50, 50, "the other dog", side=other, number=2)] if other else []
    assert (wrong_size(one, record(one, *kin)) is None) is true


@pytest.mark.parametrize(
    ("question", "category", "found"),
    [
        ("Which sofa is free?", "couch", "sofa"),
        ("Who ate the Hot Dogs?", "hot_dog", "hot dogs"),
        ("Who went bowling?", "bowl", None),
        ("Which of the dates (fruit) is sweet?", "date_(fruit)", "dates"),
        ("Which knives are sharp?", "knife", "knives"),
    ],
)
def test_names_in_questions(question, category, found) -> None:
    assert name_in(question, category, "the thing") == found


def test_words() -> None:
    assert ends_with('Take "the Hot  Dog" ', "a hot dog")
    assert ends_with("the dog (", "the dog")
    assert not ends_with("the bulldog ", "dog")
    assert not ends_with("the dog runs ", "the dog")
    assert content_words("What is in this image?") == []
    assert content_words("What could be eaten here?") == ["eaten"]


def test_unsafe_rule_is_pluggable() -> None:
    one = muse_cases.record(0)
    assert check(one, QualityRules(unsafe=word_list(["Steak"]))) == [Issue("unsafe", "it says 'steak'")]
    assert check(one, QualityRules(unsafe=lambda text: "no" if "steak" in text else None)) == [Issue("unsafe", "no")]
    with pytest.raises(ValueError, match="expected a list of words"):
        word_list([" "])


def test_language_is_a_rule() -> None:
    assert [one.check for one in check(muse_cases.record(0), QualityRules(language="de"))] == ["foreign"]


def test_near_duplicates() -> None:
    """The first stays; a bad record makes none of its copies a duplicate."""
    one = muse_cases.record(0)
    same_image = replace(one, record_id="a", question=one.question.replace("?", " ?"))
    other_image = replace(one, record_id="b", image=replace(one.image, coco_url="elsewhere"))
    found = [[fault.check for fault in faults] for _, faults in check_all([one, same_image, other_image, one])]
    assert found == [[], ["near_duplicate"], ["near_duplicate"], ["near_duplicate"]]
    assert [len(faults) for _, faults in check_all([one, same_image, other_image], QualityRules(repeats=1))] == [
        0,
        1,
        0,
    ]
    bad = replace(one, record_id="c", targets=one.targets[:1])
    assert [bool(faults) for _, faults in check_all([bad, one])] == [True, False]
