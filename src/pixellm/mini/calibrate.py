"""Presence on images that were not trained on: there the dense classifier is less sure of what it sees.

`calibrate_presence` fits how the detector's scores and the classifier's make a presence score (Platt scaling), and
moves the two biases of `WordMix`: the language model has learned that a score above 0 means "there".
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixellm.data.records import AnnotatedImage
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.model import PixelLMProcessor

FIT_STEPS = 100  # of L-BFGS, more than three parameters need


@dataclass(frozen=True)
class _HeldOut:
    """What a model sees of the categories of held-out images.

    Args:
        scores: (N,) presence logits of the categories that are annotated.
        present: bool (N,).
        evidence: (M, 2) of those that the detector knows, see `DetectedObjects`.
        evidence_present: bool (M,).
    """

    scores: Tensor
    present: Tensor
    evidence: Tensor
    evidence_present: Tensor


@torch.no_grad()
def calibrate_presence(
    model: MiniForConditionalGeneration,
    processor: PixelLMProcessor,
    images: Iterable[AnnotatedImage],
    recall: float,
) -> tuple[float, float]:
    """Fit the presence scores of a model with a detector, and move the biases.

    A name that is asked for counts as there so readily that `recall` (0..1) of those that are there do. In the list of
    tags, as many count as there as there are.

    Args:
        model: its `word_mix.mention_bias` and `word_mix.tag_bias` are changed, and what its detector makes of evidence.
        processor: its processor.
        images: held out, complete for the names that they know.
        recall: see above.

    Returns:
        By how much both were moved: (mentions, tags).

    Raises:
        ValueError: there are no names that are there, or none that are not.
    """
    held_out = list(images)
    detector = model.vision_encoder.detector
    if detector is not None:
        seen = _look(model, processor, held_out)
        gains, bias = fit_presence(seen.evidence, seen.evidence_present)
        detector.presence_gains.copy_(gains)
        detector.presence_bias.copy_(bias)
    seen = _look(model, processor, held_out)
    present = seen.scores[seen.present].numpy()
    mentions = -float(np.quantile(present, 1 - recall)) - float(model.word_mix.mention_bias)
    tags = -float(np.sort(seen.scores.numpy())[-len(present)]) - float(model.word_mix.tag_bias)
    model.word_mix.mention_bias += mentions
    model.word_mix.tag_bias += tags
    return mentions, tags


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
    model: MiniForConditionalGeneration, processor: PixelLMProcessor, images: Iterable[AnnotatedImage]
) -> _HeldOut:
    vocabulary = {name: index for index, name in enumerate(model.config.vision_config.vocabulary)}
    detected = {name: index for index, name in enumerate(model.config.vision_config.detector_classes)}
    training, scores, present, evidence, evidence_present = model.training, [], [], [], []
    model.eval()
    for annotated in images:
        inputs = processor.images([annotated.image])
        features = model.vision_encoder(inputs["pixel_values"], inputs["resized_hw"])
        shown = annotated.category_masks().keys() | {name for name, _ in annotated.boxes}
        for name in sorted((annotated.exhaustive or frozenset()) & vocabulary.keys()):
            scores.append(features.presence_logits[0, vocabulary[name]].float())
            present.append(name in shown)
            if name in detected:
                evidence.append(features.objects.evidence[0, detected[name]])
                evidence_present.append(name in shown)
    model.train(training)
    if all(present) or not any(present):
        raise ValueError("expected held-out images with names that are there and names that are not, got none.")
    pairs = torch.stack(evidence) if evidence else torch.zeros(0, 2)
    return _HeldOut(torch.stack(scores), torch.tensor(present), pairs, torch.tensor(evidence_present))
