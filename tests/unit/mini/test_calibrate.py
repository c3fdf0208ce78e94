"""When a name counts as present, after training."""

import numpy as np
import pytest
import torch

from pixellm.data.records import AnnotatedImage, Instance
from pixellm.mini.calibrate import MIN_GAP, calibrate_presence, fit_presence
from pixellm.mini.candidates import UNSURE
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


@pytest.mark.parametrize("recall", [0.75, 0.9, 1.0])
def test_scores_count_as_many_as_wanted(timm_processor, recall) -> None:
    """As many names score above 0 as are there; above `UNSURE`, this share of those that are there, or more."""
    model = tiny.build(tiny.timm_config())
    present, absent = presence(model, timm_processor)
    assert (len(present), len(absent)) == (12, 12)
    calibrate_presence(model, timm_processor, images(), recall)
    gain, bias = model.selection.gain.item(), model.selection.bias.item()
    assert (np.concatenate([present, absent]) * gain + bias >= -1e-5).sum() == len(present)
    named = (present * gain + bias >= UNSURE - 1e-5).mean()
    assert named == pytest.approx(recall, abs=1 / len(present)) or (gain == -UNSURE / MIN_GAP and named > recall)


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
