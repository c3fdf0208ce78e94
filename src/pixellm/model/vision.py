"""Vision encoders: an image → one feature map for each scale, coarse to fine.

Two kinds with one interface: CLIP-ViT (hidden states of chosen layers, padding left out as keys) and any timm backbone
(its feature maps, brought to one width by a top-down pyramid, or as they are).

Shapes:  B images · S image side · C channels · h, w grid sides
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from transformers import CLIPVisionModel

from pixellm.model import attention
from pixellm.model.configuration import PixelLMVisionConfig
from pixellm.model.packing import additive


@dataclass
class VisionFeatures:
    """Feature maps of a vision encoder, one (B, C, h, w) for each scale, coarse to fine."""

    scales: list[Tensor]


class CachedFeatures(Protocol):
    """Features of a frozen encoder that were kept."""

    def __call__(self, inputs: Sequence[Any], encode: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return what `encode` gives for one image.

        Args:
            inputs: everything that decides over it besides the encoder and its configuration, tensors among it.
            encode: called unless its result for these inputs was kept.
        """
        ...


def valid_area(resized_hw: Tensor, size: int, grid: int) -> Tensor:
    """Cells of a grid × grid over the square whose top-left pixel lies in the image.

    Args:
        resized_hw: (B, 2) height and width of each image inside the square.
        size: side of the square in pixels.
        grid: side of the grid.

    Returns:
        bool (B, grid, grid)
    """
    corner = torch.arange(grid, device=resized_hw.device) * (size / grid)
    rows = corner < resized_hw[:, :1]
    columns = corner < resized_hw[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


class ClipEncoder(nn.Module):
    """CLIP-ViT that does not look at padding; features are hidden states of `hidden_layers`, class token dropped."""

    def __init__(self, config: PixelLMVisionConfig) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.hidden_layers = config.hidden_layers
        clip_config = config.clip_config
        clip_config._attn_implementation = attention.NAME
        self.clip = CLIPVisionModel(clip_config)
        self.channels = [config.hidden_size] * len(self.hidden_layers)

    def forward(self, pixel_values: Tensor, resized_hw: Tensor) -> VisionFeatures:
        embeddings = self.clip.embeddings(pixel_values)
        grid = self.image_size // self.clip.config.patch_size
        valid = F.pad(valid_area(resized_hw, self.image_size, grid).flatten(1), (1, 0), value=True)
        bias = additive(valid, embeddings.dtype)[:, None, None].expand(-1, 1, valid.shape[1], -1)
        # For our own attention function; without data (on the meta device) nobody can tell what is padding. An
        # exported graph has the bias.
        seen = None
        if not torch.compiler.is_exporting():
            seen = [None if row.is_meta or bool(row.all()) else row.nonzero()[:, 0] for row in valid]
        states = [self.clip.pre_layrnorm(embeddings)]
        last = max(layer % (self.clip.config.num_hidden_layers + 1) for layer in self.hidden_layers)
        for layer in self.clip.encoder.layers[:last]:
            states.append(layer(states[-1], attention_mask=bias, seen=seen))
        total = self.clip.config.num_hidden_layers + 1
        patches = [states[layer % total][:, 1:] for layer in self.hidden_layers]
        return VisionFeatures([state.transpose(1, 2).unflatten(2, (grid, grid)) for state in patches])


class TimmEncoder(nn.Module):
    """A timm backbone and, with a width, a top-down feature pyramid; `channels` are those of its maps."""

    def __init__(self, config: PixelLMVisionConfig) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            config.backbone, pretrained=False, num_classes=0, drop_path_rate=config.drop_path
        )
        levels = {info["reduction"]: index for index, info in enumerate(self.backbone.feature_info)}
        missing = [reduction for reduction in config.reductions if reduction not in levels]
        if missing:
            raise ValueError(
                f"{config.backbone}: expected feature maps of stride {config.reductions}, it has none of stride "
                f"{missing}. Choose from {sorted(levels)}."
            )
        self.levels = [levels[reduction] for reduction in config.reductions]
        channels = [self.backbone.feature_info[level]["num_chs"] for level in self.levels]
        # The deepest map is the backbone's final one, which its pretraining made most telling.
        self.takes_final = self.levels[0] == len(levels) - 1
        if self.takes_final:
            channels[0] = self.backbone.num_features
        self.map_channels = channels
        self.pyramid = FeaturePyramidNetwork(channels[::-1], config.hidden_size) if config.hidden_size else None
        self.channels = [config.hidden_size or count for count in channels]

    def train(self, mode: bool = True) -> "TimmEncoder":
        """Set the mode, but keep the batch statistics of the pretraining: batches are too small for their own."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, pixel_values: Tensor, resized_hw: Tensor) -> VisionFeatures:
        return VisionFeatures(self.scales(self.backbone_maps(pixel_values)))

    def backbone_maps(self, pixel_values: Tensor) -> list[Tensor]:
        """Return the backbone's maps (B, c, h, w), coarse to fine."""
        # Convolutions keep the layout that their input has; of separable ones this is the quicker.
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        final, maps = self.backbone.forward_intermediates(pixel_values, indices=sorted(self.levels))
        maps = maps[::-1]
        if self.takes_final:
            # Some backbones (Swin) give their final map with the channels last.
            maps[0] = final if final.shape[2:] == maps[0].shape[2:] else final.permute(0, 3, 1, 2)
        return maps

    def scales(self, maps: list[Tensor]) -> list[Tensor]:
        """Bring the maps to one width (B, C, h, w) by the pyramid, if there is one."""
        if self.pyramid is None:
            return maps
        pyramid = self.pyramid({str(-index): maps[-1 - index] for index in range(len(maps))})
        return list(pyramid.values())[::-1]


def build_vision_encoder(config: PixelLMVisionConfig) -> ClipEncoder | TimmEncoder:
    return ClipEncoder(config) if config.kind == "clip" else TimmEncoder(config)
