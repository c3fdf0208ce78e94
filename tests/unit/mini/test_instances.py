"""Instances: which detections a target means, and what they make of its mask."""

import pytest
import torch
import torch.nn.functional as F

from pixellm.mini.detections import Detections
from pixellm.mini.instances import OUTSIDE, InstanceDecoder, region_share
from pixellm.mini.mask_head import paste, with_margin
from pixellm.mini.vision import DetectedObjects
from tests.support import tiny

PERSON, DOG, TABLE = range(3)  # as the detector numbers them
WHOLE = torch.tensor([[64, 64]])
SMALL_BOX, LARGE_BOX = [10.0, 10.0, 18.0, 18.0], [8.0, 16.0, 60.0, 60.0]


def objects_of(*rows: tuple[list[float], int, float], images: int = 1) -> DetectedObjects:
    """Return the same detections (box, class, score) in each image."""
    columns = [torch.tensor([column] * images) for column in zip(*rows, strict=True)]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, 3, 64, 64, generator=generator)
    return DetectedObjects(Detections(*columns), [], pixels, torch.zeros(images, 3, 2))


def decoder() -> InstanceDecoder:
    torch.manual_seed(0)
    made = InstanceDecoder(tiny.detector_config())
    tiny.randomise(made, 0)
    return made.eval()


def shares(**names: float) -> torch.Tensor:
    return torch.tensor([[names.get(name, 0.0) for name in tiny.VOCABULARY]])


def choose(objects: DetectedObjects, *rows: torch.Tensor) -> list[list[bool]]:
    return decoder().choose(objects, torch.cat(rows), torch.zeros(len(rows), dtype=torch.long)).tolist()


class Decoded:
    """What a decoder makes of random maps."""

    def __init__(self, objects: DetectedObjects) -> None:
        generator = torch.Generator().manual_seed(2)
        images = len(objects.pixels)
        self.decoder, self.objects = decoder(), objects
        self.maps = [torch.randn(images, 16, side, side, generator=generator) for side in (16, 8, 4, 2, 8, 4, 2)]
        self.class_logits = torch.randn(images, 5, 8, 8, generator=generator)
        self.regions = 5 * torch.randn(4, 16, 16, generator=generator)

    @torch.no_grad()
    def masks(self, chosen: list[list[bool]], image_index: list[int] | None = None) -> torch.Tensor:
        index = torch.tensor(image_index or [0] * len(chosen), dtype=torch.long)
        mask = torch.tensor(chosen, dtype=torch.bool).reshape(len(chosen), -1 if chosen else 1)
        hw = WHOLE.repeat(len(self.objects.pixels), 1)
        regions = self.regions[: len(chosen)]
        return self.decoder(self.objects, self.maps, self.class_logits, mask, regions, hw, index)

    @property
    def enlarged(self) -> torch.Tensor:
        return F.interpolate(self.regions[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0]

    @torch.no_grad()
    def alone(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mask head's logits of one detection on the grid, and where its box is."""
        detections, image = self.objects.detections, torch.tensor([0])
        boxes, classes = with_margin(detections.boxes[0, number][None]), detections.classes[0, number][None]
        logits = self.decoder.segment(self.objects, self.maps, self.class_logits, boxes, image, classes)
        pasted, inside = paste(logits, boxes, 64, 32)
        return pasted[0], inside[0]


def test_detections_of_the_category_are_chosen():
    objects = objects_of((SMALL_BOX, DOG, 0.9), (LARGE_BOX, PERSON, 0.8), (LARGE_BOX, DOG, 0.31), (SMALL_BOX, DOG, 0.2))
    assert choose(objects, shares(dog=1.0), shares(person=0.6, dog=0.4), shares(cat=1.0), shares(table=1.0)) == [
        [True, False, True, False],
        [True, True, True, False],
        [False] * 4,
        [False] * 4,
    ]


def test_a_category_needs_its_share():
    objects = objects_of((SMALL_BOX, DOG, 0.9))
    assert choose(objects, shares(dog=0.31), shares(dog=0.29)) == [[True], [False]]


def test_of_unsure_ones_only_the_best():
    objects = objects_of((SMALL_BOX, PERSON, 0.9), (SMALL_BOX, DOG, 0.1), (LARGE_BOX, DOG, 0.2))
    assert choose(objects, shares(dog=1.0)) == [[False, False, True]]


def test_nothing_is_chosen_where_nothing_is_valid():
    """Places without a detection have class 0, which is a person's."""
    objects = objects_of(([0.0] * 4, PERSON, 0.0), ([0.0] * 4, PERSON, 0.0))
    assert choose(objects, shares(person=1.0)) == [[False, False]]


def test_each_target_looks_at_its_image():
    objects = objects_of((SMALL_BOX, DOG, 0.9), images=2)
    objects.detections.classes[1, 0] = TABLE
    chosen = decoder().choose(objects, shares(dog=1.0).repeat(2, 1), torch.tensor([1, 0]))
    assert chosen.tolist() == [[False], [True]]


@pytest.mark.parametrize(
    ("side", "share"), [(0.1, 0), (0.02**0.5, 0), ((0.02 * 0.1) ** 0.25, 0.5), (0.1**0.5, 1), (1.0, 1)]
)
def test_share_of_the_category_mask_by_hand(side, share):
    """Between 2 and 10 percent of the image, on a logarithmic scale."""
    box = torch.tensor([[5.0, 5.0, 5 + 40 * side, 5 + 20 * side]])
    assert region_share(box, torch.tensor([[20, 40]])).item() == pytest.approx(share, abs=1e-5)


def test_a_target_without_a_detection_keeps_its_region():
    decoded = Decoded(objects_of((SMALL_BOX, DOG, 0.9)))
    masks = decoded.masks([[False], [True], [False]])
    torch.testing.assert_close(masks[[0, 2]], decoded.enlarged[[0, 2]])
    assert not torch.allclose(masks[1], decoded.enlarged[1])


def test_small_boxes_take_none_of_the_region_and_large_ones_all():
    decoded = Decoded(objects_of((SMALL_BOX, DOG, 0.9), (LARGE_BOX, DOG, 0.8)))
    small, large = decoded.masks([[True, False], [False, True]])
    for mask, number, region in ((small, 0, 0.0), (large, 1, decoded.enlarged[1])):
        pasted, inside = decoded.alone(number)
        wanted = pasted + region
        wanted = wanted.where(inside, OUTSIDE + min(0.0, wanted[inside].max().item()))
        torch.testing.assert_close(mask, wanted, rtol=1e-4, atol=1e-4)
        assert 0 < inside.sum() < inside.numel()


def test_several_detections_are_united():
    decoded = Decoded(objects_of((SMALL_BOX, DOG, 0.9), (LARGE_BOX, DOG, 0.8), ([40.0, 2.0, 50.0, 9.0], DOG, 0.7)))
    united, first, second = decoded.masks([[True, False, True], [True, False, False], [False, False, True]])
    (one, in_first), (_, in_second) = decoded.alone(0), decoded.alone(2)
    assert not (in_first & in_second).any()
    torch.testing.assert_close(first[in_first], one[in_first], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(united[in_first], one[in_first], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(united[in_second], second[in_second], rtol=1e-4, atol=1e-4)
    assert (united[~(in_first | in_second)] <= OUTSIDE).all()


def test_where_boxes_overlap_the_surest_counts():
    decoded = Decoded(objects_of((SMALL_BOX, DOG, 0.9), ([12.0, 12.0, 22.0, 20.0], DOG, 0.7)))
    united, first, second = decoded.masks([[True, True], [True, False], [False, True]])
    (_, in_first), (_, in_second) = decoded.alone(0), decoded.alone(1)
    both = in_first & in_second
    assert both.any()
    torch.testing.assert_close(united[both], torch.maximum(first, second)[both], rtol=1e-4, atol=1e-4)


def test_what_is_outside_is_below_what_is_inside():
    """Also where the head sees hardly anything in the box."""
    decoded = Decoded(objects_of((SMALL_BOX, DOG, 0.9)))
    inside = decoded.alone(0)[1]
    bias = decoded.decoder.mask_head.output.bias
    with torch.no_grad():
        bias -= 50
    mask = decoded.masks([[True]])[0]
    assert mask[inside].max() < -20
    torch.testing.assert_close(mask[~inside], (mask[inside].max() + OUTSIDE).expand_as(mask[~inside]))


def test_a_box_between_the_grid_still_gets_a_cell():
    decoded = Decoded(objects_of(([10.1, 10.1, 11.1, 11.2], DOG, 0.9)))
    assert decoded.alone(0)[1].nonzero().tolist() == [[5, 5]]
    assert decoded.masks([[True]])[0].argmax() == 5 * 32 + 5


def test_without_targets():
    assert Decoded(objects_of((SMALL_BOX, DOG, 0.9))).masks([]).shape == (0, 32, 32)


def test_targets_of_two_images_as_one_by_one():
    decoded = Decoded(objects_of((SMALL_BOX, DOG, 0.9), (LARGE_BOX, PERSON, 0.8), images=2))
    chosen, index = [[True, False], [True, True], [False, True]], [1, 0, 1]
    together, regions = decoded.masks(chosen, index), decoded.regions
    for number in range(3):
        decoded.regions = regions[number : number + 1]
        alone = decoded.masks(chosen[number : number + 1], index[number : number + 1])
        torch.testing.assert_close(alone[0], together[number], rtol=1e-4, atol=1e-4)


def test_channels_of_both_encoders_fit(detector_model):
    with torch.no_grad():
        features = detector_model.vision_encoder(torch.randn(1, 3, 64, 64), torch.tensor([[64, 48]]))
        maps = detector_model.instances.prepare(features)
    assert [tuple(map_.shape[1:]) for map_ in maps] == [(16, side, side) for side in (16, 8, 4, 2, 8, 4, 2)]
