"""Detections: which cells become objects."""

import torch

from pixellm.mini.detections import select_detections

WHOLE = torch.tensor([[64, 64]])


def select(rows, hw=WHOLE, count=4, **options):
    """Rows of one image: (box, probabilities of two classes)."""
    boxes, scores = (torch.tensor([list(column)], dtype=torch.float32) for column in zip(*rows, strict=True))
    return select_detections(scores, boxes, hw, count, **options)


def test_the_surest_first_and_padding_behind():
    detections = select([((0, 0, 10, 10), (0.3, 0.0)), ((20, 20, 40, 50), (0.0, 0.9)), ((50, 0, 60, 9), (0.6, 0.0))])
    assert detections.boxes[0].tolist() == [[20, 20, 40, 50], [50, 0, 60, 9], [0, 0, 10, 10], [0, 0, 0, 0]]
    assert detections.classes[0].tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(detections.scores[0], torch.tensor([0.9, 0.6, 0.3, 0.0]))
    assert detections.valid.tolist() == [[True, True, True, False]]
    boxes, classes, scores = detections.image(0)
    assert (boxes.shape, classes.tolist(), len(scores)) == ((3, 4), [1, 0, 0], 3)


def test_suppression_is_per_class():
    """IoU 0.8: one of a class; two of two classes. IoU 0.5 is another object."""
    first, near, apart = (0, 0, 10, 10), (0, 0, 10, 8), (0, 0, 10, 5)
    assert select([(first, (0.9, 0.0)), (near, (0.8, 0.0))]).scores[0].count_nonzero() == 1
    both = select([(first, (0.9, 0.0)), (near, (0.0, 0.8))])
    assert both.classes[0, :2].tolist() == [0, 1]
    assert both.scores[0].count_nonzero() == 2
    assert select([(first, (0.9, 0.0)), (apart, (0.8, 0.0))]).scores[0].count_nonzero() == 2


def test_one_cell_may_show_two_classes():
    detections = select([((0, 0, 10, 10), (0.7, 0.8))])
    assert detections.boxes[0, :2].tolist() == [[0, 0, 10, 10]] * 2
    assert detections.classes[0, :2].tolist() == [1, 0]


def test_boxes_are_clipped_to_the_image():
    """The image takes 30 rows and 40 columns of the square; a box that lies in the padding is none."""
    rows = [((-5, -6, 50, 20), (0.9, 0.0)), ((10, 5, 20, 60), (0.0, 0.8)), ((45, 0, 60, 20), (0.7, 0.0))]
    detections = select(rows, torch.tensor([[30, 40]]))
    assert detections.image(0)[0].tolist() == [[0, 0, 40, 20], [10, 5, 20, 30]]


def test_too_small_and_too_unsure_ones_are_none():
    rows = [((3, 3, 3.9, 20), (0.9, 0.0)), ((5, 5, 6, 6), (0.0, 0.8)), ((20, 20, 40, 40), (0.05, 0.0))]
    assert select(rows).image(0)[0].tolist() == [[5, 5, 6, 6]]
    assert len(select(rows, min_score=0.04).image(0)[0]) == 2
    assert not select(rows, min_score=0.85).valid.any()


def test_at_most_as_many_as_wanted():
    rows = [((10 * i, 0, 10 * i + 9, 9), (0.9 - 0.1 * i, 0.0)) for i in range(5)]
    detections = select(rows, count=2)
    assert detections.boxes[0].tolist() == [[0, 0, 9, 9], [10, 0, 19, 9]]


def test_images_are_independent():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(3, 30, 2, generator=generator)
    corners = 50 * torch.rand(3, 30, 2, generator=generator)
    boxes = torch.cat([corners, corners + 20 * torch.rand(3, 30, 2, generator=generator)], dim=-1)
    hw = torch.tensor([[64, 64], [30, 64], [64, 20]])
    together = select_detections(scores, boxes, hw, 12)
    for row in range(3):
        alone = select_detections(scores[row : row + 1], boxes[row : row + 1], hw[row : row + 1], 12)
        for got, wanted in zip(together.image(row), alone.image(0), strict=True):
            assert torch.equal(got, wanted)
