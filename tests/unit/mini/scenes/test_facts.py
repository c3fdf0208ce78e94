"""The tables: every name has its place, and questions neither name a member nor repeat the ones that judge."""

import re

from pixellm.data.categories import CATEGORIES, COCO
from pixellm.data.describe import spoken
from pixellm.data.knowledge import attributes
from pixellm.mini.scenes.facts import facts
from pixellm.mini.scenes.lexicon import canonical, groups, names, noun_of, overlapping, read_table

FILLERS = frozenset(("the", "a", "an", "of", "is", "are", "what", "which", "here", "i", "in", "to", "this", "these"))


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower())) - FILLERS


def by_key() -> dict:
    return {fact.key: fact for fact in facts()}


def test_every_name_is_in_one_group():
    listed = [name for members in read_table("lexicon.yaml")["groups"].values() for name in members]
    assert len(listed) == len(set(listed))
    assert len(names()) >= 400


def test_names_of_datasets_are_decided():
    assert {canonical(name) for name in COCO} <= names()
    undecided = {name for name in CATEGORIES if canonical(name) not in names()}
    assert undecided == {"fish (food)"}  # its spoken form is an animal, too


def test_there_are_some_hundred_facts():
    assert len(facts()) >= 200
    assert all(len(set(fact.asks)) >= 4 for fact in facts())


def test_questions_name_no_member():
    for fact in facts():
        forms = {form for name in fact.members for form in (noun_of(name).singular, noun_of(name).plural)}
        for ask in fact.asks:
            assert not [form for form in forms if re.search(rf"\b{re.escape(form)}\b", ask.lower())], (fact.key, ask)


def test_questions_are_not_those_that_judge():
    judging = [words(attribute.questions[0]) for attribute in attributes().values()]
    for fact in facts():
        for ask in fact.asks:
            own = words(ask)
            assert all(len(own & other) < 0.6 * len(own | other) for other in judging), ask


def test_facts_that_are_easily_wrong():
    table = by_key()
    assert table["sit"].members >= {"chair", "couch", "bench"}
    assert "dining table" not in table["sit"].members
    assert "motorcycle" in table["two wheels"].members
    assert "car" not in table["two wheels"].members
    assert "boat" not in table["wheels"].members
    assert "skis" not in table["wheels"].members
    assert table["cutlery"].members == {"fork", "knife", "spoon"}
    assert "teddy bear" not in table["animals"].members | table["alive"].members
    assert "penguin" not in table["in the air"].members | table["birds that fly"].members
    assert "bird" in table["two legs"].members
    assert "snake" not in table["four legs"].members
    assert "fire hydrant" in table["metal"].members
    assert "snake" not in table["lay eggs"].members
    assert not table["eat"].members & groups()["ANIMAL"]


def test_overlaps_are_known_from_both_sides():
    assert "cup" in overlapping("mug")
    assert "mug" in overlapping("cup")
    assert "truck" in overlapping("fire truck")
    assert "dog" not in overlapping("cat")
    assert all(name in overlapping(other) for name in names() for other in overlapping(name) if spoken(other) == other)
