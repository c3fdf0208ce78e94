"""Presence on images that were not trained on: there the encoder is less sure of what it sees.

`calibrate_detector` fits how the detector's scores and the classifier's make a presence score (Platt scaling).
`calibrate_presence` fits the scale on which the language model reads these: from 0 a category counts as there, from
`UNSURE` where it is asked for by name.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixellm.data.records import AnnotatedImage
from pixellm.mini.candidates import UNSURE
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.mini.vision import ClassifiedFeatures
from pixellm.model import PixelLMProcessor

MIN_GAP = 1.0  # logits between what counts as there in any case and what does where it is asked for
FIT_STEPS = 100  # of L-BFGS, more than three parameters need


@torch.no_grad()
def calibrate_presence(
    model: MiniForConditionalGeneration,
    processor: PixelLMProcessor,
    images: Iterable[AnnotatedImage],
    recall: float,
) -> None:
    """Fit the scale of a model's candidates' scores.

    As many categories count as there as there are. Where they are asked for by name, `recall` (0..1) of those that are
    there do.

    Args:
        model: its `selection.gain` and `selection.bias` are changed.
        processor: its processor.
        images: held out, complete for the names that they know.
        recall: see above.

    Raises:
        ValueError: nothing is there, or nothing is missing.
    """
    vocabulary = model.config.vision_config.vocabulary
    rows = [
        (features.presence_logits[0, vocabulary.index(name)], there)
        for features, names in _look(model, processor, images, vocabulary)
        for name, there in names.items()
    ]
    scores, present = _table(rows)
    sure = float(scores.sort(descending=True).values[int(present.sum()) - 1])
    unsure = float(np.quantile(scores[present].numpy(), 1 - recall))
    gain = -UNSURE / max(sure - unsure, MIN_GAP)
    model.selection.gain.fill_(gain)
    model.selection.bias.fill_(-gain * sure)


@torch.no_grad()
def calibrate_detector(
    model: MiniForConditionalGeneration, processor: PixelLMProcessor, images: Iterable[AnnotatedImage]
) -> None:
    """Fit the presence scores of the categories that a model's detector knows.

    Args:
        model: what its detector makes of evidence is changed.
        processor: its processor.
        images: held out, complete for the names that they know.
    """
    detector, classes = model.vision_encoder.detector, model.config.vision_config.detector_classes
    rows = [
        (features.objects.evidence[0, classes.index(name)], there)
        for features, names in _look(model, processor, images, classes)
        for name, there in names.items()
    ]
    gains, bias = fit_presence(*_table(rows))
    detector.presence_gains.copy_(gains)
    detector.presence_bias.copy_(bias)


def fit_presence(evidence: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a logistic regression: evidence (N, E) and labels (N,) → gains (E,) and bias ()."""
    with torch.enable_grad():
        gains, bias = torch.ones(evidence.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
        optimizer = torch.optim.LBFGS([gains, bias], max_iter=FIT_STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(evidence.detach() @ gains + bias, present.float())
            loss.backward()
            return loss

        optimizer.step(closure)
    return gains.detach(), bias.detach()


def _look(
    model: MiniForConditionalGeneration,
    processor: PixelLMProcessor,
    images: Iterable[AnnotatedImage],
    known: Sequence[str],
) -> Iterator[tuple[ClassifiedFeatures, dict[str, bool]]]:
    """Yield what the encoder sees in each image, and which of the `known` names that are annotated are there."""
    training = model.training
    model.eval()
    for annotated in images:
        inputs = processor.images([annotated.image])
        features = model.vision_encoder(inputs["pixel_values"], inputs["resized_hw"])
        shown = annotated.category_masks().keys() | {name for name, _ in annotated.boxes}
        yield features, {name: name in shown for name in sorted(annotated.exhaustive or ()) if name in known}
    model.train(training)


def _table(rows: Sequence[tuple[Tensor, bool]]) -> tuple[Tensor, Tensor]:
    """Stack rows; a ValueError where nothing is there, or nothing is missing."""
    present = torch.tensor([there for _, there in rows])
    if not len(rows) or bool(present.all()) or not bool(present.any()):
        raise ValueError("expected held-out images with names that are there and names that are not, got none.")
    return torch.stack([row.float() for row, _ in rows]), present
