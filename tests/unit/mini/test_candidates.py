"""Which candidates an image has, how they are read, and pointing at them."""

import math

import pytest
import torch
import torch.nn.functional as F

from pixellm.mini.candidates import (
    PLACE_FEATURES,
    REGION,
    UNSURE,
    CandidateSelection,
    CandidateTokens,
    Pointer,
    place_features,
    pointer_loss,
    shared_part,
)
from pixellm.mini.detections import Detections
from pixellm.mini.vision import ClassifiedFeatures, DetectedObjects
from tests.support import tiny

DOG, CAT, APPLE, TABLE, PERSON = range(5)  # of the vocabulary
HW = torch.tensor([[32, 64]])  # of a square of 64 pixels


def features(presence, found=(), shown=()) -> ClassifiedFeatures:
    """Of one image: presence logits by category, detections (category, box, score), cells (category, row, column)."""
    class_logits = torch.full((1, 5, 8, 8), -5.0)
    for category, row, column in shown:
        class_logits[0, category, row, column] = 5.0
    logits = torch.full((1, 5), -9.0)
    for category, logit in presence.items():
        logits[0, category] = logit
    boxes, classes, scores = torch.zeros(1, 8, 4), torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 8)
    for number, (category, box, score) in enumerate(found):
        boxes[0, number] = torch.tensor(box)
        classes[0, number] = tiny.DETECTED.index(tiny.VOCABULARY[category])
        scores[0, number] = score
    objects = DetectedObjects(Detections(boxes, classes, scores), [], torch.zeros(0), torch.zeros(0))
    return ClassifiedFeatures([], class_logits, logits, objects)


def chosen(seen, count: int = 6) -> list[tuple[int, int]]:
    """Category and number of the candidates of an image."""
    found = CandidateSelection(tiny.detector_config(num_candidates=count))(seen, HW)
    assert found.valid.shape == (1, count)
    rows = zip(found.classes[0].tolist(), found.objects[0].tolist(), found.valid[0].tolist(), strict=True)
    return [(category, number) for category, number, valid in rows if valid]


def test_categories_by_their_scores_and_objects_from_left_to_right() -> None:
    right, left = (40.0, 0.0, 60.0, 30.0), (0.0, 0.0, 10.0, 30.0)
    seen = features({DOG: 1.0, PERSON: 3.0}, [(DOG, right, 0.9), (DOG, left, 0.8), (PERSON, left, 0.7)])
    assert chosen(seen) == [(PERSON, 2), (DOG, 1), (DOG, 0)]


def test_of_an_unsure_category_the_best_object_alone() -> None:
    """As of a sure one whose detections are all weak; weak ones beside sure ones are left out."""
    box = (0.0, 0.0, 10.0, 30.0)
    found = [
        (DOG, box, 0.9),
        (DOG, box, 0.8),
        (TABLE, box, 0.2),
        (TABLE, box, 0.1),
        (PERSON, box, 0.4),
        (PERSON, box, 0.2),
    ]
    assert chosen(features({DOG: -1.0, TABLE: 0.5, PERSON: 2.0}, found)) == [(PERSON, 4), (TABLE, 2), (DOG, 0)]


def test_of_boxes_of_one_category_inside_each_other_the_surest_counts() -> None:
    """A part of it, or the whole of it, found once more; objects of other categories, and beside it, count."""
    large, inside = (0.0, 0.0, 30.0, 30.0), (5.0, 5.0, 20.0, 25.0)
    beside, other = (24.0, 0.0, 54.0, 30.0), (6.0, 5.0, 20.0, 25.0)
    found = [(DOG, inside, 0.9), (DOG, large, 0.8), (DOG, beside, 0.7), (PERSON, other, 0.6), (PERSON, large, 0.5)]
    assert chosen(features({DOG: 2.0, PERSON: 1.0}, found)) == [(DOG, 0), (DOG, 2), (PERSON, 3)]


def test_share_of_the_smaller_box() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 10, 10], [8, 8, 12, 12], [20, 0, 30, 10], [0, 0, 0, 0]]])
    expected = torch.tensor([[1, 1, 0.25, 0, 0], [1, 1, 0.25, 0, 0], [0.25, 0.25, 1, 0, 0], [0, 0, 0, 1, 0], [0] * 5])
    torch.testing.assert_close(shared_part(boxes)[0], expected)


def test_what_is_surely_missing_is_no_candidate() -> None:
    box = (0.0, 0.0, 10.0, 30.0)
    assert chosen(features({DOG: UNSURE - 0.1, CAT: UNSURE - 0.1}, [(DOG, box, 0.9)])) == []
    seen = features({DOG: UNSURE, CAT: UNSURE}, [(DOG, box, 0.9)], shown=[(CAT, 1, 2)])
    assert chosen(seen) == [(DOG, 0), (CAT, REGION)]


def test_categories_without_a_detection_are_regions() -> None:
    """Around where the classifier sees them, in fractions of the image; of what it sees nowhere, the whole image.

    What is seen nowhere and the detector does not know has none.
    """
    selection = CandidateSelection(tiny.detector_config())
    found = selection(features({CAT: 2.0, PERSON: 1.0, APPLE: 1.0}, shown=[(CAT, 1, 2), (CAT, 2, 5)]), HW)
    assert found.valid[0].tolist() == [True, True, *[False] * 4]
    assert found.classes[0, :2].tolist() == [CAT, PERSON]
    assert found.objects[0, :2].tolist() == [REGION, REGION]
    torch.testing.assert_close(found.boxes[0, 0], torch.tensor([16 / 64, 8 / 32, 48 / 64, 24 / 32]))
    assert found.boxes[0, 1].tolist() == [0, 0, 1, 1]


def test_a_crowd_leaves_room_for_other_categories() -> None:
    box = (0.0, 0.0, 10.0, 30.0)
    crowd = [(PERSON, (float(8 * n), 0.0, 8.0 * n + 8, 30.0), 0.9 - 0.1 * n) for n in range(5)]
    found = chosen(features({PERSON: 5.0, DOG: 1.0, CAT: 0.5}, [*crowd, (DOG, box, 0.3)], [(CAT, 1, 2)]), count=4)
    assert found == [(PERSON, 0), (PERSON, 1), (DOG, 5), (CAT, REGION)]


def test_scores_are_presence_on_their_own_scale() -> None:
    selection = CandidateSelection(tiny.detector_config())
    selection.gain.data.fill_(2.0)
    selection.bias.data.fill_(-3.0)
    found = selection(features({CAT: 2.0, APPLE: 0.4}, shown=[(CAT, 1, 2), (APPLE, 3, 3)]), HW)
    assert found.scores[0, 0].item() == 1.0
    assert found.valid[0].sum() == 1


@torch.no_grad()
def test_tokens_are_names_moved_by_place_score_and_slot() -> None:
    read = CandidateTokens(3, 8)
    words, boxes, scores = torch.randn(2, 3, 8), torch.rand(2, 3, 4), torch.tensor([[0.0, 9.0, -3.0], [1.0, 2.0, 6.0]])
    tokens = read(words, boxes, scores)
    sure = torch.tensor([1.0, torch.tensor(6.0).sigmoid()])
    torch.testing.assert_close(
        tokens[0, 1], words[0, 1] + read.place(place_features(boxes[0, 1])) + read.score(sure) + read.slot.weight[1]
    )


def test_place_features_by_hand() -> None:
    box = torch.tensor([0.2, 0.1, 0.6, 0.9])
    features = place_features(box)
    assert features.shape == (PLACE_FEATURES,)
    torch.testing.assert_close(features[:9], torch.tensor([0.2, 0.1, 0.6, 0.9, 0.4, 0.5, 0.4, 0.8, math.sqrt(0.32)]))
    torch.testing.assert_close(features[9:11], torch.tensor([math.sin(math.pi * 0.4), math.cos(math.pi * 0.4)]))
    torch.testing.assert_close(features[-2:], torch.tensor([math.sin(math.pi * 4), math.cos(math.pi * 4)]))


@torch.no_grad()
def test_a_new_pointer_compares_directions() -> None:
    """Around the means that it was given, the candidate that the states resemble scores highest."""
    torch.manual_seed(0)
    pointer, tokens = Pointer(16, 2), torch.randn(3, 5, 16) + 4
    states = torch.stack([tokens[g, g] for g in range(3)])[:, None].expand(-1, 2, -1) * 3
    pointer.centre_on(states, tokens.flatten(0, 1))
    logits = pointer(states, tokens)
    assert logits.argmax(dim=1).tolist() == [0, 1, 2]
    mean = states.mean(dim=0)[0]
    cosine = F.cosine_similarity(states[1, 0] - mean, tokens[1, 1] - tokens.flatten(0, 1).mean(dim=0), dim=0)
    assert logits[1, 1].item() == pytest.approx(24 * cosine.item() - 2.5, rel=1e-4)


def test_pointer_loss_counts_valid_candidates() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    meant, valid = torch.tensor([[True, False, True]]), torch.tensor([[True, True, False]])
    expected = math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))
    assert pointer_loss(logits, meant, valid).item() == pytest.approx(expected)
