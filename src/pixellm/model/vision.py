"""Vision encoders: a photograph → one feature map for each scale, coarse to fine.

Two kinds with one interface: CLIP-ViT (hidden states of chosen layers, padding left out as keys) and any timm backbone
(its feature maps, brought to one width by a top-down pyramid, or as they are).

Shapes:  B images · S image side · C channels · h, w grid sides · V names of the vocabulary
"""

from dataclasses import dataclass

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
    """What the encoder sees.

    Args:
        scales: one (B, C, h, w) for each scale, coarse to fine.
        class_logits: (B, V, h, w) scores of the vocabulary at the finest scale, or None.
        presence_logits: (B, V) whether the image shows each name at all, or None.
    """

    scales: list[Tensor]
    class_logits: Tensor | None = None
    presence_logits: Tensor | None = None


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
        # For our own attention function; without data (on the meta device) nobody can tell what is padding.
        seen = [None if row.is_meta or bool(row.all()) else row.nonzero()[:, 0] for row in valid]
        states = [self.clip.pre_layrnorm(embeddings)]
        last = max(layer % (self.clip.config.num_hidden_layers + 1) for layer in self.hidden_layers)
        for layer in self.clip.encoder.layers[:last]:
            states.append(layer(states[-1], attention_mask=bias, seen=seen))
        total = self.clip.config.num_hidden_layers + 1
        chosen = [states[layer % total][:, 1:] for layer in self.hidden_layers]
        return VisionFeatures([state.transpose(1, 2).unflatten(2, (grid, grid)) for state in chosen])


class TimmEncoder(nn.Module):
    """A timm backbone, a top-down feature pyramid if it has a width, and with a vocabulary a dense classifier over it.

    `channels` are those of the maps that it gives.
    """

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
        self.pyramid = FeaturePyramidNetwork(channels[::-1], config.hidden_size) if config.hidden_size else None
        self.channels = [config.hidden_size or count for count in channels]
        self.classifier = None
        if names := len(config.vocabulary):
            self.classifier = DenseClassifier(channels[0], config.hidden_size, names, config.classifier_dropout)

    def train(self, mode: bool = True) -> "TimmEncoder":
        """Batches are too small for batch statistics: those of the pretraining stay."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, pixel_values: Tensor, resized_hw: Tensor) -> VisionFeatures:
        # Convolutions keep the layout that their input has; of separable ones this is the quicker.
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        final, maps = self.backbone.forward_intermediates(pixel_values, indices=sorted(self.levels))
        maps = maps[::-1]  # coarse to fine
        if self.takes_final:
            # Some backbones (Swin) give their final map with the channels last.
            maps[0] = final if final.shape[2:] == maps[0].shape[2:] else final.permute(0, 3, 1, 2)
        if self.pyramid is None:
            return VisionFeatures(maps)
        pyramid = self.pyramid({str(-index): maps[-1 - index] for index in range(len(maps))})
        scales = list(pyramid.values())[::-1]
        if self.classifier is None:
            return VisionFeatures(scales)
        valid = valid_area(resized_hw, pixel_values.shape[-1], maps[0].shape[-1])
        return VisionFeatures(scales, *self.classifier(maps[0], scales[-1], valid))


class DenseClassifier(nn.Module):
    """Scores each name of the vocabulary at each position: the deepest features say what, the finest say where.

    Whether an image shows a name at all is a question of its own: things too small or too odd for a mask still leave
    their trace in the deepest features.
    """

    def __init__(self, deep_channels: int, fine_channels: int, num_names: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.deep = nn.Conv2d(deep_channels, num_names, 1)
        self.refine = nn.Sequential(
            nn.Conv2d(fine_channels, fine_channels, 3, padding=1), nn.GroupNorm(8, fine_channels), nn.ReLU(inplace=True)
        )
        self.fine = nn.Conv2d(fine_channels, num_names, 1)
        self.presence = nn.Conv2d(deep_channels, num_names, 1)
        self.peak_gain = nn.Parameter(torch.full((), 0.5))

    def forward(self, deep: Tensor, fine: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, h, w) and the bool (B, h, w) of the deepest that is not padding → logits (B, V, …) and (B, V)."""
        deep = self.dropout(deep)
        what = F.interpolate(self.deep(deep), fine.shape[-2:], mode="bilinear", align_corners=False)
        logits = what + self.fine(self.refine(fine))
        evidence = self.presence(deep).float().masked_fill(~valid[:, None], -torch.inf)
        presence = evidence.flatten(2).logsumexp(dim=2) + self.peak_gain * logits.flatten(2).amax(dim=2)
        return logits, presence.to(logits.dtype)


def build_vision_encoder(config: PixelLMVisionConfig) -> ClipEncoder | TimmEncoder:
    return ClipEncoder(config) if config.kind == "clip" else TimmEncoder(config)
