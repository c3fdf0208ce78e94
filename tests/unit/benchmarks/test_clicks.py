"""Clicks on objects of COCO-format images, by a tiny model and by hand."""

import json

import numpy as np
import pytest

from benchmarks import clicks
from pixellm.data.coco import CocoSource
from pixellm.eval.clicks import ClickCurves
from pixellm.predictor import Predictor
from tests.support import tiny


@pytest.fixture
def source(tmp_path) -> CocoSource:
    """An image of 80 × 60 with two dogs and a speck, and one with a crowd of people."""
    boxes = [(1, 7, (10, 20, 30, 25)), (1, 7, (50, 20, 20, 20)), (1, 9, (0, 0, 5, 5)), (2, 9, (5, 5, 40, 40))]
    images, annotations = [], []
    for number in (1, 2):
        tiny.picture(80, 60, number).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 60, "width": 80})
    for number, (image, category, (x, y, w, h)) in enumerate(boxes):
        corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        row = {"id": number, "image_id": image, "category_id": category, "bbox": [x, y, w, h], "area": w * h}
        annotations.append(row | {"segmentation": corners, "iscrowd": int(image == 2)})
    path = tmp_path / "annotations.json"
    categories = [{"id": 7, "name": "dog"}, {"id": 9, "name": "person"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return CocoSource(path, tmp_path)


def test_objects(source):
    def found(single: bool, limit: int | None = None) -> list[tuple[int, str, int]]:
        chosen = clicks.choose(source, single, 100, limit)
        return [(wanted.record, wanted.category, int(wanted.mask.sum())) for wanted in chosen]

    assert found(False) == [(0, "dog", 1150), (1, "person", 1600)]
    assert found(True) == [(0, "dog", 750), (0, "dog", 400)]
    assert found(False, 1) == [(0, "dog", 1150)]


def test_each_object_begins_with_the_mask_of_its_category(source):
    predictor = Predictor(tiny.build(tiny.detector_config(refine_width=32)), tiny.tiny_processor(64, 6))
    rows = list(clicks.with_first_masks(predictor, source, clicks.choose(source, False, 100, None)))
    assert [(row.category, target.phrase) for row, target in rows] == [("dog", "The dog"), ("person", "The person")]
    target = rows[1][1]
    refining = clicks.Refining(predictor, target)
    mask = refining(target.mask, [(20.5, 20.5, True)])
    assert np.array_equal(mask, predictor.refine(target, points=[(20.5, 20.5, True)]).mask)
    assert len(refining.seconds) == 1


def test_a_disk_is_added_or_taken_away():
    nothing = np.zeros((100, 100), dtype=bool)
    disk = clicks.add_disk(nothing, [(50.5, 40.5, True)])
    assert int(disk.sum()) == 29  # pixels whose centres lie within 3 of one
    assert disk[40, 53]
    assert not disk[40, 54]
    assert not clicks.add_disk(disk, [(9.5, 9.5, True), (50.5, 40.5, False)])[37:44, 47:54].any()


def test_rows_by_hand():
    rows = clicks.rows_of(ClickCurves([[0.5, 0.9, 0.8], [0.1, 0.2, 0.25]]), 2)
    assert rows["mean IoU after 0"] == pytest.approx(0.3)
    assert rows["mean IoU after 1"] == pytest.approx(0.55)
    assert "mean IoU after 3" not in rows
    assert rows["clicks to 0.85"] == pytest.approx(1.5)
    assert rows["share that reaches 0.90"] == 0.5
    assert rows["largest fall of the mean after a click"] == pytest.approx(0.025)
