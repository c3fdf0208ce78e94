"""SEEM-style: the generalist without a language model that answers, after X-Decoder and SEEM.

backbone → pixel decoder → queries with the phrase's words → the query most like the phrase → its mask.

Kept of the originals: a backbone with maps of several strides, the pixel decoder (transformer encoder and pyramid),
object queries and their grounding copies in a decoder with masked attention, words in self-attention alone, the choice
by cosine with a learned temperature, always one mask a phrase, Hungarian matching, losses after every layer.
Dropped: clicks, strokes and other visual prompts with their memory; captions and retrieval; panoptic classes, so that
the object queries have no losses of their own (they share every weight with the copies, never influence them, and are
decoded only where they are asked for).
Different: each phrase is a row of its own, as X-Decoder grounds; SEEM lets all phrases of an image into one
self-attention. Images are letterboxed into a square, whose padding nobody reads.

Shapes:  I images · P phrases · T tokens · C width · h, w size of mask logits
"""

import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from pixellm.baselines.seem.configuration import SeemConfig
from pixellm.baselines.seem.decoder import DecoderOutput, SeemDecoder
from pixellm.baselines.seem.losses import GroundingTargets, grounding_losses, place_targets
from pixellm.baselines.seem.pixel_decoder import ImageFeatures, SeemPixelDecoder
from pixellm.model.losses import LossCounts
from pixellm.model.vision import build_vision_encoder
from pixellm.types import Output
from pixellm.utils.weights import load_whole

FIRST_TEMPERATURE, HIGHEST_SCALE = 0.07, 100.0  # as CLIP has them


class SeemForGrounding(PreTrainedModel):
    config_class = SeemConfig
    base_model_prefix = "seem"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: SeemConfig) -> None:
        super().__init__(config)
        self.vision_encoder = build_vision_encoder(config.vision_config)
        self.pixel_decoder = SeemPixelDecoder(config, self.vision_encoder.channels)
        self.text_encoder = AutoModel.from_config(config.text_config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.width, bias=False)
        self.decoder = SeemDecoder(config)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / FIRST_TEMPERATURE)))
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args, output_loading_info: bool = False, **kwargs):
        """Load a checkpoint like `PreTrainedModel`; see also `load_whole`.

        Raises:
            ValueError: the checkpoint lacks weights, or can't be read.
        """
        load = super().from_pretrained
        model, info = load_whole(load, pretrained_model_name_or_path, *args, **kwargs)
        return (model, info) if output_loading_info else model

    def _init_weights(self, module: nn.Module) -> None:
        """The modules' own: nothing here needs another one."""

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.get_input_embeddings()

    def encode_images(self, pixel_values: Tensor, resized_hw: Tensor) -> ImageFeatures:
        """Run backbone and pixel decoder, once for all phrases.

        Args:
            pixel_values: (I, 3, S, S), normalised, padded right and bottom with 0.
            resized_hw: (I, 2) height and width of each image inside the square.
        """
        return self.pixel_decoder(self.vision_encoder(pixel_values, resized_hw).scales, resized_hw)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Phrases (P, T), padded on the right → their words (P, T, C) and themselves (P, C)."""
        # Causal, and padded on the right: no word sees the padding.
        states = self.text_encoder(input_ids=input_ids).last_hidden_state
        words = self.text_projection(states.to(self.text_projection.weight.dtype))
        last = attention_mask.sum(dim=1) - 1
        return words, words[torch.arange(len(words), device=words.device), last]

    def decode(
        self,
        images: ImageFeatures,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_index: Tensor,
        objects: bool = False,
    ) -> tuple[list[DecoderOutput], list[Tensor]]:
        """Predictions after each layer, see `SeemDecoder`, and how like its phrase each query is: (P, Q)."""
        words, phrases = self.encode_text(input_ids, attention_mask)
        predictions = self.decoder(images, words, attention_mask.bool(), image_index, objects)
        scale = self.logit_scale.exp().clamp(max=HIGHEST_SCALE)
        phrases = F.normalize(phrases.float(), dim=-1)[:, None]
        likeness = [scale * (F.normalize(p.vectors.float(), dim=-1) * phrases).sum(dim=-1) for p in predictions]
        return predictions, likeness

    def ground(self, images: ImageFeatures, input_ids: Tensor, attention_mask: Tensor, image_index: Tensor) -> Tensor:
        """Mask logits (P, h, w), over the padded square, of the grounding query that is most like each phrase.

        Args:
            images: of I images.
            input_ids: (P, T).
            attention_mask: (P, T), 0 in the padding.
            image_index: (P,) the image of each phrase.
        """
        predictions, likeness = self.decode(images, input_ids, attention_mask, image_index)
        return _chosen(predictions[-1], likeness[-1])

    def forward(
        self,
        pixel_values: Tensor,
        resized_hw: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_index: Tensor,
        target_masks: list[Tensor] | None = None,
        target_phrase: Tensor | None = None,
        ignored: list[Tensor] | None = None,
        counts: LossCounts | None = None,
    ) -> Output:
        """Pass over a `SeemBatch` (see there for the arguments).

        `counts` is what the losses are averaged over, if that is more than this batch.

        Returns:
            `Output` with the mask logits of each image's phrases (P, h, w), and with targets the losses `choice`, `bce`
            and `dice`, each with its weight already in and summed over the layers, and their sum `loss`.
        """
        if not len(input_ids):
            # A part of the graph all the same: processes that train together wait for each other's gradients.
            nothing = torch.stack([0 * p.sum() for p in self.parameters() if p.requires_grad]).sum()
            return Output([pixel_values.new_zeros(0, 1, 1)] * len(pixel_values), {"choice": nothing})
        images = self.encode_images(pixel_values, resized_hw)
        predictions, likeness = self.decode(images, input_ids, attention_mask, image_index)
        per_image = torch.bincount(image_index, minlength=len(pixel_values)).tolist()
        output = Output(list(_chosen(predictions[-1], likeness[-1]).split(per_image)))
        if target_masks is not None and target_phrase is not None:
            size = self.config.vision_config.image_size
            targets = place_targets(target_masks, ignored, resized_hw, target_phrase, size)
            count = len(target_phrase) if counts is None else counts["masks"]
            output.losses = self.losses(predictions, likeness, targets, count)
        return output

    def count_terms(self, target_masks: list[Tensor] | None = None, **_batch: object) -> LossCounts:
        """Count what the losses of a batch are averaged over: `masks`."""
        return Counter(masks=sum(len(masks) for masks in target_masks or ()))

    def losses(
        self, predictions: list[DecoderOutput], likeness: list[Tensor], targets: GroundingTargets, count: int
    ) -> dict[str, Tensor]:
        """Losses of all layers, averaged over `count` targets."""
        layers = zip(predictions, likeness, strict=True)
        sums = torch.stack([grounding_losses(*layer, targets, self.config) for layer in layers]).sum(dim=0)
        return dict(zip(("choice", "bce", "dice"), sums / max(1, count), strict=True))


def _chosen(output: DecoderOutput, likeness: Tensor) -> Tensor:
    """Mask logits (P, h, w) of the likeliest query of each row."""
    rows = torch.arange(len(likeness), device=likeness.device)
    return output.mask_logits[rows, likeness.argmax(dim=1)]
