"""pixellm-mini: PixelLM whose LLM and pixel decoder read a dense classifier's scores through word mixing.

Shapes:  B images · T tokens · D LLM width · G targets · V categories
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from pixellm.imaging.prompt_region import cropped
from pixellm.imaging.visual_prompts import Prompts
from pixellm.mini.configuration import MiniConfig, MiniVisionConfig
from pixellm.mini.instances import InstanceDecoder
from pixellm.mini.losses import MiniLossWeights, presence_loss, semantic_loss
from pixellm.mini.refine_maps import refinement_sources
from pixellm.mini.refiner import Refiner
from pixellm.mini.vision import ClassifiedFeatures, ClassifyingEncoder, DetectedObjects
from pixellm.mini.word_mix import WordMix
from pixellm.model import PixelLMImageProcessor, PixelLMProcessor
from pixellm.model.losses import LossCounts
from pixellm.model.modeling import IGNORE_INDEX, PixelLMForConditionalGeneration
from pixellm.model.states import EncodedImages, ForwardStates
from pixellm.model.vision import valid_area
from pixellm.types import Output

LOOKBACK = 16  # earlier tokens in which the beginning of any category's name fits


@dataclass(kw_only=True)
class ClassifiedImages(EncodedImages):
    """Encoded images with the classifier's scores; `conditioning` (B, V) are the presence scores that the LLM reads.

    Args:
        class_logits: (B, V, h, w).
        presence_logits: (B, V).
        words: (V, D) embeddings of the categories.
        objects: what the detector gives; None without one.
        mask_maps: what `InstanceDecoder.prepare` gave.
        refine_maps: what `refinement_sources` gave.
    """

    class_logits: Tensor
    presence_logits: Tensor
    words: Tensor
    objects: DetectedObjects | None = None
    mask_maps: list[Tensor] = field(default_factory=list)
    refine_maps: list[Tensor] = field(default_factory=list)


class MiniForConditionalGeneration(PixelLMForConditionalGeneration):
    config_class = MiniConfig

    @property
    def default_loss_weights(self) -> MiniLossWeights:
        return MiniLossWeights()

    def build(self, config: MiniConfig) -> None:
        super().build(config)
        self.word_mix = WordMix(config)
        detects = config.class_prior and config.vision_config.detector_classes
        self.instances = InstanceDecoder(config) if detects else None
        self.refiner = Refiner(config.vision_config, config.refine_width) if config.refine_width else None

    def build_vision_encoder(self, config: MiniVisionConfig) -> ClassifyingEncoder:
        return ClassifyingEncoder(config)

    @property
    def peak_share(self) -> float | None:
        return self.config.peak_share

    @property
    def lookback(self) -> int:
        return LOOKBACK

    @property
    def default_sampling(self) -> dict[str, Any]:
        return self.config.default_sampling

    def encode_images(
        self, pixel_values: Tensor, resized_hw: Tensor, context_pixel_values: Tensor | None = None
    ) -> ClassifiedImages:
        """Run the vision side; see `PixelLMForConditionalGeneration.encode_images`."""
        return self.encode_with_features(pixel_values, resized_hw)[0]

    def encode_with_features(
        self, pixel_values: Tensor, resized_hw: Tensor
    ) -> tuple[ClassifiedImages, ClassifiedFeatures]:
        """Run the vision side; return also the encoder's features, from which the images were made."""
        config, mix = self.config, self.word_mix
        features = self.vision_encoder(pixel_values, resized_hw)
        words = mix.words(self.get_input_embeddings())
        class_logits, presence = mix.add_noise(features.class_logits, features.presence_logits)
        tokens = self.image_tokens(features) + mix.to_tokens(class_logits, words, config.llm_grid)
        tokens = torch.cat([tokens, mix.tags(presence, words)], dim=1)
        maps = [map_ + mix.to_map(features.class_logits, words, map_.shape[-1]) for map_ in self.neck_maps(features)]
        valid = valid_area(resized_hw, config.vision_config.image_size, config.llm_grid).flatten(1)
        images = ClassifiedImages(
            tokens=tokens,
            token_valid=F.pad(valid, (0, config.num_tags), value=True),
            maps=self.pixel_decoder.prepare(maps),
            resized_hw=resized_hw,
            conditioning=presence,
            class_logits=features.class_logits,
            presence_logits=features.presence_logits,
            words=words,
            objects=features.objects,
            mask_maps=self.instances.prepare(features) if self.instances else [],
            refine_maps=refinement_sources(features) if self.refiner else [],
        )
        return images, features

    def llm_inputs(
        self,
        embeddings: Tensor,
        input_ids: Tensor,
        conditioning: Tensor | None,
        earlier_ids: Tensor | None = None,
    ) -> Tensor:
        """Add to the last token of each category that the text mentions its presence score."""
        assert conditioning is not None
        if earlier_ids is not None:  # a name of several tokens may have begun in an earlier step
            input_ids = torch.cat([earlier_ids, input_ids], dim=1)
        scores = self.word_mix.mention_embeddings(input_ids, conditioning)
        return embeddings + scores[:, -embeddings.shape[1] :].to(self.get_input_embeddings().weight.dtype)

    def codebook_inputs(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Add a skip from the token embeddings below the states.

        A small LLM's last states predict the next token and hold little of the word that was just written.
        """
        return hidden + self.config.embedding_skip * embeddings if self.config.embedding_skip else hidden

    def decode_masks(self, images: EncodedImages, states: Tensor, image_index: Tensor) -> Tensor:
        """Decode the states (G·S·K, D) of complete groups to logits (G, 2g, 2g), with the class prior."""
        if not self.config.class_prior:
            return super().decode_masks(images, states, image_index)
        states = states.to(images.maps[0].dtype)
        prompts = self.codebook(states)  # first: gradients are summed in the reverse of this order
        shares = self.word_mix.shares(self._first_states(states), images.words)
        return self._decode_with_prior(images, shares, prompts, image_index)

    def presence_scores(
        self, images: EncodedImages, states: Tensor, image_index: Tensor, mask_logits: Tensor
    ) -> Tensor | None:
        """Return the presence (G,) of the categories that the targets mean; of an unknown one, its mask's maximum."""
        if not self.config.class_prior:
            return None
        assert isinstance(images, ClassifiedImages)
        shares = self.word_mix.shares(self._first_states(states.to(images.maps[0].dtype)), images.words).float()
        known = (shares * images.presence_logits[image_index].float().sigmoid()).sum(dim=1)
        return known + (1 - shares.sum(dim=1)) * mask_logits.float().flatten(1).amax(dim=1).sigmoid()

    @property
    def takes_prompts(self) -> bool:
        return self.refiner is not None

    def refine_mask(
        self, images: EncodedImages, row: int, pixels: Tensor, mask: Tensor, prompts: Prompts
    ) -> tuple[Tensor, float]:
        if self.refiner is None:
            return super().refine_mask(images, row, pixels, mask, prompts)
        assert isinstance(images, ClassifiedImages)
        size = self.config.vision_config.image_size
        maps = cropped(images.refine_maps, row, images.resized_hw[row].tolist(), size)
        return self.refiner.refine(pixels, maps, mask, prompts)

    def decode_classes(self, images: ClassifiedImages, classes: Tensor, image_index: Tensor) -> Tensor:
        """Decode masks of G categories, given as vocabulary indexes, without the LLM: logits (G, 2g, 2g)."""
        shares = F.one_hot(classes, len(self.config.vision_config.vocabulary)).to(images.maps[0].dtype)
        return self._decode_with_prior(images, shares, 0.0, image_index)

    def _decode_with_prior(
        self, images: ClassifiedImages, shares: Tensor, prompts: Tensor | float, image_index: Tensor
    ) -> Tensor:
        """Add the prompts and the prior of the categories in `shares` (G, V)."""
        prompts = prompts + self.word_mix.prompts(shares, images.words)
        # The classifier has a loss of its own; the masks' gradient would pull it away from that (docs/LOG.md).
        prior = self.word_mix.prior(shares, images.class_logits.detach(), image_index)
        logits = self.pixel_decoder(images.maps, prompts, image_index, mask_prompt=prior)
        enlarged = F.interpolate(prior[:, None], logits.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        logits = logits + self.word_mix.prior_weight * enlarged
        if self.instances is None or images.objects is None:
            return logits
        chosen = self.instances.choose(images.objects, shares, image_index)
        evidence, hw = images.class_logits.detach(), images.resized_hw
        return self.instances(images.objects, images.mask_maps, evidence, chosen, logits, hw, image_index)

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
        loss_weights: MiniLossWeights | None = None,
        class_target: Tensor | None = None,
        class_weight: Tensor | None = None,
        target_classes: Tensor | None = None,
    ) -> Output:
        """Run a teacher-forced pass; see `PixelLMForConditionalGeneration.forward`.

        `class_target` and `class_weight` are (B, V, h, w), see `class_losses`; `target_classes` (ΣM,) is the vocabulary
        index of each target, V for another category, -100 where nothing is learned, None to read it from the text.

        Returns:
            `Output` with the further losses `names`, and with class targets `semantics` and `presence`.
        """
        states = self.forward_states(pixel_values, resized_hw, input_ids, segment_ids, context_pixel_values)
        counts = counts or self.count_terms(labels, target_masks, target_classes, resized_hw)
        weights = loss_weights or self.default_loss_weights
        output = self.base_losses(states, segment_ids, labels, target_masks, ignored, counts, weights)
        if self.config.class_prior and target_masks is not None:
            loss = self._name_loss(states, input_ids, target_classes)
            output.losses["names"] = weights.names * loss / max(1, counts["names"])
        if class_target is not None and class_weight is not None:
            output.losses |= self.class_losses(states.images, class_target, class_weight, counts, weights)
        return output

    def count_terms(
        self,
        labels: Tensor | None = None,
        target_masks: list[Tensor] | None = None,
        target_classes: Tensor | None = None,
        resized_hw: Tensor | None = None,
        **_batch: object,
    ) -> LossCounts:
        """Count, besides `tokens` and `masks`, targets whose category is learned (`names`) and `images`."""
        counts = super().count_terms(labels, target_masks)
        known = counts["masks"] if target_classes is None else int((target_classes != IGNORE_INDEX).sum())
        counts.update(names=known, images=0 if resized_hw is None else len(resized_hw))
        return counts

    def _name_loss(self, states: ForwardStates, input_ids: Tensor, target_classes: Tensor | None) -> Tensor:
        """Cross-entropy of the category that each target's first state resembles, summed over targets."""
        if target_classes is None:
            target_classes = self.word_mix.written(input_ids, states.groups)
        scores = self.word_mix.class_scores(self._first_states(states.group_states), states.images.words).float()
        known = target_classes != IGNORE_INDEX
        return F.cross_entropy(scores[known], target_classes[known], reduction="sum")

    def class_losses(
        self, images: ClassifiedImages, target: Tensor, weight: Tensor, counts: LossCounts, weights: MiniLossWeights
    ) -> dict[str, Tensor]:
        """Compute the losses of the dense classifier: where each category is, and whether it is present.

        Args:
            images: the encoded images.
            target: (B, V, h, w) in 0..1.
            weight: bool (B, V, h, w), where the target is known.
            counts: `images` is the number that the losses are averaged over.
            weights: of the losses.
        """
        valid = valid_area(images.resized_hw, self.config.vision_config.image_size, target.shape[-1])
        dense = semantic_loss(images.class_logits, target, weight)
        presence = presence_loss(images.presence_logits, target, weight, valid)
        share = weights.semantics * len(target) / counts["images"]
        return {"semantics": share * dense, "presence": share * presence}

    def _first_states(self, states: Tensor) -> Tensor:
        return states.unflatten(0, (-1, len(self.config.codebook_ids)))[:, 0]


AutoConfig.register(MiniConfig.model_type, MiniConfig)
AutoModel.register(MiniConfig, MiniForConditionalGeneration)
AutoProcessor.register(MiniConfig, PixelLMProcessor)
AutoImageProcessor.register(MiniConfig, slow_image_processor_class=PixelLMImageProcessor)
