"""Attention of the pixel decoder for each codebook token, as in the paper's figure of its codebook.

A target's tokens are fused into one prompt for each scale. Here the decoder gets each token alone instead, and the
attention of its prompt to the image in the last layer is drawn; the last column is that of the fused prompt, with which
the model makes the mask (to which a model with a dense classifier adds class embeddings).

Shapes:  S scales · K tokens per scale · g side of a scale's grid
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixellm.imaging.geometry import restore
from pixellm.inference.generation import generate
from pixellm.model import PixelLMForConditionalGeneration
from pixellm.model.states import EncodedImages
from pixellm.predictor import Predictor
from pixellm.types import Answer
from pixellm.utils.files import atomic_write

CELL = 2.3  # inches


@dataclass(frozen=True)
class TargetMaps:
    """One target's maps: for each scale (K + 1, H, W), of its tokens and of their fused prompt; each sums to 1."""

    phrase: str
    scales: tuple[np.ndarray, ...]


@torch.inference_mode()
def codebook_attention(predictor: Predictor, image: Image.Image, question: str) -> tuple[Answer, list[TargetMaps]]:
    """Answer a question and return the attention maps of each of its targets."""
    model, processor = predictor.model, predictor.processor
    predictor.set_image(image)
    answer = predictor.ask(question)
    prefix = predictor.encode([image])
    prompts = [predictor.prompt_ids(question)]
    steps = generate(model, prefix, [0], prompts, processor.eos_ids, predictor.settings())
    groups = [_attention(model, prefix.images, step.states) for step in steps if step.states is not None]
    size = (image.height, image.width)
    return answer, [
        TargetMaps(target.phrase, tuple(_at_size(maps, prefix.images, size) for maps in scales))
        for target, scales in zip(answer.targets, groups, strict=True)
    ]


def _attention(model: PixelLMForConditionalGeneration, images: EncodedImages, states: Tensor) -> list[Tensor]:
    """States of one group → for each scale (K + 1, g, g)."""
    codebook, decoder = model.codebook, model.pixel_decoder
    tokens = codebook.project(states.to(images.maps[0].dtype))
    tokens = tokens.unflatten(0, (codebook.num_scales, codebook.tokens_per_scale)).transpose(0, 1)
    attentions = [transformer.final_attn_token_to_image for transformer in decoder.transformers]
    maps: dict[torch.nn.Module, list[Tensor]] = {attention: [] for attention in attentions}

    def look(attention: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # The prompt is the last of the tokens.
        maps[attention].append(attention.weights(*inputs[:2]).mean(dim=1)[:, -1])

    hooks = [attention.register_forward_pre_hook(look) for attention in attentions]
    try:
        decoder(images.maps, tokens, torch.zeros(len(tokens), dtype=torch.long, device=tokens.device))
        model.decode_masks(images, states, torch.zeros(1, dtype=torch.long, device=tokens.device))
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(maps[at]).unflatten(1, (grid, grid)) for at, grid in zip(attentions, decoder.grids, strict=True)]


def _at_size(maps: Tensor, images: EncodedImages, size: tuple[int, int]) -> np.ndarray:
    height, width = images.resized_hw[0].tolist()
    restored = restore(maps, (height, width), size)
    return (restored / restored.sum(dim=(1, 2), keepdim=True)).cpu().numpy()


def attention_sheet(answer: Answer, targets: Sequence[TargetMaps], path: Path) -> None:
    """A row for each target and scale: the mask, then the attention of each token and of the fused prompt.

    Raises:
        ValueError: there is no target.
    """
    from matplotlib.figure import Figure

    if not targets:
        raise ValueError(
            f"expected an answer with a mask, got {answer.text!r}. Ask for something that is in the image."
        )
    rows = [(t, s) for t, target in enumerate(targets) for s in range(len(target.scales))]
    assert answer.image is not None
    masks = [target.mask for target in answer.targets]
    columns = len(targets[0].scales[0]) + 1
    height = CELL * answer.image.height / answer.image.width + 0.1
    figure = Figure(figsize=(CELL * columns, height * len(rows) + 0.7), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    grey = np.asarray(answer.image.convert("L"))
    for row, (t, s) in zip(panels, rows, strict=True):
        row[0].imshow(np.asarray(answer.image))
        row[0].contour(masks[t], [0.5], colors="#E69F00", linewidths=1.5)
        row[0].set_ylabel(f"{targets[t].phrase}\nscale {s + 1}", fontsize=9)
        for k, (panel, map_) in enumerate(zip(row[1:], targets[t].scales[s], strict=True)):
            panel.imshow(grey, cmap="gray")
            panel.imshow(map_, cmap="inferno", alpha=0.65, interpolation="bilinear")
            if (t, s) == rows[0]:
                panel.set_title("fused" if k == columns - 2 else f"token {k + 1}", fontsize=10)
    for panel in panels.ravel():
        panel.set_xticks([])
        panel.set_yticks([])
    figure.suptitle(answer.question, fontsize=11)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
