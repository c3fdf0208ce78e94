"""Index of annotations, and selection of images and instances."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pixellm.muse.annotation_index import AnnotationIndex
from pixellm.muse.selection import MISSING, Selection, SelectionRules

CATEGORIES = [{"id": 1, "name": "cup"}, {"id": 2, "name": "dining_table"}, {"id": 3, "name": "dog"}]


def box(x: int, y: int, side: int) -> dict:
    outline = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {"segmentation": [outline], "bbox": [x, y, side, side], "area": side * side}


def annotation(number: int, image_id: int, category_id: int, where=(10, 10, 20), **more) -> dict:
    return {"id": number, "image_id": image_id, "category_id": category_id} | box(*where) | more


def image(number: int, **more) -> dict:
    return {"id": number, "file_name": f"{number}.jpg", "height": 100, "width": 100, "license": 4} | more


def source(tmp_path: Path, images: list, annotations: list, **more) -> AnnotationIndex:
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES} | more
    (tmp_path / "instances.json").write_text(json.dumps(content))
    for one in images:
        (tmp_path / one["file_name"]).touch()
    return AnnotationIndex.build(tmp_path / "instances.json", tmp_path / "out" / "source.sqlite")


def chosen(tmp_path: Path, found: AnnotationIndex, **rules) -> list:
    return list(Selection(found, tmp_path, SelectionRules(**rules)))


def test_things_that_are_usable(tmp_path) -> None:
    found = source(
        tmp_path,
        [image(7)],
        [
            annotation(1, 7, 1),
            annotation(2, 7, 2, (40, 40, 30)),
            annotation(3, 7, 3, (11, 10, 20)),  # the dog is where the cup is
            annotation(4, 7, 3, (80, 80, 3)),
            annotation(5, 7, 3, (50, 0, 40), iscrowd=1),
            annotation(6, 7, 1, (0, 60, 20), segmentation=[]),
        ],
        licenses=[{"id": 4, "url": "http://creativecommons.org/licenses/by/2.0/", "name": "Attribution"}],
    )
    (one,) = chosen(tmp_path, found)
    assert one.annotated is not None
    assert [(thing.annotation_id, thing.category) for thing in one.annotated.instances] == [
        (1, "cup"),
        (2, "dining table"),
    ]
    assert {thing.annotation_id for thing in one.annotated.others} == {3, 4, 5, 6}
    assert one.left_out == {"annotated twice": 1, "too small": 1, "crowd": 1, "no mask": 1}
    assert one.annotated.complete == {"cup", "dining table"}  # of the dogs, some are a crowd
    assert one.image.licence == "http://creativecommons.org/licenses/by/2.0/"


def test_rare_categories_come_first(tmp_path) -> None:
    two = ((5, 5, 20), (60, 60, 20))
    numbers = iter(range(1, 100))
    wanted = {1: (1, 1), 2: (1, 2), 3: (1, 3), 4: (1, 2), 5: (1,), 6: ()}
    annotations = [
        annotation(next(numbers), i, category, where)
        for i, categories in wanted.items()
        for category, where in zip(categories, two, strict=False)
    ]
    found = source(tmp_path, [image(i) for i in wanted], annotations)
    assert found.count() == 6
    assert list(found.rarest_first(0.0)) == [3, 2, 4, 1, 5, 6]  # dog is in 1, table in 2, cup in 5 of them
    reasons = [(one.image.image_id, one.reason) for one in chosen(tmp_path, found)]
    assert reasons == [
        *((3, None), (2, None), (4, None), (1, None)),
        *((5, "fewer than 2 usable instances"), (6, "fewer than 2 usable instances")),
    ]
    enough = chosen(tmp_path, found, per_category=1)
    assert Counter(one.reason for one in enough) == {
        None: 2,
        "enough images of its categories": 2,
        "fewer than 2 usable instances": 2,
    }
    assert [one.image.image_id for one in chosen(tmp_path, found, images=2)] == [3, 2]


def test_no_photograph_twice_and_none_that_is_missing(tmp_path) -> None:
    url = "http://images.cocodataset.org/val2017/000000000001.jpg"
    images = [image(1, coco_url=url), image(2, coco_url=url.replace("val", "train")), image(3)]
    annotations = [
        annotation(10 * i + j, i, 1, where) for i in (1, 2, 3) for j, where in enumerate(((0, 0, 20), (50, 50, 20)))
    ]
    found = source(tmp_path, images, annotations)
    (tmp_path / "3.jpg").unlink()
    reasons = {one.image.image_id: one.reason for one in chosen(tmp_path, found)}
    assert reasons == {1: None, 2: "the image is in the annotations twice", 3: MISSING}


def test_of_too_many_things_the_rarest_are_kept(tmp_path) -> None:
    cups = [annotation(i, 1, 1, (10 * i, 0, 9)) for i in range(1, 6)]
    found = source(tmp_path, [image(1), image(2)], [*cups, annotation(9, 1, 3, (50, 50, 30)), annotation(10, 2, 1)])
    (one, _) = chosen(tmp_path, found, max_instances=2)
    assert one.annotated is not None
    assert [thing.annotation_id for thing in one.annotated.instances] == [1, 9]
    assert one.left_out == {"more than max_instances": 4}


def test_lvis_knows_some_categories_only(tmp_path) -> None:
    partial = image(1, neg_category_ids=[3], not_exhaustive_category_ids=[2])
    del partial["file_name"]
    partial["coco_url"] = "http://images.cocodataset.org/train2017/000000000042.jpg"
    annotations = [annotation(1, 1, 1), annotation(2, 1, 2, (50, 50, 20))]
    content = {"images": [partial], "annotations": annotations, "categories": CATEGORIES}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    found = AnnotationIndex.build(tmp_path / "instances.json", tmp_path / "source.sqlite").image(1)
    assert found.complete == {"cup", "dog"}
    assert not found.exhaustive
    assert found.image.file_name == "train2017/000000000042.jpg"


def test_captions(tmp_path) -> None:
    source(tmp_path, [image(1)], [annotation(1, 1, 1)]).close()
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"annotations": [{"image_id": 1, "caption": text} for text in ("b", "a")]}))
    with_captions = AnnotationIndex.build(tmp_path / "instances.json", tmp_path / "out" / "source.sqlite", captions)
    assert with_captions.image(1).captions == ("b", "a")


def test_an_index_is_built_once(tmp_path) -> None:
    source(tmp_path, [image(1)], [annotation(1, 1, 1)]).close()
    index = tmp_path / "out" / "source.sqlite"
    before = index.stat().st_mtime_ns
    AnnotationIndex.build(tmp_path / "instances.json", index).close()
    assert index.stat().st_mtime_ns == before
    source(tmp_path, [image(1), image(2)], [annotation(1, 1, 1)]).close()
    assert index.stat().st_mtime_ns != before
    assert [path.name for path in index.parent.iterdir()] == ["source.sqlite"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"id": 1}]}, "expected COCO or LVIS instances"),
        ({"annotations": [annotation(1, 9, 1)]}, "annotation 1 is of the image 9, which isn't there"),
        ({"annotations": [annotation(1, 1, 9)]}, "annotation 1 is of the category 9, which isn't there"),
        ({"images": []}, "expected images and categories, got none"),
        ({"images": [image(1), image(1)]}, "got one twice"),
        ({"categories": [{"id": 1}]}, "expected COCO or LVIS instances"),
        ({"annotations": [annotation(1, 1, 1, bbox=None)]}, "expected a bbox of annotation 1"),
    ],
)
def test_what_is_no_source(tmp_path, change, message) -> None:
    content = {"images": [image(1)], "annotations": [], "categories": CATEGORIES} | change
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        AnnotationIndex.build(tmp_path / "instances.json", tmp_path / "out" / "source.sqlite")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_no_json(tmp_path) -> None:
    (tmp_path / "instances.json").write_text('{"images": [')
    with pytest.raises(ValueError, match="is not JSON"):
        AnnotationIndex.build(tmp_path / "instances.json", tmp_path / "source.sqlite")
    with pytest.raises(ValueError, match="No such file"):
        AnnotationIndex.build(tmp_path / "none.json", tmp_path / "source.sqlite")


@pytest.mark.parametrize("rules", [{"min_area": 1.5}, {"max_instances": 1}, {"images": 0}, {"per_category": 0}])
def test_rules_are_checked(rules) -> None:
    with pytest.raises(ValueError, match="expected"):
        SelectionRules(**rules)
