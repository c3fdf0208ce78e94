"""Composed questions: their form, and their truth recomputed from the boxes."""

import random
import re
from collections import Counter
from itertools import pairwise

import pytest

from pixellm.mini.scenes import KINDS, Scene, SceneObject, SceneQuestion, compose, draw_scene
from pixellm.mini.scenes.compose import BUILDERS
from pixellm.mini.scenes.facts import facts
from pixellm.mini.scenes.lexicon import NUMBERS, ORDINALS, names, noun_of, overlapping

QUESTIONS = 3000
FORM = re.compile(r"[^{}]*(\{seg\}[^{}]*)*")


@pytest.fixture(scope="module")
def composed() -> list[tuple[Scene, SceneQuestion]]:
    rng = random.Random(18)
    pairs = []
    for number in range(QUESTIONS):
        scene = draw_scene(rng)
        weights = {KINDS[number // 2 % len(KINDS)]: 1.0} if number % 2 else None
        question = compose(scene, rng, weights)
        if question is not None:
            pairs.append((scene, question))
    return pairs


def centre(item: SceneObject) -> float:
    return (item.box[0] + item.box[2]) / 2


def of_category(scene: Scene, noun: str) -> list[int]:
    """Return the objects that a singular noun of an answer is for, from left to right."""
    found = [i for i, item in enumerate(scene.objects) if noun_of(item.category).singular == noun]
    return sorted(found, key=lambda i: centre(scene.objects[i]))


def turns(composed: list[tuple[Scene, SceneQuestion]], *kinds: str):
    return [(scene, turn) for scene, asked in composed if asked.kind in kinds for turn in asked.turns]


def test_every_slot_has_objects(composed):
    for scene, turn in turns(composed, *KINDS):
        assert turn.answer.count("{seg}") == len(turn.targets), turn
        assert all(target and len(set(target)) == len(target) for target in turn.targets), turn
        assert all(0 <= i < len(scene.objects) for target in turn.targets for i in target), turn


def test_texts_are_filled_and_end(composed):
    for _, turn in turns(composed, *KINDS):
        assert FORM.fullmatch(turn.answer), turn
        assert not re.search(r"[{}]|  |^\s*$", turn.question), turn
        assert turn.answer[-1] in ".!?", turn
        assert turn.answer[0] == turn.answer[0].upper(), turn
        assert not re.search(r"[ ,;]\.|\.\.|\bNone\b", turn.answer), turn
        assert len(turn.answer.replace("{seg}", "").split()) <= 45, turn


def test_a_phrase_stands_before_each_slot(composed):
    for _, turn in turns(composed, *KINDS):
        assert re.search(r"(^|[.;:]) ?\{seg\}|\{seg\} \{seg\}", turn.answer) is None, turn


def test_nothing_has_no_mask_and_others_have_one(composed):
    for _, asked in composed:
        masks = sum(len(turn.targets) for turn in asked.turns)
        assert (asked.kind == "nothing") == (masks == 0), asked


def test_all_kinds_occur_and_nothing_in_all_forms(composed):
    counts = Counter(asked.kind for _, asked in composed)
    assert set(counts) == set(KINDS)
    assert {asked.base for _, asked in composed if asked.kind == "nothing"} >= set(BUILDERS) - {"all"}


def test_about_two_fifths_are_nothing():
    rng = random.Random(3)
    asked = [compose(draw_scene(rng), rng) for _ in range(600)]
    share = sum(a is not None and a.kind == "nothing" for a in asked) / len(asked)
    assert 0.3 < share < 0.5


def test_same_seed_same_questions():
    def run() -> list[SceneQuestion | None]:
        rng = random.Random(5)
        return [compose(draw_scene(rng), rng) for _ in range(60)]

    assert run() == run()


def test_masks_of_a_slot_are_of_one_category(composed):
    for scene, turn in turns(composed, *KINDS):
        for target in turn.targets:
            assert len({scene.objects[i].category for i in target}) == 1, turn


def test_what_is_called_absent_is_known_and_absent(composed):
    checked = 0
    shared = {fact.noun for fact in facts()}  # words for groups that are also categories
    plain = {noun_of(name).singular: name for name in names() - shared}
    # A glove may be an accessory, as a belt may, but holds no trousers.
    unambiguous = {fact.none.rstrip(".").lower() for fact in facts()}
    for scene, turn in turns(composed, *KINDS):
        for phrase in re.findall(r"[Tt]here (?:is|are) (no [^.;]+?)(?: here)?[.;]", turn.answer):
            for word in re.findall(r"no ([a-z' -]+?)(?=, no| and no|$)", phrase):
                if word in plain:
                    name, checked = plain[word], checked + 1
                    present = {item.category for item in scene.objects}
                    assert name in scene.known, turn
                    assert name not in present, turn
                    clauses = {clause.strip(" .").lower() for clause in turn.answer.split(";")}
                    assert clauses & unambiguous or not overlapping(name) & present, turn
    assert checked > 200


def test_order_agrees_with_the_boxes(composed):
    checked = 0
    for scene, turn in turns(composed, "order", "followup"):
        match = re.fullmatch(r"(?:It is t|T)he (\w+) (.+?) from the (left|right) \{seg\}\.", turn.answer)
        first = re.fullmatch(r"(?:It is t|T)he (left|right)most (.+?) \{seg\}\.", turn.answer)
        if match:
            rank, noun, side = ORDINALS.index(match[1]), match[2], match[3]
        elif first:
            rank, noun, side = 0, first[2], first[1]
        else:
            continue
        row = of_category(scene, noun)
        assert turn.targets == ((row[rank if side == "left" else len(row) - 1 - rank],),), turn
        gaps = [centre(scene.objects[b]) - centre(scene.objects[a]) for a, b in pairwise(row)]
        assert min(gaps, default=1) >= 0.03, turn
        checked += 1
    assert checked > 100


def test_an_order_beyond_the_last_names_the_number(composed):
    checked = 0
    for scene, turn in turns(composed, "nothing", "followup"):
        match = re.search(r"only (\w+) (.+), so there is no (\w+) one\.", turn.answer)
        if match:
            words = {noun_of(item.category).form(match[1] != "one"): item.category for item in scene.objects}
            count = sum(item.category == words[match[2]] for item in scene.objects)
            assert NUMBERS.index(match[1]) == count <= ORDINALS.index(match[3]), turn
            checked += 1
    assert checked > 20


def test_each_and_count_go_from_left_to_right(composed):
    for scene, turn in turns(composed, "each", "count"):
        if all(len(target) == 1 for target in turn.targets):
            row = [target[0] for target in turn.targets]
            assert row == sorted(row, key=lambda i: centre(scene.objects[i])), turn
        covered = sorted(i for target in turn.targets for i in target)
        category = scene.objects[covered[0]].category
        assert covered == [i for i, item in enumerate(scene.objects) if item.category == category], turn
        number = re.match(r"There (?:is|are) (\w+) ", turn.answer)
        if number:
            assert number[1] in (NUMBERS[len(covered)], str(len(covered))), turn


def test_comparisons_agree_with_the_boxes():
    rng = random.Random(11)
    drawn = [
        (scene, compose(scene, rng, {"compare": 3.0, "followup": 1.0}))
        for scene in (draw_scene(rng) for _ in range(700))
    ]
    composed = [(scene, asked) for scene, asked in drawn if asked is not None]
    measures = {
        "largest": lambda box: (box[2] - box[0]) * (box[3] - box[1]),
        "smallest": lambda box: -(box[2] - box[0]) * (box[3] - box[1]),
        "widest": lambda box: box[2] - box[0],
        "tallest": lambda box: box[3] - box[1],
        "highest": lambda box: -(box[1] + box[3]),
        "lowest": lambda box: box[1] + box[3],
        "nearest": lambda box: box[3],
    }
    checked = Counter()
    for scene, turn in turns(composed, "compare", "followup"):
        match = re.fullmatch(r"The (\w+) (.+) \{seg\}\.", turn.answer)
        if match and match[1] in measures:
            row = of_category(scene, match[2])
            best = max(row, key=lambda i: measures[match[1]](scene.objects[i].box))
            assert turn.targets == ((best,),), turn
            checked[match[1]] += 1
    assert set(checked) == set(measures)


def test_places_agree_with_the_boxes(composed):
    sides = {
        "left": lambda x, y: x,
        "right": lambda x, y: 1 - x,
        "top": lambda x, y: y,
        "bottom": lambda x, y: 1 - y,
        "middle": lambda x, y: abs(x - 0.5) + 0.25,
    }
    checked = 0
    for scene, turn in turns(composed, "place"):
        match = re.fullmatch(
            r"The (.+?) (?:\{seg\} is )?(on|at|in) the ([a-z ]+?)(?: corner)?(?: \{seg\})?\.", turn.answer
        )
        if not match or len(turn.targets) != 1 or "far" in match[3]:
            continue
        for i in turn.targets[0]:
            left, top, right, bottom = scene.objects[i].box
            for side in match[3].split():
                assert sides[side]((left + right) / 2, (top + bottom) / 2) < 0.4, turn
        checked += 1
    assert checked > 40


def test_a_side_without_an_object_is_empty():
    rng, checked = random.Random(7), 0
    for _ in range(600):
        scene = draw_scene(rng)
        asked = compose(scene, rng, {"place": 0.01, "nothing": 1.0})
        match = asked and re.fullmatch(r"There is no (.+) on the (left|right)\.", asked.turns[0].answer)
        if match:
            across = [centre(scene.objects[i]) for i in of_category(scene, match[1])]
            assert across
            assert all(x > 0.4 if match[2] == "left" else x < 0.6 for x in across)
            checked += 1
    assert checked > 5


def test_verbs_agree_with_their_subjects():
    rng, checked = random.Random(9), Counter()
    for _ in range(700):
        scene = draw_scene(rng)
        asked = compose(scene, rng, {"neighbour": 1.0})
        match = asked and re.search(r"\{seg\} (is|are) (?:above|below|next to|on|to the)", asked.turns[0].answer)
        if match:
            found = [scene.objects[i] for target in asked.turns[0].targets for i in target]
            plural = len(found) > 1 or noun_of(found[0].category).is_plural(many=False)
            assert match[1] == ("are" if plural else "is"), asked
            checked[match[1]] += 1
    assert set(checked) == {"is", "are"}


def test_counts_are_compared_as_they_are(composed):
    checked = 0
    for _, turn in turns(composed, "yes_no"):
        match = re.search(r"\bmore ([a-z -]+) than ([a-z -]+)", turn.question.lower())
        if match and len(turn.targets) == 2:
            first, second = (len(target) for target in turn.targets)
            assert turn.answer.startswith("Yes") == (first > second), turn
            checked += 1
    assert checked > 5


def test_groups_are_narrowed_by_facts_that_divide_them() -> None:
    """Which vehicles have wheels is asked of a boat, too, but never which animals are alive."""
    rng = random.Random(5)
    objects = [SceneObject(name, (0.2 * n, 0.1, 0.2 * n + 0.1, 0.6)) for n, name in enumerate(("car", "boat", "dog"))]
    scene = Scene(tuple(objects), names())
    asked = [compose(scene, rng, {kind: 1.0}) for kind in ("has", "group") for _ in range(600)]
    turns = [question.turns[0] for question in asked if question]
    wheels = [t for t in turns if "has wheels" in t.question and "vehicle" in t.question]
    assert wheels
    assert all("car" in turn.answer and "boat" not in turn.answer for turn in wheels)
    assert not any("animal" in turn.question and "is alive" in turn.question for turn in turns)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="unknown kinds"):
        compose(draw_scene(random.Random(0)), random.Random(0), {"colour": 1.0})


def test_unknown_categories_are_never_called_absent():
    scene = Scene((SceneObject("dog", (0.1, 0.2, 0.4, 0.8)), SceneObject("gizmo", (0.6, 0.2, 0.9, 0.8))), frozenset())
    rng = random.Random(1)
    answers = [compose(scene, rng) for _ in range(200)]
    assert all(asked is None or asked.kind != "nothing" for asked in answers)


def test_facts_are_not_asked_of_names_without_any():
    scene = Scene((SceneObject("gizmo", (0.1, 0.2, 0.4, 0.8)), SceneObject("dog", (0.6, 0.2, 0.9, 0.8))), names())
    rng = random.Random(1)
    assert all(compose(scene, rng, {"use": 1, "has": 1, "group": 1}) is None for _ in range(20))
