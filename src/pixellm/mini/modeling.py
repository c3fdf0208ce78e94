"""pixellm-mini: PixelLM whose language model reads what a detector and a dense classifier found, and points at it.

image → candidates (objects, regions) → tokens → language model → codebook states → pointer → the candidates meant
      → their masks, joined with the pixel decoder's

Shapes:  B images · T tokens · D LLM width · G targets · K candidates of an image · V categories
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from pixellm.imaging.prompt_region import cropped
from pixellm.imaging.visual_prompts import Prompts
from pixellm.mini.candidates import Candidates, CandidateSelection, CandidateTokens, Pointer
from pixellm.mini.class_prompts import ClassPrompts
from pixellm.mini.configuration import MiniConfig, MiniVisionConfig
from pixellm.mini.instances import InstanceDecoder
from pixellm.mini.losses import MiniLossWeights, presence_loss, semantic_loss
from pixellm.mini.mentions import Mentions
from pixellm.mini.prompted_instances import refine_instances
from pixellm.mini.refine_maps import refinement_sources
from pixellm.mini.refiner import Refiner
from pixellm.mini.vision import ClassifiedFeatures, ClassifyingEncoder, DetectedObjects
from pixellm.model import PixelLMImageProcessor, PixelLMProcessor
from pixellm.model.losses import LossCounts
from pixellm.model.modeling import PixelLMForConditionalGeneration
from pixellm.model.states import EncodedImages
from pixellm.model.vision import valid_area

MEANT = 0.5  # a target means a candidate from this probability …
LIKELIEST = 0.1  # … or where none is as likely, the likeliest from this one


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
        refine_maps: what `refinement_sources` gave.
    """

    class_logits: Tensor
    presence_logits: Tensor
    words: Tensor
    candidates: Candidates | None = None
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
        width = config.text_config.hidden_size
        self.class_prompts = ClassPrompts(config)
        reads = config.num_candidates > 0
        if reads:
            del self.llm_projector  # the language model reads candidates in place of the image's grid
        self.selection = CandidateSelection(config) if reads else None
        self.candidate_tokens = CandidateTokens(config.num_candidates, width) if reads else None
        self.mentions = Mentions(config) if reads else None
        self.pointer = Pointer(width, len(config.codebook_ids)) if reads else None
        self.instances = InstanceDecoder(config) if config.vision_config.detector_classes else None
        self.refiner = Refiner(config.vision_config, config.refine_width) if config.refine_width else None

    def build_vision_encoder(self, config: MiniVisionConfig) -> ClassifyingEncoder:
        return ClassifyingEncoder(config)

    @property
    def peak_share(self) -> float | None:
        return self.config.peak_share

    @property
    def lookback(self) -> int:
        return 0 if self.mentions is None else self.mentions.lookback

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
        config, prompts = self.config, self.class_prompts
        features = self.vision_encoder(pixel_values, resized_hw)
        words = prompts.words(self.get_input_embeddings())
        if self.selection is None:
            candidates, conditioning, tokens = None, None, self.image_tokens(features)
            valid = valid_area(resized_hw, config.vision_config.image_size, config.llm_grid).flatten(1)
        else:
            assert self.mentions is not None
            candidates = self.selection(features, resized_hw)
            tokens, valid = self.read_candidates(candidates, words), candidates.valid
            conditioning = self.mentions.conditioning(candidates, len(words))
        class_logits = features.class_logits
        maps = [map_ + prompts.to_map(class_logits, words, map_.shape[-1]) for map_ in self.neck_maps(features)]
        images = ClassifiedImages(
            tokens=tokens,
            token_valid=valid,
            maps=self.pixel_decoder.prepare(maps),
            resized_hw=resized_hw,
            conditioning=conditioning,
            class_logits=class_logits,
            presence_logits=features.presence_logits,
            words=words,
            candidates=candidates,
            objects=features.objects,
            mask_maps=self.instances.prepare(features) if self.instances else [],
            refine_maps=refinement_sources(features) if self.refiner else [],
        )
        return images, features

    def read_candidates(self, candidates: Candidates, words: Tensor) -> Tensor:
        """Return the tokens (B, K, D) of candidates: their names, places and scores."""
        assert self.candidate_tokens is not None
        return self.candidate_tokens(words[candidates.classes], candidates.boxes, candidates.scores)

    def llm_inputs(
        self,
        embeddings: Tensor,
        input_ids: Tensor,
        conditioning: Tensor | None,
        earlier_ids: Tensor | None = None,
    ) -> Tensor:
        """Add marks to the last token of each name that the text mentions."""
        if self.mentions is None:
            return embeddings
        assert conditioning is not None
        if earlier_ids is not None:  # a name of several tokens may have begun in an earlier step
            input_ids = torch.cat([earlier_ids, input_ids], dim=1)
        marks = self.mentions(input_ids, conditioning)
        return embeddings + marks[:, -embeddings.shape[1] :].to(embeddings.dtype)

    def codebook_inputs(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Add a skip from the token embeddings below the states.

        A small LLM's last states predict the next token and hold little of the word that was just written.
        """
        return hidden + self.config.embedding_skip * embeddings if self.config.embedding_skip else hidden

    def point(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return logits (G, K) that group states (G·N, D) mean the candidates whose tokens (G, K, D) are given."""
        assert self.pointer is not None
        return self.pointer(states.unflatten(0, (-1, len(self.config.codebook_ids))), tokens)

    def candidates_meant(self, images: ClassifiedImages, states: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each target and candidate the probability (G, K) that it means it, and whether it does."""
        assert images.candidates is not None
        tokens = images.tokens[image_index]
        probability = self.point(states.to(tokens.dtype), tokens).float().sigmoid()
        probability = probability * images.candidates.valid[image_index]
        floor = probability.amax(dim=1, keepdim=True).clamp(LIKELIEST, MEANT)
        return probability, probability >= floor

    def decode_masks(self, images: EncodedImages, states: Tensor, image_index: Tensor) -> Tensor:
        """Decode the states (G·S·K, D) of complete groups to logits of the candidates that they mean."""
        if self.pointer is None:
            return super().decode_masks(images, states, image_index)
        assert isinstance(images, ClassifiedImages)
        probability, meant = self.candidates_meant(images, states, image_index)
        shares = self._by_class(images, probability * meant, image_index)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1)
        prompts = self.codebook(states.to(images.maps[0].dtype))
        regions = self.decode_regions(images, shares.to(prompts.dtype), image_index, prompts)
        regions = regions + self.class_prompts.unknown_bias * ~meant.any(dim=1)[:, None, None]
        if self.instances is None or images.objects is None:
            return regions
        return self._add_objects(images, self._objects_meant(images, meant, image_index), regions, image_index)

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
        regions = self.decode_regions(images, shares, image_index)
        if self.instances is None or images.objects is None:
            return regions
        chosen = self.instances.choose(images.objects, shares, image_index)
        return self._add_objects(images, chosen, regions, image_index)

    def decode_regions(
        self, images: ClassifiedImages, shares: Tensor, image_index: Tensor, prompts: Tensor | float = 0.0
    ) -> Tensor:
        """Decode masks of mixtures of categories: shares (G, V) → logits (G, 2g, 2g); `prompts` are added to theirs."""
        prompts = prompts + self.class_prompts.prompts(shares, images.words)
        # The classifier has a loss of its own; the masks' gradient would pull it away from that (docs/LOG.md).
        prior = self.class_prompts.prior(shares, images.class_logits.detach(), image_index)
        logits = self.pixel_decoder(images.maps, prompts, image_index, mask_prompt=prior)
        enlarged = F.interpolate(prior[:, None], logits.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        return logits + self.class_prompts.prior_weight * enlarged

    def _add_objects(self, images: ClassifiedImages, chosen: Tensor, regions: Tensor, image_index: Tensor) -> Tensor:
        """Join the masks of chosen detections, bool (G, detections), with those of regions."""
        assert self.instances is not None
        assert images.objects is not None
        objects, hw = images.objects, images.resized_hw
        evidence = images.class_logits.detach()
        refine = None if self.refiner is None else partial(self._refine_instances, images)
        return self.instances(objects, images.mask_maps, evidence, chosen, regions, hw, image_index, refine)

    def _refine_instances(
        self, images: ClassifiedImages, logits: Tensor, boxes: Tensor, image_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Refine masks of detections; see `Refine`."""
        assert self.refiner is not None
        assert images.objects is not None
        rgb = self.vision_encoder.detector.network.restore(images.objects.pixels.float()) / 255
        hw = images.resized_hw[image_index]
        return refine_instances(self.refiner, rgb, images.refine_maps, logits, boxes, hw, image_index)

    def presence_scores(
        self, images: EncodedImages, states: Tensor, image_index: Tensor, mask_logits: Tensor
    ) -> Tensor | None:
        """Return the presence (G,) of the surest candidate that each target means; without one, its mask's maximum."""
        if self.pointer is None:
            return None
        assert isinstance(images, ClassifiedImages)
        assert images.candidates is not None
        probability, meant = self.candidates_meant(images, states, image_index)
        known = images.presence_logits.float().sigmoid()[image_index].gather(1, images.candidates.classes[image_index])
        of_mask = mask_logits.float().flatten(1).amax(dim=1).sigmoid()
        return torch.where(meant.any(dim=1), (probability * meant * known).amax(dim=1), of_mask)

    def _by_class(self, images: ClassifiedImages, values: Tensor, image_index: Tensor) -> Tensor:
        """Return for each category the maximum (G, V) of values (G, K) ≥ 0 of its candidates; 0 without one."""
        assert images.candidates is not None
        categories = torch.arange(len(self.config.vision_config.vocabulary), device=values.device)
        own = images.candidates.classes[image_index][..., None] == categories
        return (values[..., None] * own).amax(dim=1)

    def _objects_meant(self, images: ClassifiedImages, meant: Tensor, image_index: Tensor) -> Tensor:
        """Return the detections, bool (G, detections), that belong to the candidates meant, bool (G, K).

        Of a category all of whose candidates are meant, that includes those detections that were left out of them.
        """
        assert images.candidates is not None
        assert images.objects is not None
        assert self.instances is not None
        left = (images.candidates.valid[image_index] & ~meant).float()
        whole = self._by_class(images, meant.float(), image_index) - self._by_class(images, left, image_index)
        numbers = torch.arange(images.objects.detections.scores.shape[1], device=meant.device)
        own = (images.candidates.objects[image_index][..., None] == numbers) & meant[..., None]
        return own.any(dim=1) | self.instances.choose(images.objects, whole, image_index)

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


AutoConfig.register(MiniConfig.model_type, MiniConfig)
AutoModel.register(MiniConfig, MiniForConditionalGeneration)
AutoProcessor.register(MiniConfig, PixelLMProcessor)
AutoImageProcessor.register(MiniConfig, slow_image_processor_class=PixelLMImageProcessor)
