"""Questions and answers about annotated photographs: form, truth and determinism."""

import random
import string
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pixellm.data import describe, grammar, templates
from pixellm.data.categories import CATEGORIES, COCO, COLOURED, CONSPICUOUS, OVERLAPS, SYNONYMS, WORD_ALSO_MEANS
from pixellm.data.describe import COLOURS, describe_instances, noun, pluralize
from pixellm.data.grammar import (
    KIND_WEIGHTS,
    Grammar,
    knowledge_exchanges,
)
from pixellm.data.knowledge import attributes, read_attributes, surely_absent
from pixellm.data.records import AnnotatedImage, Exchange, Instance
from pixellm.data.templates import (
    CATEGORY_QUESTIONS,
    NOTHING_FITS,
    all_question,
    category_question,
    several_question,
)

HEIGHT, WIDTH = 100, 200
KNOWN = frozenset(COCO)


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def instance(category: str, mask: np.ndarray, merged: bool = False) -> Instance:
    return Instance((category,), mask, category, merged)


def grey_image() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 120, dtype=np.uint8)


def street() -> list[Instance]:
    """Two dogs and a car apart from each other, a crowd, and a bird too small to be asked for."""
    return [
        instance("dog", box(60, 10, 20, 20)),
        instance("car", box(40, 80, 30, 40)),
        instance("dog", box(60, 150, 30, 30)),
        instance("person", box(10, 100, 20, 60), merged=True),
        instance("bird", box(0, 0, 1, 3)),
    ]


def annotate(instances, image=None, known=KNOWN, captions=()) -> AnnotatedImage:
    image = grey_image() if image is None else image
    return AnnotatedImage(Image.fromarray(image), tuple(instances), (), known, tuple(captions))


def ask(instances, seed, *, count=40, **annotations) -> list[Exchange]:
    return list(Grammar(count).build(annotate(instances, **annotations), random.Random(seed)))


def members(target: Instance, instances: list[Instance]) -> tuple[int, ...]:
    """Which instances a target unites."""
    inside = [i for i, one in enumerate(instances) if one.category == target.category and target.mask[one.mask].all()]
    assert np.array_equal(target.mask, np.any([instances[i].mask for i in inside], axis=0))
    return tuple(inside)


def unions(turn: Exchange, instances: list[Instance]) -> tuple[tuple[int, ...], ...]:
    return tuple(members(target, instances) for target in turn.targets)


def ask_often(instances, seeds=60, **kwargs) -> list[Exchange]:
    return [turn for seed in range(seeds) for turn in ask(instances, seed, count=12, **kwargs)]


def test_every_answer_has_a_slot_for_each_target():
    for turn in ask_often(street(), captions=["a {dog}  and\na car "]):
        assert turn.answer.count("{seg}") == len(turn.targets)
        assert turn.question.count("{") == 0
        assert turn.answer.replace("{seg}", "").count("{") == 0
        assert all(unions(turn, street()))
        assert turn.answer[0].isupper()
        assert turn.answer[-1] in ".!?"
        assert len(turn.targets) <= grammar.MAX_SLOTS


def test_all_kinds_come_up_in_about_their_weight():
    turns = [turn for seed in range(600) for turn in ask(street(), seed, count=1, captions=["A dog."])]
    for kind, weight in KIND_WEIGHTS.items():
        assert sum(turn.kind == kind for turn in turns) / len(turns) == pytest.approx(weight, abs=0.06)


def test_is_determined_by_the_generator():
    def texts(seed):
        return [(turn.question, turn.answer, unions(turn, street())) for turn in ask(street(), seed)]

    assert texts(3) == texts(3)
    assert texts(3) != texts(4)


def test_no_question_twice_and_no_more_than_wanted():
    for seed in range(20):
        turns = ask(street(), seed)
        assert len({turn.question.lower() for turn in turns}) == len(turns) <= 40
    assert ask(street(), 0, count=0) == []


def test_targets_are_what_the_answer_names():
    instances = street()
    for turn in ask_often(instances):
        if turn.kind in ("category", "several", "knowledge", "all"):
            for target in turn.targets:
                word = noun(target.category)
                assert word.singular in turn.answer.lower() or word.plural in turn.answer
                same = tuple(i for i, one in enumerate(instances) if one.category == target.category)
                assert members(target, instances) == same


def test_names_in_an_answer_stand_before_their_slots():
    instances = [instance("bus", box(0, 0, 20, 20)), *street()]
    turn = knowledge_exchanges(annotate(instances))["has wheels"]
    assert turn.question == attributes()["has wheels"].questions[0]
    assert turn.answer == "The car {seg} and the bus {seg}."
    assert unions(turn, instances) == ((2,), (0,))


def test_absent_names_are_known_and_absent():
    known = frozenset({"dog", "cat", "bird", "car", "person", "bear"})
    instances = [*street(), instance("teddy bear", box(0, 180, 20, 20))]
    absent = [turn for turn in ask_often(instances, known=known) if "there is no" in turn.answer.lower()]
    # The bird is too small to be asked for but there; the bear may be the teddy bear.
    assert {turn.answer.lower().rsplit("there is no ", 1)[1] for turn in absent} <= {"cat here.", "cat."}
    assert absent


def test_says_nothing_of_absence_or_of_all_where_annotations_are_incomplete():
    turns = ask_often(street(), known=None)
    assert {turn.kind for turn in turns} == {"category", "several", "instance"}
    assert not any("no " in turn.answer.lower() for turn in turns)
    # Another dog may be further left, or smaller.
    answers = {turn.answer for turn in turns if turn.kind == "instance" and "dog" in turn.answer}
    assert answers == {"The largest dog {seg}."}


def test_a_category_that_is_too_small_is_neither_asked_for_nor_absent():
    for turn in ask_often(street()):
        assert "bird" not in turn.answer
        assert "bird" not in {target.category for target in turn.targets}
        # A bird is an animal, too: without it no answer about animals would be right.
        assert turn.question not in attributes()["animal"].questions


def test_a_small_instance_belongs_to_its_category_only():
    instances = [instance("dog", box(10, 10, 40, 40)), instance("dog", box(90, 180, 2, 4))]
    turns = ask_often(instances)
    assert all((0, 1) in unions(turn, instances) for turn in turns if turn.kind == "category")
    one = {id(target.mask) for turn in turns if turn.kind == "instance" for target in turn.targets}
    assert one == {id(instances[0].mask)}


def test_nothing_is_asked_for_with_the_words_of_category():
    patterns = {text.split("{")[0] for text in CATEGORY_QUESTIONS}
    turns = [turn for turn in ask_often([]) if turn.kind == "nothing"]
    named = [turn for turn in turns if turn.answer != NOTHING_FITS]
    fitting = [turn for turn in turns if turn.answer == NOTHING_FITS]
    assert named
    assert fitting
    assert all(any(turn.question.startswith(pattern) for pattern in patterns) for turn in named)
    assert all(any(turn.question in attribute.questions for attribute in attributes().values()) for turn in fitting)
    assert all(turn.targets == () for turn in turns)
    assert "There are no skis here." in {turn.answer for turn in named}


def test_knowledge_of_absence_needs_the_whole_vocabulary():
    dog = [instance("dog", box(10, 10, 40, 40))]
    assert {"animal", "vehicle"} <= set(knowledge_exchanges(annotate(dog)))
    # With only dogs and cats annotated, an animal that is there may be named, but a vehicle not be denied.
    some = set(knowledge_exchanges(annotate(dog, known=frozenset({"dog", "cat"}))))
    assert "animal" in some
    assert "meows" in some
    assert "vehicle" not in some
    # Clothes are not annotated in COCO.
    assert "for the legs" not in knowledge_exchanges(annotate(dog))
    assert knowledge_exchanges(annotate([*dog, instance("gizmo", box(50, 50, 20, 20))])) == {}
    assert knowledge_exchanges(annotate(dog, known=None)) == {}
    assert "pet" not in knowledge_exchanges(annotate([*dog, instance("horse", box(50, 50, 20, 20))]))


def test_likely_food_is_not_denied():
    assert "food" in knowledge_exchanges(annotate([instance("dog", box(0, 0, 40, 40))]))
    assert "food" not in knowledge_exchanges(annotate([instance("dining table", box(0, 0, 40, 40))]))


def test_left_and_right_follow_the_masks():
    def described(instances):
        places = {id(one.mask): index for index, one in enumerate(instances)}
        asked = [t for t in ask_often(instances) if t.kind == "instance" and "most" in t.answer]
        return {(t.answer, *map(places.get, (id(target.mask) for target in t.targets))) for t in asked}

    instances = street()[:3]
    mirrored = [replace(one, mask=one.mask[:, ::-1]) for one in instances]
    assert described(instances) == {("The leftmost dog {seg}.", 0), ("The rightmost dog {seg}.", 2)}
    assert described(mirrored) == {("The leftmost dog {seg}.", 2), ("The rightmost dog {seg}.", 0)}


def test_separate_instances_are_read_from_left_to_right():
    instances = [instance("dog", box(10, left, 20, 20)) for left in (150, 10, 80)]
    found = [turn for turn in ask_often(instances) if turn.answer.startswith("The first")]
    assert found
    for turn in found:
        assert turn.answer == "The first dog {seg}, the second dog {seg} and the third dog {seg}."
        assert all(target.mask is instances[i].mask for target, i in zip(turn.targets, (1, 2, 0), strict=True))


def answers(category, masks, image=None, coloured=True, complete=True):
    image = grey_image() if image is None else image
    return {d.answer for d in describe_instances(category, masks, image, coloured, complete)}


def test_instances_are_only_described_by_clear_differences():
    close = [box(10, 50, 20, 20), box(10, 60, 22, 20)]
    assert answers("dog", close, coloured=False) == set()
    apart = [box(10, 10, 20, 20), box(12, 100, 30, 30)]
    assert answers("dog", apart, coloured=False) == {
        *("the leftmost dog", "the rightmost dog", "the largest dog", "the smallest dog")
    }
    assert answers("scissors", apart) == set()


def test_a_lone_instance_is_described_by_its_side():
    assert answers("dog", [box(10, 10, 20, 20)], coloured=False) == {"the dog on the left"}
    assert answers("dog", [box(10, 170, 20, 20)], coloured=False) == {"the dog on the right"}
    assert answers("dog", [box(10, 90, 20, 20)], coloured=False) == set()


def test_colour_must_be_the_instances_own():
    first, second = box(10, 20, 20, 20), box(60, 20, 20, 20)
    image = grey_image()
    image[first] = (200, 20, 20)
    image[second] = (20, 20, 200)
    assert {"the red car", "the blue car"} <= answers("car", [first, second], image)
    # Other cars may be red where not all are annotated; food is of any colour.
    assert "the red car" not in answers("car", [first, second], image, complete=False)
    assert "the red car" not in answers("car", [first, second], image, coloured=False)
    image[60:67, 20:40] = (200, 20, 20)  # a third of the second car
    assert "the red car" not in answers("car", [first, second], image)
    assert "the red car" in answers("car", [first], image)
    image[10:20, 20:40] = (20, 200, 20)  # half of the first
    assert answers("car", [first], image) == {"the car on the left"}


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        *(((10, 10, 10), "black"), ((250, 250, 250), "white"), ((120, 120, 120), "grey"), ((200, 20, 20), "red")),
        *(((240, 130, 10), "orange"), ((240, 220, 20), "yellow"), ((30, 140, 40), "green"), ((20, 50, 200), "blue")),
        *(((120, 30, 160), "purple"), ((250, 120, 180), "pink"), ((110, 70, 40), "brown")),
    ],
)
def test_colour_names(rgb, name):
    assert COLOURS[describe.colour_names(np.array([rgb], dtype=np.uint8))[0]] == name


@pytest.mark.parametrize(
    ("singular", "plural"),
    [
        *(("person", "people"), ("mouse", "mice"), ("knife", "knives"), ("skis", "skis"), ("scissors", "scissors")),
        *(("bus", "buses"), ("sheep", "sheep"), ("wine glass", "wine glasses"), ("teddy bear", "teddy bears")),
        *(("bench", "benches"), ("couch", "couches"), ("toothbrush", "toothbrushes"), ("accessory", "accessories")),
        *(("toy", "toys"), ("scarf", "scarves"), ("potato", "potatoes"), ("high heel shoe", "high heel shoes")),
        *(("donut", "donuts"), ("tv", "tvs"), ("human being", "human beings"), ("sunglasses", "sunglasses")),
    ],
)
def test_plurals(singular, plural):
    assert pluralize(singular) == plural


def test_noun_forms():
    assert noun("dog").counted(1) == "a dog"
    assert noun("umbrella").counted(2) == "two umbrellas"
    assert noun("umbrella").some(many=False) == "an umbrella"
    assert noun("dog").counted(6) == "many dogs"
    assert noun("broccoli").counted(3) == "broccoli"
    assert noun("skis").every() == "all the skis"
    assert noun("skis").there_is_no() == "there are no skis"
    assert noun("date (fruit)").there_is_no() == "there is no date"
    assert noun("dog", "puppy").the(many=True) == "the puppies"


def test_merged_masks_are_not_counted():
    instances = [instance("dog", box(10, 10, 40, 40), merged=True), instance("shoe", box(60, 60, 10, 10), merged=True)]
    turns = ask_often(instances)
    assert {turn.answer for turn in turns if turn.kind == "all"} == {"Dog {seg} and shoe {seg}."}
    assert {turn.answer for turn in turns if turn.kind == "category"} == {"The dog {seg}.", "The shoes {seg}."}
    assert not any(turn.kind == "instance" for turn in turns)


def test_all_counts_and_begins_with_the_largest():
    instances = [*(instance("dog", box(0, 20 * i, 10, 10)) for i in range(6)), instance("car", box(20, 0, 60, 60))]
    counted = {turn.answer for turn in ask_often(instances) if turn.kind == "all"}
    assert counted == {"A car {seg} and many dogs {seg}.", "Car {seg} and dog {seg}."}


def test_captions_have_no_slots():
    turns = [t for t in ask_often(street(), captions=["a {seg} dog  runs"]) if t.kind == "caption"]
    assert {turn.answer for turn in turns} == {"A seg dog runs."}


def test_fixed_wordings():
    assert category_question("person") == "Segment every person in this image."
    assert several_question(["cat", "skis", "dog"]) == "Segment every cat, all the skis and every dog in this image."
    assert all_question() in templates.ALL_QUESTIONS
    assert knowledge_exchanges(annotate([]))["barks"].answer == NOTHING_FITS


def test_wrong_things_are_refused():
    with pytest.raises(ValueError, match="image's size"):
        ask([instance("dog", np.ones((3, 3), dtype=bool))], 0)
    with pytest.raises(ValueError, match="with pixels"):
        ask([instance("dog", np.zeros((HEIGHT, WIDTH), dtype=bool))], 0)
    with pytest.raises(ValueError, match="without braces"):
        ask([instance("{dog}", box(0, 0, 9, 9))], 0)


def test_tables_speak_of_known_names_only():
    for attribute in attributes().values():
        assert attribute.members
        assert attribute.members | attribute.ambiguous | attribute.hints <= CATEGORIES
        assert not attribute.members & attribute.ambiguous
        assert all(vocabulary and vocabulary <= attribute.members for vocabulary in attribute.vocabularies)
        assert 4 <= len(attribute.questions) <= 6
    assert set(SYNONYMS) | set(COLOURED) | set(CONSPICUOUS) <= CATEGORIES
    assert frozenset().union(*OVERLAPS) <= CATEGORIES
    words = [word for synonyms in SYNONYMS.values() for word in synonyms]
    assert len(words) == len(set(words))
    assert not set(words) & {describe.spoken(name) for name in CATEGORIES}
    assert set(WORD_ALSO_MEANS) <= set(words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("barks: {holds: [dog], questions: [", "is not YAML"),
        ("- barks", "expected a mapping of attributes"),
        ("barks: [dog]", "expected a name and a mapping"),
        ("barks: {holds: [dog]}", r"missing fields \['questions'\]"),
        ("barks: {holds: [dog], questions: ['What barks?'], hint: [cat]}", r"unknown fields \['hint'\]"),
        ("barks: {holds: dog, questions: ['What barks?']}", "holds: expected a list of strings"),
        ("barks: {holds: [dogg], questions: ['What barks?']}", r"holds: unknown names \['dogg'\]"),
        ("barks: {holds: [dog], questions: ['What barks?'], ambiguous: [ANIMALS]}", "both hold and are ambiguous"),
        ("barks: {holds: [dog], questions: ['What barks?'], vocabularies: dog}", "expected a list of lists"),
        ("barks: {holds: [dog], questions: []}", "not empty"),
        ("swims: {holds: [otter], questions: ['What swims?']}", "not empty"),
    ],
)
def test_malformed_attributes_are_refused(tmp_path, text, message):
    path = tmp_path / "attributes.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_attributes(path)


def test_groups_in_attributes_stand_for_their_names(tmp_path):
    path = tmp_path / "attributes.yaml"
    path.write_text("farmed: {holds: [FARM_ANIMALS, dog], questions: ['What is farmed?']}", encoding="utf-8")
    farmed = read_attributes(path)["farmed"]
    assert farmed.members == {"horse", "sheep", "cow", "dog"}
    assert farmed.vocabularies == (farmed.members,)


def test_what_may_be_called_otherwise_is_not_absent():
    assert surely_absent({"teddy bear"}, {"bear", "teddy bear", "dog", "cat"}) == ["cat", "dog"]
    assert surely_absent({"date (fruit)"}, {"date", "car"}) == ["car"]


def test_no_wording_serves_two_purposes():
    wordings = [question for attribute in attributes().values() for question in attribute.questions]
    wordings += [*CATEGORY_QUESTIONS, *templates.SEVERAL_QUESTIONS, *templates.SEPARATE_QUESTIONS]
    wordings += [*templates.ALL_QUESTIONS, *templates.KINDS_QUESTIONS, *templates.CAPTION_QUESTIONS]
    plain = ["".join(c for c in w.lower() if c not in string.punctuation) for w in wordings if "{" not in w]
    assert len(plain) == len(set(plain))
    assert len(wordings) == len(set(wordings))
