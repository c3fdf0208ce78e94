"""Pixel decoder: prompts from the codebook and image features → one mask for each target, coarse to fine.

Each finer scale looks where the coarser mask points (arXiv 2312.02228, section 3.2); the scales' masks are summed with
weights. What depends on the image alone (`prepare`) is computed once and shared by its targets.

Shapes:  B images · T targets · S scales · C width · g side of a scale's grid
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.model.configuration import HeadConfig
from pixellm.model.two_way import TwoWayTransformer

# Channels of the upscaled map in which masks are dot products, as a share of the width (SAM: 256 → 32).
UPSCALED_SHARE = 8


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, h, w), eps 1e-6 as in SAM."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Neck(nn.Sequential):
    """Projected image features → decoder width; shared by all scales."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, dim, 1, bias=False),
            LayerNorm2d(dim),
            nn.Conv2d(dim, dim, 3, padding=1, bias=False),
            LayerNorm2d(dim),
        )


class MLP(nn.Sequential):
    """Three linear layers with ReLU."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out_dim))


class PixelDecoder(nn.Module):
    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        dim, scales = config.decoder_dim, config.num_scales
        self.grids = config.decoder_grids
        self.transformers = nn.ModuleList(
            TwoWayTransformer(dim, config.decoder_heads, config.decoder_mlp_dim, config.decoder_depth)
            for _ in range(scales)
        )
        upscaled = dim // UPSCALED_SHARE
        self.upscale = nn.Sequential(nn.ConvTranspose2d(dim, upscaled, 2, stride=2), LayerNorm2d(upscaled), nn.GELU())
        # Features of one size (a ViT): the finer scales work on a grid twice as fine.
        self.enlarge = (
            nn.Sequential(nn.ConvTranspose2d(dim, dim, 2, stride=2), LayerNorm2d(dim), nn.GELU())
            if config.uniform_grids and scales > 1
            else None
        )
        self.iou_token = nn.Parameter(torch.zeros(1, dim))
        self.mask_tokens = nn.Parameter(torch.zeros(config.num_mask_tokens, dim))
        self.level_embed = nn.Parameter(torch.zeros(scales, dim))
        self.no_mask_embed = nn.Parameter(torch.zeros(1, dim), requires_grad=config.train_neck)
        self.hypernetworks = nn.ModuleList(MLP(dim, upscaled) for _ in range(config.num_mask_tokens))
        # SAM's head for its own mask quality; the released model computes it and reads it nowhere (docs/parity.md).
        self.iou_head = MLP(dim, config.num_mask_tokens)
        self.scale_weights = nn.Parameter(torch.full((scales,), 1 / scales), requires_grad=config.learned_fusion)
        # Random Fourier features (arXiv 2006.10739): one matrix for the coarsest scale, one for the finer ones.
        self.register_buffer("coarse_frequencies", torch.randn(2, dim // 2))
        self.register_buffer("fine_frequencies", torch.randn(2, dim // 2))

    def prepare(self, features: list[Tensor]) -> list[Tensor]:
        """Bring the necked features to the decoder's grids, once per image.

        Args:
            features: S maps (B, C, h, w), coarse to fine.

        Returns:
            S maps (B, C, g, g) at the side `grids[s]`.
        """
        enlarge = self.enlarge or nn.Identity()
        maps = [features[0], *(enlarge(feature) for feature in features[1:])]
        # With the channels last, as the attention reads them: else every target would have to bring them there.
        return [map_.contiguous(memory_format=torch.channels_last) for map_ in maps]

    def forward(
        self, maps: list[Tensor], prompts: Tensor, image_index: Tensor, mask_prompt: Tensor | None = None
    ) -> Tensor:
        """Decode a mask for each target.

        Args:
            maps: what `prepare` gave.
            prompts: (T, S, C) fused codebook states.
            image_index: (T,) row of `maps` for each target.
            mask_prompt: (T, h, w) logits that take the place of a coarser mask at the coarsest scale.

        Returns:
            logits (T, 2g, 2g) with the finest grid g: the weighted sum of the scales.
        """
        codes = [
            position_code(self.coarse_frequencies if scale == 0 else self.fine_frequencies, map_.shape[-1])
            for scale, map_ in enumerate(maps)
        ]
        if maps[0].is_cpu and not torch.is_grad_enabled() and len(prompts) > 0:
            # One target after the other: its tensors stay in the processor's caches and need less memory (docs/LOG.md).
            rows = [
                self._decode(
                    [map_[image : image + 1] for map_ in maps],
                    codes,
                    prompts[t : t + 1],
                    None if mask_prompt is None else mask_prompt[t : t + 1],
                )
                for t, image in enumerate(image_index.tolist())
            ]
            return torch.cat(rows)
        # The gradient of index_select costs half of what that of indexing does; it keeps no other layout than this.
        channels_last = [map_.permute(0, 2, 3, 1).index_select(0, image_index) for map_ in maps]
        return self._decode([map_.permute(0, 3, 1, 2) for map_ in channels_last], codes, prompts, mask_prompt)

    def _decode(self, maps: list[Tensor], codes: list[Tensor], prompts: Tensor, coarser: Tensor | None) -> Tensor:
        """Decode with each target's own maps (T, C, g, g) to logits (T, 2g, 2g)."""
        scale_logits: list[Tensor] = []
        shift = self.no_mask_embed[..., None, None]
        for scale, source in enumerate(maps):
            if coarser is None:
                source = source + shift
            else:
                grid = (self.grids[scale], self.grids[scale])
                modulation = F.interpolate(coarser[:, None], grid, mode="bilinear", align_corners=False)
                source = torch.addcmul(shift, source, modulation.sigmoid() + 1)
            coarser = self._decode_scale(source, prompts[:, scale], codes[scale], scale)
            scale_logits.append(coarser)
        side = 2 * self.grids[-1]
        enlarged = [
            F.interpolate(logits[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]
            for logits in scale_logits
        ]
        return torch.einsum("stxy,s->txy", torch.stack(enlarged), self.scale_weights)

    def _decode_scale(self, source: Tensor, prompt: Tensor, code: Tensor, scale: int) -> Tensor:
        """One scale: (T, C, g, g) image, (T, C) prompt and (1, g·g, C) code → (T, 2g, 2g) logits."""
        output_tokens = torch.cat([self.iou_token, self.mask_tokens]).expand(len(prompt), -1, -1)
        tokens = torch.cat([output_tokens, prompt[:, None]], dim=1) + self.level_embed[scale]
        tokens, image = self.transformers[scale](tokens, source.flatten(2).transpose(1, 2), code)
        return self._dot_products(image, self.hypernetworks[0](tokens[:, 1]))

    def _dot_products(self, image: Tensor, weights: Tensor) -> Tensor:
        """(T, g·g, C) image and (T, C/8) weights → (T, 2g, 2g), dot products of the upscaled image with the weights.

        A convolution that makes 2 × 2 pixels of each position is a linear layer, and what follows looks at one pixel at
        a time: only their dot products have to be brought to their places.
        """
        convolution, norm, activation = self.upscale
        kernel = convolution.weight.permute(0, 2, 3, 1).flatten(1)
        upscaled = (image @ kernel).unflatten(-1, (4, -1)) + convolution.bias
        upscaled = activation(F.layer_norm(upscaled, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        products = (upscaled.flatten(1, 2) @ weights[..., None]).unflatten(1, (math.isqrt(image.shape[1]), -1, 2, 2))
        return products[..., 0].transpose(2, 3).flatten(3, 4).flatten(1, 2)


def position_code(frequencies: Tensor, grid: int) -> Tensor:
    """Fourier code (1, g·g, C) of the cell centres of a g × g grid; `frequencies` is (2, C/2) for x and y."""
    centre = (torch.arange(grid, device=frequencies.device, dtype=frequencies.dtype) + 0.5) / grid * 2 - 1
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    angle = 2 * math.pi * (torch.stack([x, y], dim=-1).flatten(0, 1) @ frequencies)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[None]
