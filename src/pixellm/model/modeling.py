"""PixelLM, assembled as in the paper's figure 2.

vision encoder → [LLM tokens | decoder features] → LLM → codebook → pixel decoder → masks.

Shapes:  B images · T tokens · D LLM width · G targets · S scales · C decoder width · N image tokens
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from pixellm.imaging import geometry
from pixellm.model import attention, losses
from pixellm.model.codebook import Codebook, find_groups, fusion_weight
from pixellm.model.configuration import PixelLMConfig
from pixellm.model.packing import packed_attention_bias, packed_positions
from pixellm.model.pixel_decoder import Neck, PixelDecoder
from pixellm.model.vision import VisionFeatures, build_vision_encoder, valid_area
from pixellm.model.word_mix import WordMix
from pixellm.types import LossCounts, Output
from pixellm.utils.weights import load_whole

# Stands for one image token in `input_ids`; no text can produce it, since vocabularies have no negative ids.
IMAGE_TOKEN_ID = -200
IGNORE_INDEX = -100


class Projector(nn.Sequential):
    """Linear → GELU → Linear over the last dimension; a single linear layer for a hidden size of 0."""

    def __init__(self, in_size: int, hidden_size: int, out_size: int) -> None:
        if hidden_size:
            super().__init__(nn.Linear(in_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, out_size))
        else:
            super().__init__(nn.Linear(in_size, out_size))


@dataclass
class EncodedImages:
    """All that the rest of the model needs of B images; computed once per image and shared by its questions.

    Args:
        tokens: (B, N, D) image tokens for the language model.
        token_valid: bool (B, N), False for tokens that lie in the padding.
        maps: S maps (B, C, g, g) for the pixel decoder.
        neck: S maps (B, C, h, w) before `PixelDecoder.prepare`.
        resized_hw: (B, 2).
        class_logits: (B, V, h, w) or None.
        presence_logits: (B, V) or None.
        name_scores: (B, V) what the language model is told of them, or None.
        words: (V, D) embeddings of the classifier's names, or None.
    """

    tokens: Tensor
    token_valid: Tensor
    maps: list[Tensor]
    neck: list[Tensor]
    resized_hw: Tensor
    class_logits: Tensor | None = None
    presence_logits: Tensor | None = None
    name_scores: Tensor | None = None
    words: Tensor | None = None


class PixelLMForConditionalGeneration(PreTrainedModel):
    config_class = PixelLMConfig
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
        width = config.text_config.hidden_size
        vision_width, hidden = config.vision_config.hidden_size, int(config.projector_ratio * width)
        pixel_width = config.pixel_feature_size or width
        pixel_hidden = int(config.projector_ratio * pixel_width)
        self.vision_encoder = build_vision_encoder(config.vision_config)
        self.llm_projector = Projector(vision_width, hidden, width)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        if self.language_model.config._attn_implementation == "sdpa":
            self.language_model.set_attn_implementation(attention.NAME)
        self.codebook = Codebook(config)
        self.pixel_projector = Projector(vision_width, pixel_hidden, pixel_width)
        self.neck = Neck(pixel_width, config.decoder_dim)
        self.pixel_decoder = self.pixel_decoder_class(config)
        self.word_mix = WordMix(config) if config.vision_config.vocabulary else None
        self.post_init()
        self.freeze_constants()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args, output_loading_info: bool = False, **kwargs):
        """As in `PreTrainedModel`, but what is frozen stays frozen; see also `load_whole`.

        Raises:
            ValueError: the checkpoint lacks weights, or can't be read.
        """
        load = super().from_pretrained
        model, info = load_whole(load, cls.config_class, pretrained_model_name_or_path, *args, **kwargs)
        model.freeze_constants()
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """As in `PreTrainedModel`.

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
            context_pixel_values: a view of its own for the language model, which PixelLM has not.
        """
        config = self.config
        features = self.vision_encoder(pixel_values, resized_hw)
        size, grid = config.vision_config.image_size, config.llm_grid
        tokens = self.image_tokens(features)
        neck = [self.neck(self._project_pixels(feature)) for feature in features.scales[-config.num_scales :]]
        words = name_scores = None
        if self.word_mix is not None:
            words = self.word_mix.words(self.get_input_embeddings())
            class_logits, name_scores = self.word_mix.unsure(features.class_logits, features.presence_logits)
            tokens = tokens + self.word_mix.to_tokens(class_logits, words, grid)
            tokens = torch.cat([tokens, self.word_mix.tags(name_scores, words)], dim=1)
            neck = [map_ + self.word_mix.to_map(features.class_logits, words, map_.shape[-1]) for map_ in neck]
        valid = valid_area(resized_hw, size, grid).flatten(1)
        valid = F.pad(valid, (0, config.num_tags), value=True)
        maps = self.pixel_decoder.prepare(neck)
        logits, presence = features.class_logits, features.presence_logits
        return EncodedImages(tokens, valid, maps, neck, resized_hw, logits, presence, name_scores, words)

    def image_tokens(self, features: VisionFeatures) -> Tensor:
        """The deepest map of an encoder as (B, g·g, D) tokens of the language model."""
        deepest, grid = features.scales[0], self.config.llm_grid
        pooled = F.interpolate(deepest.float(), (grid, grid), mode="bilinear", align_corners=False).to(deepest.dtype)
        return self.llm_projector(pooled.flatten(2).transpose(1, 2))

    def _project_pixels(self, feature: Tensor) -> Tensor:
        return self.pixel_projector(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

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

    def told(self, input_ids: Tensor, name_scores: Tensor) -> Tensor:
        """What the scores (B, V) of names add to the embeddings of those that the text (B, T) mentions: (B, T, D)."""
        assert self.word_mix is not None
        return self.word_mix.mentioned(input_ids, name_scores).to(self.get_input_embeddings().weight.dtype)

    def hidden_states(self, embeddings: Tensor, attention_mask: Tensor, position_ids: Tensor, cache=None) -> Tensor:
        """Last-layer states (B, T, D) after the final norm; `attention_mask` is additive (B, 1, T, keys)."""
        return self.language_model.base_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
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
        class_target: Tensor | None = None,
        class_weight: Tensor | None = None,
        target_names: Tensor | None = None,
        context_pixel_values: Tensor | None = None,
        counts: LossCounts | None = None,
    ) -> Output:
        """Teacher-forced pass over a `Batch` (see there for the arguments).

        `counts` is what the losses are averaged over, if that is more than this batch.

        Returns:
            `Output` with the low-resolution mask logits of each image (M, 2g, 2g), and with labels the losses:
            `ce`, `bce`, `dice`, `names`, `semantics`, each with its weight already in, and their sum `loss`.
        """
        images = self.encode_images(pixel_values, resized_hw, context_pixel_values)
        valid = segment_ids >= 0
        valid = valid & ~self._padding_tokens(input_ids, images)
        embeddings = self.embed(input_ids, images)
        bias = packed_attention_bias(segment_ids, valid, embeddings.dtype)
        told = 0.0 if images.name_scores is None else self.told(input_ids, images.name_scores)
        states = self.hidden_states(embeddings + told, bias, packed_positions(segment_ids))
        groups = find_groups(input_ids, self.config.codebook_ids)
        group_states = self._group_states(self.codebook_input(states, embeddings), groups)
        logits, scale_logits = self.decode_masks(images, group_states, groups[:, 0])
        per_image = torch.bincount(groups[:, 0], minlength=len(input_ids)).tolist()
        output = Output(None, {}, list(logits.split(per_image)), scale_logits)
        counts = counts or loss_counts(labels, target_masks, target_names, len(input_ids))
        if labels is not None:
            output.losses["ce"] = self.config.ce_weight * self._text_loss(states, labels) / max(1, counts.tokens)
        if target_masks is not None:
            answers = segment_ids[groups[:, 0], groups[:, 1]].split(per_image)
            found = self.mask_losses(output.mask_logits, target_masks, resized_hw, answers, counts.masks, ignored)
            output.losses |= found
        named = self.word_mix is not None and self.config.name_prior
        if named and target_masks is not None and images.words is not None:
            if target_names is None:
                target_names = self.word_mix.written(input_ids, groups)
            scores = self.word_mix.name_scores(self._first_states(group_states), images.words).float()
            known = target_names != IGNORE_INDEX
            loss = F.cross_entropy(scores[known], target_names[known], reduction="sum")
            output.losses["names"] = self.config.name_weight * loss / max(1, counts.names)
        if class_target is not None and class_weight is not None and images.class_logits is not None:
            output.losses |= self.class_losses(images, class_target, class_weight, counts.images)
        if output.losses:
            output.loss = torch.stack(list(output.losses.values())).sum()
        return output

    def codebook_input(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """What the codebook reads: last-layer states (…, D), with a skip from the word embeddings (…, D) below them.

        A small language model's last states say what comes next, and little of the word that was just written.
        """
        return states + self.config.word_skip * embeddings if self.config.word_skip else states

    def decode_masks(self, images: EncodedImages, states: Tensor, image_index: Tensor) -> tuple[Tensor, list[Tensor]]:
        """States (G·S·K, D) of complete groups → low-resolution logits (G, 2g, 2g), and those of each scale."""
        states = states.to(images.maps[0].dtype)
        prompts = self.codebook(states)
        if self.word_mix is None or images.words is None or not self.config.name_prior:
            return self.pixel_decoder(images.maps, prompts, image_index)
        shares = self.word_mix.shares(self._first_states(states), images.words)
        return self._decode_named(images, shares, prompts, image_index)

    def decode_names(self, images: EncodedImages, names: Tensor, image_index: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `decode_masks`, asked for G names of the vocabulary by their indexes, without the language model."""
        assert self.word_mix is not None
        shares = F.one_hot(names, len(self.config.vision_config.vocabulary)).to(images.maps[0].dtype)
        return self._decode_named(images, shares, 0.0, image_index)

    def _decode_named(
        self, images: EncodedImages, shares: Tensor, prompts: Tensor | float, image_index: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """With the prompts and the prior of the names in `shares` (G, V) added."""
        assert self.word_mix is not None
        assert images.words is not None
        assert images.class_logits is not None
        prompts = prompts + self.word_mix.prompts(shares, images.words)
        # The classifier has a loss of its own; the masks' gradient would pull it away from that (docs/LOG.md).
        prior = self.word_mix.prior(shares, images.class_logits.detach(), image_index)
        logits, scale_logits = self.pixel_decoder(images.maps, prompts, image_index, prior)
        enlarged = F.interpolate(prior[:, None], logits.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        return logits + self.word_mix.prior_weight * enlarged, scale_logits

    def _group_states(self, states: Tensor, groups: Tensor) -> Tensor:
        first = 0 if self.config.own_state else -1
        offsets = torch.arange(first, first + len(self.config.codebook_ids), device=states.device)
        return states[groups[:, :1], groups[:, 1:] + offsets].flatten(0, 1)

    def _first_states(self, states: Tensor) -> Tensor:
        return states.unflatten(0, (-1, len(self.config.codebook_ids)))[:, 0]

    def _padding_tokens(self, input_ids: Tensor, images: EncodedImages) -> Tensor:
        is_image = input_ids == IMAGE_TOKEN_ID
        return torch.zeros_like(is_image).masked_scatter(is_image, ~images.token_valid)

    def _text_loss(self, states: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the next token, summed over all labels of the batch; only those states meet the head."""
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        chosen = targets != IGNORE_INDEX
        logits = self.get_output_embeddings()(states[chosen]).float()
        return F.cross_entropy(logits, targets[chosen], reduction="sum")

    def class_losses(self, images: EncodedImages, target: Tensor, weight: Tensor, count: int) -> dict[str, Tensor]:
        """Losses of the dense classifier, of a step of `count` images: where each name is, and whether it is there."""
        assert images.class_logits is not None
        assert images.presence_logits is not None
        valid = valid_area(images.resized_hw, self.config.vision_config.image_size, target.shape[-1])
        dense = losses.semantic_loss(images.class_logits, target, weight)
        presence = losses.presence_loss(images.presence_logits, target, weight, valid)
        share = self.config.semantics_weight * len(target) / count
        return {"semantics": share * dense, "presence": share * presence}

    def mask_losses(
        self,
        mask_logits: list[Tensor],
        target_masks: list[Tensor],
        resized_hw: Tensor,
        answers: Sequence[Tensor],
        count: int,
        ignored: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """BCE with target refinement, and DICE.

        Args:
            mask_logits: of each image (M, S, S).
            target_masks: of each image bool (M, H, W), at the size at which they are compared.
            resized_hw: (B, 2).
            answers: of each image (M,), which answer each mask belongs to.
            count: masks that the losses are averaged over.
            ignored: of each image bool (M, H, W), pixels that add nothing to the losses.
        """
        # Without a target, too, a part of the graph: processes that train together wait for each other's gradients.
        bce = dice = 0 * torch.stack([logits.sum() for logits in mask_logits]).sum().float()
        for index, (logits, target) in enumerate(zip(mask_logits, target_masks, strict=True)):
            if len(logits) != len(target):
                raise ValueError(
                    f"image {index} of the batch: its answers have {len(logits)} codebook groups but {len(target)} "
                    "masks. Write one {seg} for each mask, in the same order."
                )
            height, width = resized_hw[index].tolist()
            restored = geometry.restore(logits, (height, width), tuple(target.shape[-2:]))
            counted = torch.ones_like(restored) if ignored is None else (~ignored[index]).to(restored.dtype)
            for answer in answers[index].unique():
                mine = answers[index] == answer
                weight = losses.refinement_weight(restored[mine], self.config.overlap_weight)
                bce = bce + losses.mask_bce(restored[mine], target[mine], weight * counted[mine])
            dice = dice + losses.mask_dice(restored, target, counted)
        count = max(1, count)
        return {"bce": self.config.bce_weight * bce / count, "dice": self.config.dice_weight * dice / count}


def loss_counts(
    labels: Tensor | None, target_masks: list[Tensor] | None, target_names: Tensor | None, images: int
) -> LossCounts:
    """What the losses of a batch alone are averaged over."""
    tokens = 0 if labels is None else int((labels[:, 1:] != IGNORE_INDEX).sum())
    masks = sum(len(stack) for stack in target_masks or ())
    names = masks if target_names is None else int((target_names != IGNORE_INDEX).sum())
    return LossCounts(tokens, masks, names, images)
