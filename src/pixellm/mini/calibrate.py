"""Presence on images that were not trained on: there the dense classifier is less sure of what it sees.

The language model has learned that a score above 0 means "there". On held-out images the scores of what is there
lie lower; `calibrate_presence` moves the two biases of `WordMix` by as much.
"""

from collections.abc import Iterable

import numpy as np
import torch

from pixellm.data.records import AnnotatedImage
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.model import PixelLMProcessor


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
    present, absent = presence_scores(model, processor, images)
    mentions = -float(np.quantile(present, 1 - recall))
    tags = -float(np.sort(np.concatenate([present, absent]))[-len(present)])
    model.word_mix.mention_bias += mentions
    model.word_mix.tag_bias += tags
    return mentions, tags


@torch.no_grad()
def presence_scores(
    model: MiniForConditionalGeneration, processor: PixelLMProcessor, images: Iterable[AnnotatedImage]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the classifier's scores of names that are in the images, and of names that are not."""
    vocabulary = {name: index for index, name in enumerate(model.config.vision_config.vocabulary)}
    training, present, absent = model.training, [], []
    model.eval()
    for annotated in images:
        inputs = processor.images([annotated.image])
        scores = model.vision_encoder(inputs["pixel_values"], inputs["resized_hw"]).presence_logits
        shown_categories = annotated.category_masks().keys()
        for name in (annotated.exhaustive or frozenset()) & vocabulary.keys():
            (present if name in shown_categories else absent).append(float(scores[0, vocabulary[name]]))
    model.train(training)
    if not present or not absent:
        raise ValueError("expected held-out images with names that are there and names that are not, got none.")
    return np.array(present), np.array(absent)
