"""Mask AP of detections, by a tiny model."""

import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from benchmarks import instances
from pixellm.imaging import masks
from pixellm.mini.detections import Detections
from tests.support import tiny


@pytest.fixture
def data(tmp_path):
    """Two images of 80 × 60 with a dog each."""
    images, annotations = [], []
    for number in (1, 2):
        tiny.picture(80, 60, number).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 60, "width": 80})
        box = [10 * number, 20, 30, 25]
        x, y, w, h = box
        corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        row = {"id": number, "image_id": number, "category_id": 7, "bbox": box, "area": w * h, "iscrowd": 0}
        annotations.append(row | {"segmentation": corners})
    path = tmp_path / "annotations.json"
    categories = [{"id": 7, "name": "dog"}, {"id": 9, "name": "person"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return COCO(str(path)), tmp_path


def test_what_is_segmented_right_has_ap_1(timm_processor, data, monkeypatch):
    """The detector is sure of the dogs' boxes, and the mask head of everything in a box but its margin."""
    model = tiny.build(tiny.detector_config())
    coco, folder = data
    forward, places = model.vision_encoder.forward, iter([(10, 20, 40, 45), (20, 20, 50, 45)])

    def detected(*inputs):
        features = forward(*inputs)
        box = torch.tensor(next(places)) * 64 / 80
        features.objects.detections = Detections(box[None, None], torch.tensor([[1]]), torch.tensor([[0.9]]))
        return features

    def filled(objects, maps, class_logits, boxes, index, classes):
        logits = torch.full((len(boxes), 56, 56), -8.0)
        logits[:, 5:-5, 5:-5] = 8.0
        return logits

    monkeypatch.setattr(model.vision_encoder, "forward", detected)
    monkeypatch.setattr(model.instances, "segment", filled)
    segment = instances.Segmenting(model, timm_processor)
    looked_at, results = instances.results_of(segment, coco, folder, None)
    assert looked_at == [1, 2]
    assert [(row["image_id"], row["category_id"], row["score"]) for row in results] == [
        (1, 7, pytest.approx(0.9)),
        (2, 7, pytest.approx(0.9)),
    ]
    mask = masks.decode(results[0]["segmentation"], 60, 80)
    wanted = np.zeros((60, 80), dtype=bool)
    wanted[20:45, 10:40] = True
    assert (mask & wanted).sum() / (mask | wanted).sum() > 0.9
    assert instances.evaluate(coco, looked_at, results)["AP50"] == pytest.approx(1)
    assert len(segment.seconds) == 2


def test_a_random_model_runs(detector_model, timm_processor, data):
    coco, folder = data
    segment = instances.Segmenting(detector_model, timm_processor)
    looked_at, results = instances.results_of(segment, coco, folder, 1)
    assert looked_at == [1]
    assert results
    assert {row["category_id"] for row in results} <= {7, 9}  # tables are not in the file
    assert instances.evaluate(coco, looked_at, results).keys() == {"AP", "AP50", "small", "medium", "large"}
    assert set(instances.evaluate(coco, looked_at, []).values()) == {0.0}


def test_a_model_without_a_detector(timm_model, timm_processor):
    with pytest.raises(ValueError, match="expected a model with a detector"):
        instances.Segmenting(timm_model, timm_processor)
