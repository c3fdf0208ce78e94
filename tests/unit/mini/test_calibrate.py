"""When a name counts as present, after training."""

import numpy as np
import pytest
import torch

from pixellm.data.records import AnnotatedImage, Instance
from pixellm.mini.calibrate import calibrate_presence, fit_presence
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


def presence(model, processor) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the names that are in `images`, and of those that are not, asked one by one."""
    names, scores = model.config.vision_config.vocabulary, ([], [])
    for annotated in images():
        inputs = processor.images([annotated.image])
        with torch.no_grad():
            logits = model.eval().vision_encoder(inputs["pixel_values"], inputs["resized_hw"]).presence_logits[0]
        for name in annotated.exhaustive & set(names):
            scores[name not in annotated.category_masks()].append(float(logits[names.index(name)]))
    return np.array(scores[0]), np.array(scores[1])


@pytest.mark.parametrize("recall", [0.5, 0.9, 1.0])
def test_biases_move_as_far_as_wanted(timm_processor, recall) -> None:
    """So that this share of what is there scores above 0, and so that as many tags do as there are things."""
    model = tiny.build(tiny.timm_config())
    with torch.no_grad():
        model.word_mix.mention_bias.fill_(2.0)
        model.word_mix.tag_bias.fill_(-1.0)
    present, absent = presence(model, timm_processor)
    assert (len(present), len(absent)) == (12, 12)
    mentions, tags = calibrate_presence(model, timm_processor, images(), recall)
    assert abs((present + mentions >= -1e-6).mean() - recall) < 1 / len(present)
    assert (np.concatenate([present, absent]) + tags >= -1e-6).sum() == len(present)
    assert model.word_mix.mention_bias.item() == pytest.approx(2.0 + mentions, abs=1e-5)
    assert model.word_mix.tag_bias.item() == pytest.approx(-1.0 + tags, abs=1e-5)


def test_fit_finds_the_weights_that_labels_were_drawn_with() -> None:
    generator = torch.Generator().manual_seed(0)
    evidence = 2 * torch.randn(20_000, 2, generator=generator)
    probability = (evidence @ torch.tensor([1.5, -0.5]) + 0.7).sigmoid()
    gains, bias = fit_presence(evidence, torch.rand(20_000, generator=generator) < probability)
    assert gains.tolist() == pytest.approx([1.5, -0.5], abs=0.1)
    assert bias.item() == pytest.approx(0.7, abs=0.1)


def test_nothing_to_calibrate_on_is_an_error(timm_processor) -> None:
    with pytest.raises(ValueError, match="expected held-out images"):
        calibrate_presence(tiny.build(tiny.timm_config()), timm_processor, [], 0.9)
