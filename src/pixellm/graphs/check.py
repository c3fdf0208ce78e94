"""Check of exported graphs against the model that they were made from."""

from pathlib import Path

import numpy as np
import torch

from pixellm.imaging.images import load_image
from pixellm.imaging.prompt_region import cropped, region_of
from pixellm.imaging.visual_prompts import Prompts
from pixellm.inference.generation import Prefix
from pixellm.mini.modeling import ClassifiedImages, MiniForConditionalGeneration
from pixellm.mini.refiner import region_inputs
from pixellm.predictor import Predictor
from pixellm.runtime.generation import EncodedPrefix
from pixellm.runtime.manifest import Precision
from pixellm.runtime.predictor import RuntimePredictor
from pixellm.runtime.processing import RuntimeProcessor
from pixellm.runtime.session import Graphs

IMAGE, QUESTION = "example:cat", "Segment the cat."
TOKENS = 32
LOGITS = 1e-3  # of masks in fp32


def check(predictor: Predictor, directory: Path, precision: Precision) -> float:
    """Compare an answer, the mask of the same states and, where the model corrects masks, a correction with torch's.

    Args:
        predictor: with the model in fp32.
        directory: the exported graphs.
        precision: of the language model's matrices; where it is lower than float32, answers may differ.

    Returns:
        The largest difference of mask logits, those of the correction included.

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
    differences = {"masks": float(np.abs(runtime.graphs.masks(states, exported.images[0])[0] - logits).max())}
    if predictor.takes_prompts:
        differences["corrected masks"] = _correction(predictor, encoded, runtime, exported)
    answers = [one(image, QUESTION, max_new_tokens=TOKENS) for one in (predictor, runtime)]
    difference = max(differences.values())
    if difference > LOGITS or (precision == "float32" and answers[0].token_ids != answers[1].token_ids):
        logits_of = ", ".join(f"{what} by {value:.1e}" for what, value in differences.items())
        raise ValueError(
            f"expected graphs that answer like torch, got logits that differ ({logits_of}) and the answers "
            f"{answers[0].text!r} and {answers[1].text!r}. Report this with the versions of torch and onnxruntime."
        )
    return difference


def _correction(predictor: Predictor, encoded: Prefix, runtime: RuntimePredictor, exported: EncodedPrefix) -> float:
    """Return the largest difference of a corrected mask's logits: a rectangle, with a point of each kind and a box."""
    model, images = predictor.model, encoded.images
    assert isinstance(model, MiniForConditionalGeneration)
    assert isinstance(images, ClassifiedImages)
    assert model.refiner is not None
    image = load_image(IMAGE)
    height, width = image.height, image.width
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    points = [(0.6 * width, 0.4 * height, 1), (0.3 * width, 0.3 * height, 0)]
    prompts = Prompts.read(
        points, (0.25 * width, 0.25 * height, 0.4 * width, 0.5 * height), original_hw=(height, width)
    )
    region = region_of(mask, prompts)
    assert region is not None
    got = runtime.region_logits(exported, 0, image, mask, prompts, region)
    maps = cropped(images.refine_maps, 0, images.resized_hw[0].tolist(), model.config.vision_config.image_size)
    pixels = torch.from_numpy(np.array(image.convert("RGB")).transpose(2, 0, 1))
    with torch.inference_mode():
        expected = model.refiner(region_inputs(pixels, maps, torch.from_numpy(mask), prompts, region))[0]
    return float(np.abs(got - expected.numpy()).max())
