"""pixellm-mini: PixelLM whose language model reads what a detector and a dense classifier found, and points at it.

image → candidates (objects, regions) → tokens → language model → codebook states → pointer → the candidates meant
      → their masks, joined with the pixel decoder's

Shapes:  B images · T tokens · D LLM width · G targets · K candidates of an image · V categories
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from pixellm.mini.candidates import Candidates, CandidateTokens, Pointer, gather_candidates, pointer_loss
from pixellm.mini.class_prompts import ClassPrompts
from pixellm.mini.configuration import MiniConfig, MiniVisionConfig
from pixellm.mini.instances import InstanceDecoder
from pixellm.mini.losses import MiniLossWeights, presence_loss, semantic_loss
from pixellm.mini.vision import ClassifyingEncoder, DetectedObjects
from pixellm.model import PixelLMImageProcessor, PixelLMProcessor
from pixellm.model.losses import LossCounts
from pixellm.model.modeling import EncodedImages, PixelLMForConditionalGeneration
from pixellm.model.vision import valid_area
from pixellm.types import Output

MEANT = 0.5  # a target means a candidate from this probability; where it means none, the likeliest


@dataclass(kw_only=True)
class ClassifiedImages(EncodedImages):
    """Encoded images with what the classifier and the detector found.

    Args:
        class_logits: (B, V, h, w).
        presence_logits: (B, V).
        words: (V, D) embeddings of the categories.
        candidates: what answers may mean; None for a model that reads none.
        objects: what the detector gives; None without one.
        mask_maps: what `InstanceDecoder.prepare` gave.
    """

    class_logits: Tensor
    presence_logits: Tensor
    words: Tensor
    candidates: Candidates | None = None
    objects: DetectedObjects | None = None
    mask_maps: list[Tensor] = field(default_factory=list)


class MiniForConditionalGeneration(PixelLMForConditionalGeneration):
    config_class = MiniConfig

    @property
    def default_loss_weights(self) -> MiniLossWeights:
        return MiniLossWeights()

    def build(self, config: MiniConfig) -> None:
        super().build(config)
        width = config.text_config.hidden_size
        self.class_prompts = ClassPrompts(config)
        self.candidate_tokens = CandidateTokens(config.num_candidates, width) if config.num_candidates else None
        self.pointer = Pointer(width, len(config.codebook_ids)) if config.num_candidates else None
        detects = config.num_candidates and config.vision_config.detector_classes
        self.instances = InstanceDecoder(config) if detects else None

    def build_vision_encoder(self, config: MiniVisionConfig) -> ClassifyingEncoder:
        return ClassifyingEncoder(config)

    @property
    def peak_share(self) -> float | None:
        return self.config.peak_share

    @property
    def default_sampling(self) -> dict[str, Any]:
        return self.config.default_sampling

    def encode_images(
        self, pixel_values: Tensor, resized_hw: Tensor, context_pixel_values: Tensor | None = None
    ) -> ClassifiedImages:
        """Run the vision side; see `PixelLMForConditionalGeneration.encode_images`."""
        config, prompts = self.config, self.class_prompts
        features = self.vision_encoder(pixel_values, resized_hw)
        words = prompts.words(self.get_input_embeddings())
        tokens = self.image_tokens(features)
        valid = valid_area(resized_hw, config.vision_config.image_size, config.llm_grid).flatten(1)
        candidates = None
        if self.candidate_tokens is not None:
            count, regions = config.num_candidates, config.num_regions
            candidates = gather_candidates(features, resized_hw, config.vision_config, count, regions)
            read = self.candidate_tokens(words[candidates.classes], candidates.boxes, candidates.scores)
            tokens, valid = torch.cat([tokens, read.to(tokens.dtype)], dim=1), torch.cat([valid, candidates.valid], 1)
        maps = [map_ + prompts.to_map(features.class_logits, words, map_.shape[-1]) for map_ in self.neck_maps(features)]
        return ClassifiedImages(
            tokens=tokens,
            token_valid=valid,
            maps=self.pixel_decoder.prepare(maps),
            resized_hw=resized_hw,
            class_logits=features.class_logits,
            presence_logits=features.presence_logits,
            words=words,
            candidates=candidates,
            objects=features.objects,
            mask_maps=self.instances.prepare(features) if self.instances else [],
        )

    def point(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return logits (G, K) that group states (G·N, D) mean the candidates whose tokens (G, K, D) are given."""
        assert self.pointer is not None
        return self.pointer(states.unflatten(0, (-1, len(self.config.codebook_ids))), tokens)

    def candidates_meant(self, images: ClassifiedImages, states: Tensor, image_index: Tensor) -> Tensor:
        """Return the probability (G, K) that each target means each candidate; 0 for those that are none."""
        candidates = images.candidates
        assert candidates is not None
        tokens = images.tokens[image_index, -self.config.num_candidates :]
        logits = self.point(states.to(tokens.dtype), tokens)
        return logits.float().sigmoid() * candidates.valid[image_index]

    def decode_masks(self, images: EncodedImages, states: Tensor, image_index: Tensor) -> Tensor:
        """Decode the states (G·S·K, D) of complete groups to logits of the candidates that they mean."""
        if self.pointer is None:
            return super().decode_masks(images, states, image_index)
        assert isinstance(images, ClassifiedImages)
        probability = self.candidates_meant(images, states, image_index)
        meant = (probability >= MEANT) | (probability == probability.amax(dim=1, keepdim=True))
        meant &= images.candidates.valid[image_index]
        shares = self._class_shares(images, probability * meant, image_index)
        prompts = self.codebook(states.to(images.maps[0].dtype))
        regions = self.decode_classes(images, shares.to(prompts.dtype), image_index, prompts)
        if self.instances is None or images.objects is None:
            return regions
        chosen = self._objects_meant(images, meant, image_index)
        evidence, hw = images.class_logits.detach(), images.resized_hw
        return self.instances(images.objects, images.mask_maps, evidence, chosen, regions, hw, image_index)

    def decode_classes(
        self, images: ClassifiedImages, shares: Tensor, image_index: Tensor, prompts: Tensor | float = 0.0
    ) -> Tensor:
        """Decode masks of mixtures of categories: shares (G, V) → logits (G, 2g, 2g); `prompts` are added to theirs."""
        prompts = prompts + self.class_prompts.prompts(shares, images.words)
        # The classifier has a loss of its own; the masks' gradient would pull it away from that (docs/LOG.md).
        prior = self.class_prompts.prior(shares, images.class_logits.detach(), image_index)
        logits = self.pixel_decoder(images.maps, prompts, image_index, mask_prompt=prior)
        enlarged = F.interpolate(prior[:, None], logits.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        return logits + self.class_prompts.prior_weight * enlarged

    def presence_scores(
        self, images: EncodedImages, states: Tensor, image_index: Tensor, mask_logits: Tensor
    ) -> Tensor | None:
        """Return how sure the likeliest candidate of each target is present (G,)."""
        if self.pointer is None:
            return None
        assert isinstance(images, ClassifiedImages)
        probability = self.candidates_meant(images, states, image_index)
        return (probability * images.candidates.scores[image_index].float().sigmoid()).amax(dim=1)

    def _class_shares(self, images: ClassifiedImages, weights: Tensor, image_index: Tensor) -> Tensor:
        """Return the mixture of categories (G, V) that candidates weighted (G, K) belong to."""
        shares = weights.new_zeros(len(weights), len(self.config.vision_config.vocabulary))
        shares = shares.scatter_reduce(1, images.candidates.classes[image_index], weights, "amax")
        return shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-6)

    def _objects_meant(self, images: ClassifiedImages, meant: Tensor, image_index: Tensor) -> Tensor:
        """Return which detections are among the candidates meant: bool (G, K) → bool (G, detections)."""
        numbers = images.candidates.objects[image_index]
        count = images.objects.detections.scores.shape[1]
        chosen = meant.new_zeros(len(meant), count + 1).scatter(1, numbers % (count + 1), meant & (numbers >= 0))
        return chosen[:, :count]
