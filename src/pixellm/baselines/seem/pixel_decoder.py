"""Pixel decoder: features of the backbone → maps that the queries read, and one that masks are read off.

A transformer encoder over the coarsest map, and a pyramid from there down to the finest.

Shapes:  I images · C width · g side of a level's grid · h, w size of the mask features
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DetrConfig
from transformers.models.detr.modeling_detr import DetrEncoderLayer
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

from pixellm.baselines.seem.configuration import NUM_LEVELS, SeemConfig
from pixellm.model.vision import valid_area

NORM_GROUPS = 32


@dataclass
class Level:
    """A map that the queries read.

    Args:
        tokens: (I, g·g, C).
        positions: (g·g, C).
        valid: bool (I, g·g), False in the padding.
        grid: g.
    """

    tokens: Tensor
    positions: Tensor
    valid: Tensor
    grid: int


@dataclass
class ImageFeatures:
    """All that the queries need of I images; computed once for each and shared by its phrases.

    Args:
        levels: coarse to fine.
        mask_features: (I, C, h, w).
        resized_hw: (I, 2) height and width of each image inside the square.
    """

    levels: list[Level]
    mask_features: Tensor
    resized_hw: Tensor


class SeemPixelDecoder(nn.Module):
    """See the module.

    Args:
        config: of the model.
        channels: of each feature map of the backbone, coarse to fine.
    """

    def __init__(self, config: SeemConfig, channels: list[int]) -> None:
        super().__init__()
        width = config.width
        self.image_size = config.vision_config.image_size
        self.position = Mask2FormerSinePositionEmbedding(width // 2, normalize=True)
        self.project = nn.Conv2d(channels[0], width, 1)
        self.encoder = nn.ModuleList(self_attention_layer(config) for _ in range(config.encoder_layers))
        self.lateral = nn.ModuleList(_convolution(count, width, 1) for count in channels[1:])
        self.smooth = nn.ModuleList(nn.Sequential(_convolution(width, width, 3), nn.ReLU()) for _ in channels)
        self.mask_features = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, scales: list[Tensor], resized_hw: Tensor) -> ImageFeatures:
        """Maps of the backbone, coarse to fine, and (I, 2) sizes of the images inside the square."""
        maps = [self.smooth[0](self._encode(scales[0], resized_hw))]
        for scale, lateral, smooth in zip(scales[1:], self.lateral, self.smooth[1:], strict=True):
            finer = lateral(scale)
            maps.append(smooth(finer + F.interpolate(maps[-1], finer.shape[-2:], mode="nearest")))
        levels = [self._level(map_, resized_hw) for map_ in maps[:NUM_LEVELS]]
        return ImageFeatures(levels, self.mask_features(maps[-1]), resized_hw)

    def _encode(self, coarsest: Tensor, resized_hw: Tensor) -> Tensor:
        level = self._level(self.project(coarsest), resized_hw)
        states, seen = level.tokens, level.valid[:, None, None, :].expand(-1, 1, level.valid.shape[1], -1)
        for layer in self.encoder:
            states = layer(states, seen, level.positions[None])
        return states.transpose(1, 2).unflatten(2, (level.grid, level.grid))

    def _level(self, map_: Tensor, resized_hw: Tensor) -> Level:
        grid = map_.shape[-1]
        code = self.position(torch.Size((1, *map_.shape[1:])), map_.device, map_.dtype)
        valid = valid_area(resized_hw, self.image_size, grid).flatten(1)
        return Level(map_.flatten(2).transpose(1, 2), code[0].flatten(1).T, valid, grid)


def self_attention_layer(config: SeemConfig) -> DetrEncoderLayer:
    """Self-attention, then FFN, each normalised after its residual; positions are added to queries and keys alone."""
    settings = DetrConfig(
        d_model=config.width,
        encoder_attention_heads=config.num_heads,
        encoder_ffn_dim=config.ffn_dim,
        activation_function="relu",
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )
    settings._attn_implementation = "sdpa"
    return DetrEncoderLayer(settings)


def _convolution(in_channels: int, width: int, size: int) -> nn.Sequential:
    groups = NORM_GROUPS if width % NORM_GROUPS == 0 else 4
    return nn.Sequential(
        nn.Conv2d(in_channels, width, size, padding=size // 2, bias=False), nn.GroupNorm(groups, width)
    )
