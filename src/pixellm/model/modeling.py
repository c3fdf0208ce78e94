"""PixelLM, assembled as in the paper's figure 2.

vision encoder → [LLM tokens | decoder features] → LLM → codebook → pixel decoder → masks.

Shapes:  B images · T tokens · D LLM width · G targets · S scales · C decoder width · N image tokens
"""

from collections import Counter
from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaModel

from pixellm.imaging.visual_prompts import Prompts, untrained
from pixellm.model import attention, losses
from pixellm.model.codebook import Codebook, find_groups, fusion_weight
from pixellm.model.configuration import PixelLMConfig, PixelLMVisionConfig
from pixellm.model.losses import IGNORE_INDEX, LossCounts, LossWeights
from pixellm.model.packing import packed_attention_bias, packed_positions
from pixellm.model.pixel_decoder import Neck, PixelDecoder
from pixellm.model.states import EncodedImages, ForwardStates
from pixellm.model.vision import CachedFeatures, VisionFeatures, build_vision_encoder, valid_area
from pixellm.prompts import IMAGE_TOKEN_ID
from pixellm.types import Output
from pixellm.utils.weights import load_whole

# transformers 5.24 renamed it.
CACHE_ARGUMENT = "cache" if "cache" in signature(LlamaModel.forward).parameters else "past_key_values"


class Projector(nn.Sequential):
    """Linear → GELU → Linear over the last dimension; a single linear layer for a hidden size of 0."""

    def __init__(self, in_size: int, hidden_size: int, out_size: int) -> None:
        if hidden_size:
            super().__init__(nn.Linear(in_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, out_size))
        else:
            super().__init__(nn.Linear(in_size, out_size))


class PixelLMForConditionalGeneration(PreTrainedModel):
    """Vision encoder, LLM, segmentation codebook and pixel decoder.

    A variant overrides `build` (its parts), `image_tokens` and `llm_inputs` (what the LLM reads), `codebook_inputs` and
    `decode_masks` (what prompts the pixel decoder), `presence_scores` (how sure each target is), `refine_mask` with
    `takes_prompts` (corrections of a mask), and `forward` with `count_terms` (further losses).
    """

    config_class = PixelLMConfig
    feature_cache: CachedFeatures | None = None  # set by a training whose vision encoder is frozen
    pixel_decoder_class: Any = PixelDecoder
    base_model_prefix = "pixellm"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_attention_backend = True

    def __init__(self, config: PixelLMConfig) -> None:
        super().__init__(config)
        self.build(config)
        self.post_init()
        self.freeze_constants()

    def build(self, config: PixelLMConfig) -> None:
        """Create all modules."""
        width = config.text_config.hidden_size
        vision_width, hidden = config.vision_config.hidden_size, int(config.projector_ratio * width)
        pixel_width = config.pixel_feature_size or width
        pixel_hidden = int(config.projector_ratio * pixel_width)
        self.vision_encoder = self.build_vision_encoder(config.vision_config)
        self.llm_projector = Projector(vision_width, hidden, width)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        if self.language_model.config._attn_implementation == "sdpa":
            self.language_model.set_attn_implementation(attention.NAME)
        self.codebook = Codebook(config)
        self.pixel_projector = Projector(vision_width, pixel_hidden, pixel_width)
        self.neck = Neck(pixel_width, config.decoder_dim)
        self.pixel_decoder = self.pixel_decoder_class(config)

    def build_vision_encoder(self, config: PixelLMVisionConfig) -> nn.Module:
        return build_vision_encoder(config)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args, output_loading_info: bool = False, **kwargs):
        """Load a checkpoint as `PreTrainedModel` does; what is frozen stays frozen, see also `load_whole`.

        Raises:
            ValueError: the checkpoint lacks weights, or can't be read.
        """
        load = super().from_pretrained
        model, info = load_whole(load, pretrained_model_name_or_path, *args, **kwargs)
        model.freeze_constants()
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Save as `PreTrainedModel` does.

        Raises:
            ValueError: the model is quantised.
        """
        if getattr(self, "hf_quantizer", None) is not None:
            raise ValueError(
                "expected a model with all of its weights, got one that was quantised when it was loaded. Load it "
                "without quantize, or copy the directory that it came from."
            )
        super().save_pretrained(save_directory, **kwargs)

    def freeze_constants(self) -> None:
        """Freeze what the config's switches hold constant; nothing is unfrozen."""
        if not self.config.train_neck:
            self.neck.requires_grad_(False)
            self.pixel_decoder.no_mask_embed.requires_grad_(False)
        if not self.config.learned_fusion:
            self.codebook.token_weights.requires_grad_(False)
            self.pixel_decoder.scale_weights.requires_grad_(False)

    @property
    def default_loss_weights(self) -> LossWeights:
        """Loss weights where the caller gives none; the released code has no target refinement (docs/parity.md)."""
        return LossWeights(overlap=1.0) if self.config.compat == "released" else LossWeights()

    @property
    def peak_share(self) -> float | None:
        """Threshold of masks relative to their maximum, see `postprocess.binarize`; None: 0.5 alone."""
        return None

    @property
    def lookback(self) -> int:
        """Number of earlier ids that `llm_inputs` reads in decoding."""
        return 0

    @property
    def default_sampling(self) -> dict[str, Any]:
        """Fields of `Sampling` that this model needs where the caller gives none."""
        return {}

    @property
    def recurrent(self) -> bool:
        """Return whether the language model keeps states that padding would change: rows are decoded one by one."""
        return False

    @property
    def text_model(self) -> Any:
        """Transformer of the language model, without its head."""
        return self.language_model.base_model

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PixelDecoder):
            for parameter in (module.iou_token, module.mask_tokens, module.level_embed, module.no_mask_embed):
                nn.init.normal_(parameter)
            for buffer in (module.coarse_frequencies, module.fine_frequencies):
                nn.init.normal_(buffer)
            nn.init.constant_(module.scale_weights, 1 / self.config.num_scales)
        elif isinstance(module, Codebook):
            nn.init.constant_(module.token_weights, fusion_weight(self.config))

    def encode_images(
        self, pixel_values: Tensor, resized_hw: Tensor, context_pixel_values: Tensor | None = None
    ) -> EncodedImages:
        """Run the vision side.

        Args:
            pixel_values: (B, 3, S, S), normalised, padded right and bottom with 0.
            resized_hw: (B, 2) height and width of each image inside the square.
            context_pixel_values: the LLM's own view of each image; unused by PixelLM, read by LISA.
        """
        features = self.vision_features(pixel_values, resized_hw)
        valid = valid_area(resized_hw, self.config.vision_config.image_size, self.config.llm_grid).flatten(1)
        maps = self.pixel_decoder.prepare(self.neck_maps(features))
        return EncodedImages(self.image_tokens(features), valid, maps, resized_hw)

    @property
    def vision_modules(self) -> list[nn.Module]:
        """Modules that `feature_cache` stands in for."""
        return [self.vision_encoder]

    def vision_features(self, pixel_values: Tensor, resized_hw: Tensor) -> VisionFeatures:
        """Run the vision encoder, or read its features; see `encode_images` for the arguments."""
        if self.feature_cache is None:
            return self.vision_encoder(pixel_values, resized_hw)

        def encode(pixels: Tensor, size: Tensor) -> dict[str, Tensor]:
            scales = self.vision_encoder(pixels, size).scales
            return {str(scale): map_ for scale, map_ in enumerate(scales)}

        # Each image alone: what is kept does not depend on those that came with it.
        images = zip(pixel_values.split(1), resized_hw.split(1), strict=True)
        rows = [self.feature_cache(row, partial(encode, *row)) for row in images]
        return VisionFeatures([torch.cat([row[str(scale)] for row in rows]) for scale in range(len(rows[0]))])

    def image_tokens(self, features: VisionFeatures) -> Tensor:
        """The deepest map of an encoder as (B, g·g, D) tokens of the language model."""
        deepest, grid = features.scales[0], self.config.llm_grid
        pooled = F.interpolate(deepest.float(), (grid, grid), mode="bilinear", align_corners=False).to(deepest.dtype)
        return self.llm_projector(pooled.flatten(2).transpose(1, 2))

    def neck_maps(self, features: VisionFeatures) -> list[Tensor]:
        """Project the finest S maps of an encoder to S maps (B, C, h, w) for `PixelDecoder.prepare`."""
        scales = features.scales[-self.config.num_scales :]
        return [self.neck(self.pixel_projector(map_.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)) for map_ in scales]

    def embed(self, input_ids: Tensor, images: EncodedImages) -> Tensor:
        """Token embeddings (B, T, D), with the image's tokens where `input_ids` (B, T) holds `IMAGE_TOKEN_ID`."""
        is_image = input_ids == IMAGE_TOKEN_ID
        embeddings = self.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        if not bool(is_image.any()):
            return embeddings
        counts = is_image.sum(dim=1)
        if bool((counts != images.tokens.shape[1]).any()):
            raise ValueError(
                f"expected {images.tokens.shape[1]} image tokens in every row of input_ids, got {counts.tolist()}. "
                "Build input_ids with PixelLMProcessor."
            )
        return embeddings.masked_scatter(is_image[..., None], images.tokens.to(embeddings.dtype))

    def llm_inputs(
        self,
        embeddings: Tensor,
        input_ids: Tensor,
        conditioning: Tensor | None,
        earlier_ids: Tensor | None = None,
    ) -> Tensor:
        """Return what the LLM reads at each position (B, T, D): the embeddings themselves.

        Args:
            embeddings: (B, T, D) as given by `embed`.
            input_ids: (B, T).
            conditioning: see `EncodedImages`.
            earlier_ids: in decoding, (B, `lookback`) ids before `input_ids`; `IMAGE_TOKEN_ID` where there are none.
        """
        return embeddings

    def hidden_states(self, embeddings: Tensor, attention_mask: Tensor, position_ids: Tensor, cache=None) -> Tensor:
        """Last-layer states (B, T, D) after the final norm; `attention_mask` is additive (B, 1, T, keys)."""
        return self.text_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=cache is not None,
            **{CACHE_ARGUMENT: cache},
        ).last_hidden_state

    def forward(
        self,
        pixel_values: Tensor,
        resized_hw: Tensor,
        input_ids: Tensor,
        segment_ids: Tensor,
        labels: Tensor | None = None,
        target_masks: list[Tensor] | None = None,
        ignored: list[Tensor] | None = None,
        context_pixel_values: Tensor | None = None,
        counts: LossCounts | None = None,
        loss_weights: LossWeights | None = None,
    ) -> Output:
        """Run a teacher-forced pass over a `Batch` (see there for the other arguments).

        `counts` is what the losses are averaged over, if that is more than this batch (see `count_terms`);
        `loss_weights` take the place of `default_loss_weights`.

        Returns:
            `Output` with the low-resolution mask logits of each image (M, 2g, 2g), and with labels the losses `ce`,
            `bce` and `dice`, each with its weight already in, and their sum `loss`.
        """
        states = self.forward_states(pixel_values, resized_hw, input_ids, segment_ids, context_pixel_values)
        counts = counts or self.count_terms(labels=labels, target_masks=target_masks)
        weights = loss_weights or self.default_loss_weights
        return self.base_losses(states, segment_ids, labels, target_masks, ignored, counts, weights)

    def forward_states(
        self,
        pixel_values: Tensor,
        resized_hw: Tensor,
        input_ids: Tensor,
        segment_ids: Tensor,
        context_pixel_values: Tensor | None = None,
    ) -> ForwardStates:
        """Run all parts, without losses."""
        images = self.encode_images(pixel_values, resized_hw, context_pixel_values)
        hidden, groups, group_states = self.text_states(images, input_ids, segment_ids)
        logits = self.decode_masks(images, group_states, groups[:, 0])
        per_image = torch.bincount(groups[:, 0], minlength=len(input_ids)).tolist()
        return ForwardStates(images, hidden, groups, group_states, list(logits.split(per_image)))

    def text_states(
        self, images: EncodedImages, input_ids: Tensor, segment_ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the LLM over packed texts (B, T) about images.

        Returns:
            `hidden`, `groups` and `group_states` of `ForwardStates`.
        """
        valid = (segment_ids >= 0) & ~self._padding_tokens(input_ids, images)
        embeddings = self.embed(input_ids, images)
        bias = packed_attention_bias(segment_ids, valid, embeddings.dtype)
        inputs = self.llm_inputs(embeddings, input_ids, images.conditioning)
        hidden = self.hidden_states(inputs, bias, packed_positions(segment_ids))
        groups = find_groups(input_ids, self.config.codebook_ids)
        return hidden, groups, self._group_states(self.codebook_inputs(hidden, embeddings), groups)

    def base_losses(
        self,
        states: ForwardStates,
        segment_ids: Tensor,
        labels: Tensor | None,
        target_masks: list[Tensor] | None,
        ignored: list[Tensor] | None,
        counts: LossCounts,
        weights: LossWeights,
    ) -> Output:
        """Compute the losses of the paper; see `forward`."""
        output = Output(states.mask_logits)
        if labels is not None:
            text = losses.text_loss(self.get_output_embeddings(), states.hidden, labels)
            output.losses["ce"] = weights.ce * text / max(1, counts["tokens"])
        if target_masks is not None:
            per_image = [len(logits) for logits in states.mask_logits]
            answers = segment_ids[states.groups[:, 0], states.groups[:, 1]].split(per_image)
            resized_hw = states.images.resized_hw
            output.losses |= losses.mask_losses(
                states.mask_logits, target_masks, resized_hw, answers, counts, weights, ignored
            )
        return output

    def count_terms(
        self, labels: Tensor | None = None, target_masks: list[Tensor] | None = None, **_batch: object
    ) -> LossCounts:
        """Count what the losses of a batch are averaged over: `tokens` with a label and `masks`."""
        tokens = 0 if labels is None else int((labels[:, 1:] != IGNORE_INDEX).sum())
        return Counter(tokens=tokens, masks=sum(len(masks) for masks in target_masks or ()))

    def codebook_inputs(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Return what the codebook reads: the last-layer states (…, D); `embeddings` (…, D) are the LLM's inputs."""
        return hidden

    def decode_masks(self, images: EncodedImages, states: Tensor, image_index: Tensor) -> Tensor:
        """Decode the states (G·S·K, D) of complete groups to low-resolution logits (G, 2g, 2g)."""
        prompts = self.codebook(states.to(images.maps[0].dtype))
        return self.pixel_decoder(images.maps, prompts, image_index)

    def presence_scores(
        self, images: EncodedImages, states: Tensor, image_index: Tensor, mask_logits: Tensor
    ) -> Tensor | None:
        """Return the presence score of each target, 0..1 (G,); None: the model gives none, as the paper's.

        Args:
            images: see `decode_masks`, whose arguments these are.
            states: see there.
            image_index: see there.
            mask_logits: (G, 2g, 2g), its result.
        """
        return None

    @property
    def takes_prompts(self) -> bool:
        """Return whether the model was trained with visual prompts; the paper's was not."""
        return False

    def refine_mask(
        self, images: EncodedImages, row: int, pixels: Tensor, mask: Tensor, prompts: Prompts
    ) -> tuple[Tensor, float]:
        """Correct the mask of one target by visual prompts.

        Args:
            images: the encoded images.
            row: of the target's image in them.
            pixels: uint8 (3, H, W), the image at its own size.
            mask: bool (H, W), the previous mask; it may be empty.
            prompts: at least one.

        Returns:
            The new mask, bool (H, W), and the mean probability of its pixels, 0..1 (0 for an empty mask).

        Raises:
            ValueError: the model was not trained with prompts.
        """
        raise untrained()

    def _group_states(self, states: Tensor, groups: Tensor) -> Tensor:
        first = 0 if self.config.own_state else -1
        offsets = torch.arange(first, first + len(self.config.codebook_ids), device=states.device)
        return states[groups[:, :1], groups[:, 1:] + offsets].flatten(0, 1)

    def _padding_tokens(self, input_ids: Tensor, images: EncodedImages) -> Tensor:
        is_image = input_ids == IMAGE_TOKEN_ID
        return torch.zeros_like(is_image).masked_scatter(is_image, ~images.token_valid)
