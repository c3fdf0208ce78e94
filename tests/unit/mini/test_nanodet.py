"""NanoDet: how cells become boxes, and its published weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from pixellm.data.categories import COCO
from pixellm.mini import nanodet
from pixellm.mini.detections import select_detections
from pixellm.mini.nanodet import BINS, NanoDet
from pixellm.mini.parts import read_detector
from pixellm.mini.vision import ObjectDetector
from tests.support import tiny

SHOWN = (25, 34, 36, 72, 81, 92)  # ids of images with one large object


def small(num_classes: int = 3) -> NanoDet:
    torch.manual_seed(0)
    network = NanoDet(num_classes)
    tiny.randomise(network, 0)
    return network.eval()


def test_certain_distances_by_hand():
    """Cell (row 1, column 2) at stride 8 has its centre at x 20, y 12; its sides are 1, 0, 3 and 10 strides away."""
    logits = torch.full((1, 4 * BINS, 2, 3), -1e4)
    for side, steps in enumerate((1, 0, 3, 10)):
        logits[0, side * BINS + steps] = 1e4
    boxes = nanodet._boxes(logits, 8)
    assert boxes.shape == (1, 6, 4)
    assert boxes[0, 5].tolist() == [20 - 8, 12, 20 + 24, 12 + 80]
    assert boxes[0, 0].tolist() == [4 - 8, 4, 4 + 24, 4 + 80]


def test_distances_are_expectations_over_bins():
    logits = torch.randn(2, 4 * BINS, 3, 2, generator=torch.Generator().manual_seed(0))
    boxes = nanodet._boxes(logits, 16)
    values = logits.double().numpy()
    for image in range(2):
        for row in range(3):
            for column in range(2):
                weights = np.exp(values[image, :, row, column].reshape(4, BINS))
                left, top, right, bottom = (weights * np.arange(BINS)).sum(axis=1) / weights.sum(axis=1)
                x, y = column + 0.5, row + 0.5
                wanted = 16 * np.array([x - left, y - top, x + right, y + bottom])
                np.testing.assert_allclose(boxes[image, 2 * row + column], wanted, rtol=1e-5)


def test_pixels_are_blue_first():
    rgb = torch.tensor([255.0, 116.28, 0.0])[None, :, None, None].expand(1, 3, 2, 2)
    blue, green, red = small().normalise(rgb)[0, :, 0, 0].tolist()
    assert (blue, red) == pytest.approx((-103.53 / 57.375, (255 - 123.675) / 58.395), rel=1e-5)
    assert green == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("side", "cells"), [(64, 64 + 16 + 4), (96, 144 + 36 + 9)])
@torch.no_grad()
def test_shapes(side, cells):
    output = small(5)(torch.randn(2, 3, side, side))
    assert output.scores.shape == (2, cells, 5)
    assert output.boxes.shape == (2, cells, 4)
    assert output.fine.shape == (2, 64, side // 4, side // 4)
    assert [tuple(map_.shape) for map_ in output.pyramid] == [(2, 128, side // s, side // s) for s in (8, 16, 32)]
    assert 0 <= output.scores.min() <= output.scores.max() <= 1


@torch.no_grad()
def test_boxes_and_scores_stay_fp32():
    output = small().bfloat16()(torch.randn(1, 3, 64, 64).bfloat16())
    assert (output.scores.dtype, output.boxes.dtype) == (torch.float32, torch.float32)
    assert output.fine.dtype == torch.bfloat16


@torch.no_grad()
def test_padding_does_not_matter():
    """Whatever lies right of and below the image, the detector sees 0 there."""
    detector = ObjectDetector(tiny.detector_config().vision_config).eval()
    tiny.randomise(detector, 0)
    pixels, hw, presence = torch.randn(1, 3, 64, 64), torch.tensor([[40, 64]]), torch.randn(1, 5)
    other = pixels.clone()
    other[:, :, 40:] = 9 * torch.randn(1, 3, 24, 64)
    (first, logits), (second, others) = detector(pixels, hw, presence), detector(other, hw, presence)
    assert (first.pixels[:, :, 40:] == 0).all()
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.detections.boxes, second.detections.boxes)
    assert torch.equal(logits, others)
    other[:, :, :8] += 1
    assert not torch.equal(detector(other, hw, presence)[0].evidence, first.evidence)


@torch.no_grad()
def test_presence_of_known_categories_by_hand():
    """Gain · logit of the best score + gain · the classifier's + bias; categories of the classifier alone stay."""
    detector = ObjectDetector(tiny.detector_config().vision_config).eval()
    tiny.randomise(detector, 0)
    detector.presence_gains.copy_(torch.tensor([0.5, 2.0]))
    detector.presence_bias.fill_(-1.0)
    presence = torch.randn(1, 5)
    objects, corrected = detector(torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]]), presence)
    best = detector.network(objects.pixels).scores.amax(dim=1)[0].clamp(1e-6, 1 - 1e-6)
    wanted = presence[0].clone()
    for place, name in enumerate(tiny.DETECTED):
        column = tiny.VOCABULARY.index(name)
        wanted[column] = 0.5 * best[place].logit() + 2.0 * presence[0, column] - 1.0
    torch.testing.assert_close(corrected[0], wanted)


@torch.no_grad()
def test_published_weights_see_the_annotated_objects(shared):
    network = NanoDet(len(COCO)).eval()
    network.load_state_dict(read_detector(shared / "parts" / "nanodet_g"))
    data = json.loads((shared / "data" / "coco_480" / "instances_train.json").read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    for info in (image for image in data["images"] if image["id"] in SHOWN):
        own = [a for a in data["annotations"] if a["image_id"] == info["id"] and not a["iscrowd"]]
        largest = max(own, key=lambda a: a["area"])
        with Image.open(shared / "data" / "coco_480" / "images" / info["file_name"]) as image:
            rgb = torch.from_numpy(np.asarray(image.convert("RGB").resize((416, 416)), dtype=np.float32))
        output = network(network.normalise(rgb.permute(2, 0, 1)[None]))
        boxes, classes, _ = select_detections(output.scores, output.boxes, torch.tensor([[416, 416]]), 1).image(0)
        x, y, w, h = largest["bbox"]
        scale = torch.tensor([info["width"], info["height"]]).repeat(2) / 416
        assert COCO[int(classes[0])] == names[largest["category_id"]]
        assert box_iou(boxes * scale, torch.tensor([[x, y, x + w, y + h]])).item() > 0.7


def test_files_that_hold_no_detector(tmp_path):
    graph, data = tmp_path / "nanodet.json", tmp_path / "nanodet.bin"
    with pytest.raises(ValueError, match=r"expected NanoDet's nanodet\.json and nanodet\.bin"):
        read_detector(tmp_path)
    data.write_bytes(b"\0" * 8)
    entry = {"name": "a", "shape": [4], "dtype": "float32"}
    empty = {"weightsManifest": [{"weights": []}], "modelTopology": {"node": []}}
    for text in (
        *("{", "[]", "{}", json.dumps(empty)),
        json.dumps(empty | {"weightsManifest": [{"weights": [entry]}]}),  # more than the file holds
        json.dumps(empty | {"modelTopology": None}),
    ):
        graph.write_text(text)
        with pytest.raises(ValueError, match=r"expected NanoDet's nanodet\.json and nanodet\.bin"):
            read_detector(tmp_path)
