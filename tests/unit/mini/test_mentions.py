"""Marks at the names that a text mentions."""

import torch

from pixellm.mini.candidates import REGION, SCORE_RANGE, Candidates
from pixellm.mini.mentions import MOST, Mentions
from tests.support import tiny

# "dog" 1 or 2 3 · "cat" 4 · … · and a name of no category, 3 9
FORMS = [[[1], [2, 3]], [[4]], [[5]], [[6]], [[7]], [[3, 9]]]


def mentions() -> Mentions:
    torch.manual_seed(0)
    own = Mentions(tiny.timm_config(vocabulary_ids=FORMS))
    own.scale_to(1.0)
    return own


def test_the_longest_form_ends_a_name() -> None:
    assert mentions().names(torch.tensor([[1, 2, 3, 9, 4, 3], [0, 3, 2, 2, 3, 5]])).tolist() == [
        [0, -1, 0, 5, 1, -1],
        [-1, -1, -1, -1, 0, 2],
    ]
    assert mentions().lookback == 1


@torch.no_grad()
def test_marks_by_hand() -> None:
    """Counts up to the most, clamped scores; names without a candidate, beyond the conditioning, and unmarked ones."""
    own = mentions()
    counts, scores = [3.0, 20.0, 0.0, -1.0, 1.0], [1.5, 99.0, 0.0, 0.0, -3.0]
    marks = own(torch.tensor([[1, 4, 5, 6, 7, 9, 3, 9]]), torch.tensor([counts + scores]))[0]
    torch.testing.assert_close(marks[0], own.count.weight[3] + 1.5 / SCORE_RANGE * own.score)
    torch.testing.assert_close(marks[1], own.count.weight[MOST] + own.score)
    torch.testing.assert_close(marks[2], own.count.weight[0])
    torch.testing.assert_close(marks[4], own.count.weight[1] - 3 / SCORE_RANGE * own.score)
    torch.testing.assert_close(marks[7], own.count.weight[0])
    assert not marks[[3, 5, 6]].any()


def test_conditioning_counts_the_valid_candidates_of_each_category() -> None:
    candidates = Candidates(
        classes=torch.tensor([[1, 1, 4, 0]]),
        objects=torch.tensor([[0, 1, REGION, 0]]),
        boxes=torch.zeros(1, 4, 4),
        scores=torch.tensor([[2.5, 2.5, -1.0, 7.0]]),
        valid=torch.tensor([[True, True, True, False]]),
    )
    counts, scores = mentions().conditioning(candidates, 5).chunk(2, dim=1)
    assert counts.tolist() == [[0, 2, 0, 0, 1]]
    assert scores.tolist() == [[0, 2.5, 0, 0, -1.0]]
