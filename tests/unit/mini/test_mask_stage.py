"""Stage of the detections' masks: what is asked for, what is wanted, and what learns."""

from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from pixellm.data.records import AnnotatedImage, Instance
from pixellm.mini import mask_stage
from pixellm.mini.detections import Detections
from pixellm.mini.losses import MiniLossWeights
from pixellm.mini.mask_head import SIDE, with_margin
from pixellm.mini.mask_stage import MaskSamples, MaskTraining, collate_masks
from tests.support import tiny

PERSON, DOG, TABLE = range(3)  # as the detector numbers them
HW = torch.tensor([64, 64])


def rectangle(left: int, top: int, right: int, bottom: int) -> torch.Tensor:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def asked(instances, detections, hw=HW):
    """Instances: (mask, class, merged); detections: (box, class, score)."""
    masks, classes, merged = zip(*instances, strict=True) if instances else ([], [], [])
    boxes, found, scores = zip(*detections, strict=True) if detections else ([], [], [])
    return mask_stage._asked(
        torch.stack(masks) if masks else torch.zeros(0, 64, 64, dtype=torch.bool),
        torch.tensor(classes, dtype=torch.long),
        torch.tensor(merged, dtype=torch.bool),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(found, dtype=torch.long),
        torch.tensor(scores, dtype=torch.float32),
        hw,
    )


@pytest.fixture
def always_matched(monkeypatch):
    monkeypatch.setattr(mask_stage, "MATCHED_RATE", 1.0)


@pytest.mark.usefixtures("always_matched")
def test_a_matched_instance_is_asked_for_by_its_detection():
    """By the one that overlaps it most, of its class."""
    mask = rectangle(10, 10, 30, 30)
    detections = [([8, 8, 32, 33], DOG, 0.9), ([11, 10, 30, 30], DOG, 0.3), ([10, 10, 30, 30], PERSON, 0.9)]
    boxes, classes, masks = asked([(mask, DOG, False)], detections)
    assert boxes.tolist() == [[11, 10, 30, 30]]
    assert classes.tolist() == [DOG]
    assert torch.equal(masks[0], mask)


@pytest.mark.usefixtures("always_matched")
@pytest.mark.parametrize("detections", [[], [([20, 20, 60, 60], DOG, 0.9)], [([10, 10, 30, 40], PERSON, 0.9)]])
def test_a_missed_instance_is_asked_for_by_its_own_box(monkeypatch, detections):
    """No detection, one that overlaps too little, one of another class."""
    monkeypatch.setattr(mask_stage, "BOX_NOISE", 0.0)
    boxes, classes, _ = asked([(rectangle(10, 10, 30, 40), DOG, False)], detections)
    assert boxes.tolist() == [[10, 10, 30, 40]]
    assert classes.tolist() == [DOG]


def test_own_boxes_move_a_little_and_stay_in_the_image():
    torch.manual_seed(0)
    own, seen = torch.tensor([[0.0, 10.0, 40.0, 30.0]]), set()
    for _ in range(50):
        box = asked([(rectangle(0, 10, 40, 30), DOG, False)], [], torch.tensor([32, 40]))[0]
        assert box_iou(box, own).item() > 0.5
        assert (box >= 0).all()
        assert (box <= torch.tensor([40.0, 32.0, 40.0, 32.0])).all()
        seen.add(tuple(box[0].tolist()))
    assert len(seen) == 50


def test_matched_ones_are_not_always_asked_for_by_their_detection():
    torch.manual_seed(0)
    detection = [10.0, 10.0, 31.0, 30.0]
    rows = [asked([(rectangle(10, 10, 30, 30), DOG, False)], [(detection, DOG, 0.9)])[0] for _ in range(200)]
    share = sum(row[0].tolist() == detection for row in rows) / 200
    assert share == pytest.approx(mask_stage.MATCHED_RATE, abs=0.1)


def test_a_united_mask_is_asked_for_by_detections_apart():
    """Two dogs apart; the third and fourth box overlap each other, the fifth holds none of the mask, the sixth is
    unsure, the seventh is a person's.
    """
    mask = rectangle(4, 4, 20, 20) | rectangle(40, 4, 60, 20) | rectangle(4, 40, 40, 60)
    detections = [
        ([3, 3, 21, 21], DOG, 0.9),
        ([40, 4, 60, 20], DOG, 0.4),
        ([4, 40, 30, 60], DOG, 0.9),
        ([15, 40, 40, 60], DOG, 0.9),
        ([45, 30, 63, 63], DOG, 0.9),
        ([22, 4, 38, 20], DOG, 0.2),
        ([40, 4, 60, 20], PERSON, 0.9),
    ]
    boxes, classes, masks = asked([(mask, DOG, True)], detections)
    assert boxes.tolist() == [[3, 3, 21, 21], [40, 4, 60, 20]]
    assert classes.tolist() == [DOG, DOG]
    assert torch.equal(masks, torch.stack([mask, mask]))


def test_nothing_to_ask_for():
    for instances, detections in (
        ([], []),
        ([], [([3, 3, 21, 21], DOG, 0.9)]),
        ([(rectangle(4, 4, 20, 20), DOG, True)], []),
        ([(rectangle(4, 4, 7, 40), DOG, False)], []),  # too narrow
    ):
        boxes, classes, masks = asked(instances, detections)
        assert (boxes.shape, classes.shape, masks.shape) == ((0, 4), (0,), (0, 64, 64))
        assert classes.dtype == torch.long


def test_at_most_eight_of_an_image():
    instances = [(rectangle(6 * n, 0, 6 * n + 6, 10), PERSON, False) for n in range(10)]
    boxes, _, masks = asked(instances, [])
    assert len(boxes) == mask_stage.MAX_INSTANCES
    assert torch.equal(masks, torch.stack([mask for mask, *_ in instances[:8]]))


def test_a_full_rectangle_is_wanted_inside_its_box_and_nowhere_else():
    """Its box takes 10 of 12 parts of the one with the margin."""
    boxes = with_margin(torch.tensor([[12.0, 20.0, 32.0, 50.0]]))
    wanted = mask_stage._inside(rectangle(12, 20, 32, 50)[None], boxes)[0]
    assert wanted.shape == (2 * SIDE, 2 * SIDE)
    border = 2 * SIDE / 12  # cells: 4.67; beside it one cell is cut, and sampling reaches a pixel further
    assert (wanted[8:-8, 8:-8] == 1).all()
    assert (wanted[:2] == 0).all()
    assert (wanted[-2:] == 0).all()
    assert (wanted[:, :2] == 0).all()
    assert (wanted[:, -2:] == 0).all()
    assert float(wanted.sum()) == pytest.approx((2 * SIDE - 2 * border) ** 2, rel=0.01)


def test_losses_by_hand():
    logits, wanted = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    wanted[1] = 1
    found = mask_stage._losses(logits, wanted, MiniLossWeights(bce=2.0, dice=3.0))
    assert found["bce"].item() == pytest.approx(2 * np.log(2))
    assert found["dice"].item() == pytest.approx(3 * ((1 - 1 / 9) + (1 - 17 / 25)) / 2)
    nothing = mask_stage._losses(logits[:0], wanted[:0], MiniLossWeights())
    assert [loss.item() for loss in nothing.values()] == [0, 0]


class OneImage:
    """In place of `AugmentedImages`: a dog and two tables of one mask, and a cat, which the detector does not know."""

    class mixture:  # noqa: N801
        plan = [type("Place", (), {"source": 1})()]  # noqa: RUF012

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        import random

        tables = (rectangle(0, 0, 10, 40) | rectangle(50, 0, 64, 40)).numpy()[:48]
        instances = (
            Instance(("dog",), rectangle(16, 8, 40, 40).numpy()[:48], "dog"),
            Instance(("table",), tables, "table", merged=True),
            Instance(("cat",), rectangle(40, 40, 60, 46).numpy()[:48], "cat"),
        )
        return AnnotatedImage(tiny.picture(64, 48), instances), random.Random(5)


def samples() -> MaskSamples:
    return MaskSamples(OneImage(), tiny.DETECTED, 64, unseen=(False, True))


def test_a_sample(monkeypatch):
    monkeypatch.setattr(mask_stage, "SMALLEST_FIT", 1.0)
    sample = samples()[0]
    assert sample["pixel_values"].shape == (3, 64, 64)
    assert sample["resized_hw"].tolist() == [48, 64]
    assert bool(sample["unseen"])
    assert (sample["pixel_values"][:, 48:] == 0).all()
    pixels = np.asarray(tiny.picture(64, 48), dtype=np.float32) / 127.5 - 1
    torch.testing.assert_close(sample["pixel_values"][:, :48], torch.from_numpy(pixels).permute(2, 0, 1))
    by_class = dict(zip(sample["classes"].tolist(), sample["masks"], strict=True))
    merged = dict(zip(sample["classes"].tolist(), sample["merged"].tolist(), strict=True))
    assert torch.equal(by_class[DOG], rectangle(16, 8, 40, 40))
    assert torch.equal(by_class[TABLE], rectangle(0, 0, 10, 40) | rectangle(50, 0, 64, 40))
    assert merged == {DOG: False, TABLE: True}


def training(model, batch, steps: int) -> list[float]:
    """Return the loss of each step; the detector is silent, so own boxes are asked for."""
    stage = MaskTraining(model)
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], 3e-3)
    found = []
    for step in range(steps):
        torch.manual_seed(step % 3)
        stage.train()
        output = stage(**batch, counts=Counter(images=1), loss_weights=MiniLossWeights())
        loss = sum(output.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_only_the_mask_head_learns():
    model = tiny.build(tiny.detector_config())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = training(model, collate_masks([samples()[0]] * 2), 12)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    for name, tensor in model.state_dict().items():
        if not name.startswith("instances.mask_head."):
            assert torch.equal(tensor, before[name]), name
    for name, parameter in model.named_parameters():
        own = name.startswith("instances.mask_head.")
        assert (parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)) == own, name


def test_images_without_instances_give_no_loss_and_gradients_of_0(monkeypatch):
    model = tiny.build(tiny.detector_config())
    sample = samples()[0]
    empty = sample | {key: sample[key][:0] for key in ("masks", "classes", "merged")}
    losses = training(model, collate_masks([empty]), 1)
    assert losses == [0]
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_what_is_wanted_is_of_the_instance_asked_for(monkeypatch):
    """Two images whose dogs lie elsewhere, each matched by its detection: each is filled but for the margin."""
    model = tiny.build(tiny.detector_config())
    places, seen = [(4, 4, 24, 30), (30, 10, 60, 44)], []
    found = Detections(torch.tensor(places)[:, None].float(), torch.tensor([[DOG]] * 2), torch.ones(2, 1))
    forward = model.vision_encoder.forward

    def detected(*inputs):
        features = forward(*inputs)
        features.objects.detections = found
        return features

    monkeypatch.setattr(model.vision_encoder, "forward", detected)
    monkeypatch.setattr(mask_stage, "MATCHED_RATE", 1.0)
    inside = mask_stage._inside
    monkeypatch.setattr(mask_stage, "_inside", lambda *inputs: seen.append(inside(*inputs)) or seen[-1])
    batch = collate_masks([samples()[0]] * 2)
    batch |= {"masks": [rectangle(*place)[None] for place in places], "classes": [torch.tensor([DOG])] * 2}
    batch |= {"merged": [torch.tensor([False])] * 2}
    training(model, batch, 1)
    assert seen[0].shape == (2, 56, 56)
    assert (seen[0][:, 8:-8, 8:-8] == 1).all()
    assert (seen[0][:, :2] == 0).all()
