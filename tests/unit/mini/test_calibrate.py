"""When a name counts as present, after training."""

import numpy as np
import pytest
import torch

from pixellm.data.records import AnnotatedImage, Instance
from pixellm.mini.calibrate import calibrate_presence, presence_scores
from tests.support import tiny


def images(count: int = 6) -> list[AnnotatedImage]:
    """Pictures with two of four known names each."""
    names = ("dog", "cat", "table", "person")
    mask = np.ones((40, 50), dtype=bool)
    annotated = []
    for i in range(count):
        shown = [names[(i + k) % 4] for k in range(2)]
        instances = tuple(Instance((name,), mask, name) for name in shown)
        annotated.append(AnnotatedImage(tiny.picture(50, 40, i), instances, (), frozenset((*names, "unicorn"))))
    return annotated


@pytest.mark.parametrize("recall", [0.5, 0.9, 1.0])
def test_biases_move_as_far_as_wanted(timm_processor, recall) -> None:
    """So that this share of what is there scores above 0, and so that as many tags do as there are things."""
    model = tiny.build(tiny.timm_config())
    with torch.no_grad():
        model.word_mix.mention_bias.fill_(2.0)
        model.word_mix.tag_bias.fill_(-1.0)
    present, absent = presence_scores(model, timm_processor, images())
    assert (len(present), len(absent)) == (12, 12)
    mentions, tags = calibrate_presence(model, timm_processor, images(), recall)
    assert abs((present + mentions >= -1e-6).mean() - recall) < 1 / len(present)
    assert (np.concatenate([present, absent]) + tags >= -1e-6).sum() == len(present)
    assert model.word_mix.mention_bias.item() == pytest.approx(2.0 + mentions, abs=1e-5)
    assert model.word_mix.tag_bias.item() == pytest.approx(-1.0 + tags, abs=1e-5)


def test_nothing_to_calibrate_on_is_an_error(timm_processor) -> None:
    with pytest.raises(ValueError, match="expected held-out images"):
        calibrate_presence(tiny.build(tiny.timm_config()), timm_processor, [], 0.9)
