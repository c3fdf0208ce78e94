"""Presence on images that were not trained on: there the dense classifier is less sure of what it sees.

The language model has learned that a score above 0 means "there". On held-out images the scores of what is there lie
lower; `calibrate_presence` moves the two biases of `WordMix` by as much. `calibrate_detector` fits how the detector's
scores and the classifier's make a presence score (Platt scaling).
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixellm.data.records import AnnotatedImage
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.mini.vision import ClassifiedFeatures
from pixellm.model import PixelLMProcessor

FIT_STEPS = 100  # of L-BFGS, more than three parameters need


@torch.no_grad()
def calibrate_presence(
    model: MiniForConditionalGeneration,
    processor: PixelLMProcessor,
    images: Iterable[AnnotatedImage],
    recall: float,
) -> tuple[float, float]:
    """Move the biases of a model with a dense classifier.

    A name that is asked for counts as there so readily that `recall` (0..1) of those that are there do. In the list of
    tags, as many count as there as there are.

    Args:
        model: its `word_mix.mention_bias` and `word_mix.tag_bias` are changed.
        processor: its processor.
        images: held out, complete for the names that they know.
        recall: see above.

    Returns:
        By how much both were moved: (mentions, tags).
    """
    vocabulary = model.config.vision_config.vocabulary
    rows = [
        (features.presence_logits[0, vocabulary.index(name)], there)
        for features, names in _look(model, processor, images, vocabulary)
        for name, there in names.items()
    ]
    scores, present = _table(rows)
    mentions = -float(np.quantile(scores[present].numpy(), 1 - recall))
    tags = -float(scores.sort(descending=True).values[int(present.sum()) - 1])
    model.word_mix.mention_bias += mentions
    model.word_mix.tag_bias += tags
    return mentions, tags


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
