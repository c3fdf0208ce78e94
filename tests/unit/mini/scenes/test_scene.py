"""Scenes: read from annotated images, drawn, and what a view finds in them."""

import random

import numpy as np
from PIL import Image

from pixellm.data.records import AnnotatedImage, Instance
from pixellm.mini.scenes import Scene, SceneObject, draw_scene, scene_of
from pixellm.mini.scenes.facts import facts
from pixellm.mini.scenes.lexicon import names, overlapping
from pixellm.mini.scenes.scene import SceneView


def row(*across: float, category: str = "dog") -> Scene:
    boxes = [(x - 0.05, 0.4, x + 0.05, 0.6) for x in across]
    return Scene(tuple(SceneObject(category, box) for box in boxes), names())


def test_boxes_of_masks_and_boxes_known_alone():
    mask = np.zeros((10, 20), dtype=bool)
    mask[2:5, 4:10] = True
    crowd = Instance(("person",), ~mask, "person", merged=True)
    annotated = AnnotatedImage(
        Image.new("RGB", (20, 10)),
        (Instance(("date",), mask, "date (fruit)"), crowd),
        boxes=(("cup", (10.0, 5.0, 5.0, 2.5)),),
        exhaustive=frozenset({"person", "date (fruit)"}),
    )
    scene = scene_of(annotated)
    assert scene.objects[0] == SceneObject("date", (0.2, 0.2, 0.5, 0.5))
    assert scene.objects[2] == SceneObject("cup", (0.5, 0.5, 0.75, 0.75))
    assert scene.known == {"person", "date"}
    assert scene.uncounted == {"person"}


def test_drawn_scenes_are_plausible():
    rng = random.Random(2)
    seen: set[str] = set()
    for _ in range(1500):
        scene = draw_scene(rng)
        present = {item.category for item in scene.objects}
        seen |= present
        assert 1 <= len(scene.objects) <= 27
        assert present <= scene.known
        assert not [name for name in present if overlapping(name) & present]
        for left, top, right, bottom in (item.box for item in scene.objects):
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
    assert len(seen) > 0.9 * len(names())


def test_labels_tell_objects_apart():
    view = SceneView(row(0.5, 0.1, 0.9))
    assert [view.label(i) for i in range(3)] == [
        "the dog in the middle",
        "the dog on the far left",
        "the dog on the far right",
    ]
    assert SceneView(row(0.2, 0.8)).label(1) == "the dog on the right"
    assert SceneView(row(0.5, 0.51)).label(0) == "one of the two dogs"
    assert SceneView(row(0.3)).label(0) == "the dog"


def test_a_name_that_may_be_meant_is_not_absent():
    view = SceneView(row(0.5, category="mug"))
    assert "cup" not in view.absent
    assert "fork" in view.absent


def test_facts_need_certainty():
    table = {fact.key: fact for fact in facts()}
    scene = row(0.5, category="chair")
    assert SceneView(scene).fitting(table["sit"]) == ("chair",)
    assert SceneView(scene).fitting(table["sleep"]) == ()
    assert SceneView(row(0.5, category="toilet")).fitting(table["sit"]) is None  # a matter of opinion
    few = Scene(scene.objects, frozenset({"chair", "dog"}))
    assert SceneView(few).fitting(table["sleep"]) is None  # a bed may be there, unlisted
