"""Check of exported graphs against the model that they were made from."""

from pathlib import Path

import numpy as np
import torch

from pixellm.imaging.images import load_image
from pixellm.predictor import Predictor
from pixellm.runtime.manifest import Precision
from pixellm.runtime.predictor import RuntimePredictor
from pixellm.runtime.processing import RuntimeProcessor
from pixellm.runtime.session import Graphs

IMAGE, QUESTION = "example:cat", "Segment the cat."
TOKENS = 32
LOGITS = 1e-3  # of masks in fp32


def check(predictor: Predictor, directory: Path, precision: Precision) -> float:
    """Compare an answer, and the mask of the same states, with torch's.

    Args:
        predictor: with the model in fp32.
        directory: the exported graphs.
        precision: of the language model's matrices; where it is lower than float32, answers may differ.

    Returns:
        The largest difference of mask logits.

    Raises:
        ValueError: the tokens of the answer differ, or the logits by more than 0.001.
    """
    runtime = RuntimePredictor(Graphs(directory), RuntimeProcessor.from_directory(directory))
    image = load_image(IMAGE)
    encoded, exported = predictor.encode([image]), runtime.encode([image])
    config, generator = predictor.model.config, np.random.default_rng(0)
    states = generator.standard_normal((len(config.codebook_ids), config.text_config.hidden_size), np.float32)
    with torch.inference_mode():
        row = torch.zeros(1, dtype=torch.long)
        logits = predictor.model.decode_masks(encoded.images, torch.from_numpy(states), row)[0].numpy()
    difference = float(np.abs(runtime.graphs.masks(states, exported.images[0])[0] - logits).max())
    answers = [one(image, QUESTION, max_new_tokens=TOKENS) for one in (predictor, runtime)]
    if difference > LOGITS or (precision == "float32" and answers[0].token_ids != answers[1].token_ids):
        raise ValueError(
            f"expected graphs that answer like torch, got mask logits that differ by {difference:.1e} and the answers "
            f"{answers[0].text!r} and {answers[1].text!r}. Report this with the versions of torch and onnxruntime."
        )
    return difference
