"""First stage for a timm encoder: its feature pyramid and dense classifier learn to name what is where.

The classifier starts from the backbone's own ImageNet classes (`imagenet_names.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from pixellm.data.mixture import Mixture, fit
from pixellm.data.semantic import class_targets
from pixellm.model.losses import semantic_loss
from pixellm.model.vision import TimmEncoder
from pixellm.train.imagenet_names import IMAGENET_CLASSES
from pixellm.types import Output

# Rare names would otherwise start out as likely as common ones.
INITIAL_CLASS_BIAS = -4.0
# Softmax logits of ImageNet spread wider than the independent ones used here.
IMAGENET_SCALE = 0.3


def load_backbone(encoder: TimmEncoder, weights: Path, vocabulary: Sequence[str]) -> None:
    """Load ImageNet weights (timm names, classifier included) and start the dense classifier from them."""
    state = load_file(weights)
    head = state.pop("classifier.weight")
    state.pop("classifier.bias")
    encoder.backbone.load_state_dict(state)
    if encoder.classifier is None:
        return
    deep, fine = encoder.classifier.deep, encoder.classifier.fine
    with torch.no_grad():
        deep.weight.zero_()
        deep.bias.fill_(INITIAL_CLASS_BIAS)
        fine.weight.mul_(0.1)
        fine.bias.zero_()
        for index, name in enumerate(vocabulary):
            if name in IMAGENET_CLASSES:
                rows = head[IMAGENET_CLASSES[name]].mean(dim=0) - head.mean(dim=0)
                deep.weight[index, :, 0, 0] = IMAGENET_SCALE * rows


@dataclass
class VisionSamples(Dataset):
    """Photographs in a square of `size` pixels with class targets on the encoder's finest grid."""

    mixture: Mixture
    vocabulary: Sequence[str]
    size: int
    grid: int
    mean: float = 0.5
    std: float = 0.5

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        photograph, rng = self.mixture.draw(index)
        photograph = fit(photograph, round(self.size * rng.uniform(0.7, 1.0)))
        target, weight = class_targets(photograph, self.vocabulary, self.size, self.grid)
        pixels = np.asarray(photograph.image, dtype=np.float32) / 255
        square = np.zeros((self.size, self.size, 3), dtype=np.float32)
        square[: pixels.shape[0], : pixels.shape[1]] = (pixels - self.mean) / self.std
        return {
            "pixel_values": torch.from_numpy(square).permute(2, 0, 1),
            "resized_hw": torch.tensor(pixels.shape[:2]),
            "class_target": torch.from_numpy(target),
            "class_weight": torch.from_numpy(weight),
        }


class VisionPretraining(nn.Module):
    """An encoder with the loss of its dense classifier, as `Trainer` wants it."""

    def __init__(self, encoder: TimmEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: Tensor, resized_hw: Tensor, class_target: Tensor, class_weight: Tensor) -> Output:
        logits = self.encoder(pixel_values.contiguous(memory_format=torch.channels_last), resized_hw).class_logits
        loss = semantic_loss(logits, class_target, class_weight)
        return Output(loss, {"semantics": loss}, [])
