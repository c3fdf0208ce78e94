"""LISA (arXiv 2308.00692): PixelLM's ancestor, with one token [SEG] a target and a SAM behind it.

CLIP → LLM tokens → LLM → [SEG]'s state → prompt of SAM's mask decoder, over SAM's own features of the image. Everything
up to the prompt is PixelLM's with a codebook of one token; the parts of SAM are those of transformers.

Shapes:  B images · T targets · C SAM's width · g side of its map
"""

import torch
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamVisionEncoder

from pixellm.baselines.lisa.configuration import LisaConfig
from pixellm.model.losses import LossWeights
from pixellm.model.modeling import PixelLMForConditionalGeneration
from pixellm.model.pixel_decoder import position_code
from pixellm.model.states import EncodedImages


class SamPixelDecoder(nn.Module):
    """SAM's mask decoder, prompted by a state of the language model in the place of a point."""

    def __init__(self, config: LisaConfig) -> None:
        super().__init__()
        config.sam_decoder_config._attn_implementation = config._attn_implementation or "sdpa"
        self.mask_decoder = SamMaskDecoder(config.sam_decoder_config)
        # Of SAM's prompt encoder: what stands for "no mask given", and the frequencies of its position code, which are
        # drawn around 1 (transformers draws others). Both stay as they are.
        self.no_mask_embed = nn.Parameter(torch.zeros(1, config.decoder_dim), requires_grad=False)
        self.register_buffer("frequencies", torch.randn(2, config.decoder_dim // 2))

    def prepare(self, features: list[Tensor]) -> list[Tensor]:
        """SAM's map is read as it is."""
        return features

    def forward(self, maps: list[Tensor], prompts: Tensor, image_index: Tensor) -> Tensor:
        """Decode a mask for each target.

        Args:
            maps: one map (B, C, g, g).
            prompts: (T, 1, C).
            image_index: (T,) row of the map for each target.

        Returns:
            logits (T, 4g, 4g).
        """
        grid = maps[0].shape[-1]
        if not len(prompts):
            return prompts.new_zeros((0, 4 * grid, 4 * grid)) + 0 * prompts.sum()
        # Of full precision whatever the weights' is: a rounded frequency turns the phase of the far corner.
        code = position_code(self.frequencies.float(), grid).transpose(1, 2).unflatten(2, (grid, grid))
        masks, _quality = self.mask_decoder(
            image_embeddings=maps[0].index_select(0, image_index),
            image_positional_embeddings=code.to(maps[0].dtype).expand(len(prompts), -1, -1, -1),
            sparse_prompt_embeddings=prompts[:, None],
            dense_prompt_embeddings=self.no_mask_embed[..., None, None],
            multimask_output=False,
        )
        return masks[:, 0, 0]


class LisaForConditionalGeneration(PixelLMForConditionalGeneration):
    config_class = LisaConfig
    pixel_decoder_class = SamPixelDecoder

    @property
    def default_loss_weights(self) -> LossWeights:
        return LossWeights(overlap=1.0)  # no target refinement

    def __init__(self, config: LisaConfig) -> None:
        super().__init__(config)
        self.sam_encoder = None
        if config.sam_vision_config is not None:
            del self.pixel_projector, self.neck  # SAM has features of its own
            self.sam_encoder = SamVisionEncoder(config.sam_vision_config).requires_grad_(False)

    def freeze_constants(self) -> None:
        """Freeze what is never trained; nothing is unfrozen."""
        self.codebook.token_weights.requires_grad_(False)
        self.pixel_decoder.no_mask_embed.requires_grad_(False)
        if getattr(self, "sam_encoder", None) is not None:
            self.sam_encoder.requires_grad_(False)

    def encode_images(
        self, pixel_values: Tensor, resized_hw: Tensor, context_pixel_values: Tensor | None = None
    ) -> EncodedImages:
        """Run CLIP and SAM's image encoder.

        Args:
            pixel_values: (B, 3, S, S) for SAM, padded right and bottom.
            resized_hw: (B, 2) height and width of each image inside that square.
            context_pixel_values: (B, 3, s, s) for CLIP, without padding.
        """
        if self.sam_encoder is None:
            return super().encode_images(pixel_values, resized_hw)
        if context_pixel_values is None:
            raise ValueError("expected context_pixel_values beside pixel_values. Make both with LisaImageProcessor.")
        side = context_pixel_values.shape[-1]
        features = self.vision_encoder(context_pixel_values, torch.full_like(resized_hw, side))
        tokens = self.image_tokens(features)
        with torch.no_grad():
            embeddings = self.sam_encoder(pixel_values).last_hidden_state
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return EncodedImages(tokens, valid, [embeddings], resized_hw)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SamPixelDecoder):
            nn.init.normal_(module.frequencies)
