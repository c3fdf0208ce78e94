"""A vision-language model as PixelLM: layers of its tower are the scales, its vocabulary has the codebook.

vision tower → [language model | square of features] → language model → codebook → pixel decoder → masks

The base is used as it is: its own `get_image_features` encodes an image once, its own `forward` reads image and prompt.

Shapes:  P prefix tokens · D width of the tower · S scales · g side of the square of features
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pixellm.backbones import canvas
from pixellm.backbones.adapter import View
from pixellm.backbones.configuration import BackboneConfig
from pixellm.backbones.families import adapter_for
from pixellm.backbones.hybrid_cache import HybridCache
from pixellm.backbones.masks import LINEAR, layer_masks, layer_types, with_blocks
from pixellm.inference.kv_cache import KVCache
from pixellm.model.codebook import Codebook, find_groups
from pixellm.model.losses import LossCounts, LossWeights
from pixellm.model.modeling import CACHE_ARGUMENT, PixelLMForConditionalGeneration, Projector
from pixellm.model.packing import packed_attention_bias, packed_positions
from pixellm.model.pixel_decoder import Neck
from pixellm.model.states import EncodedImages, ForwardStates
from pixellm.model.vision import VisionFeatures
from pixellm.types import Output

READ = ("pooler_output", "deepstack_features")  # of image features, by the bases' own `forward`


@dataclass(frozen=True)
class ImageInputs:
    """One image as the base's processor prepared it.

    Args:
        prefix_ids: ids of the prompt up to the end of the image, which is expanded to the base's image tokens.
        pixels: arguments of the base's `get_image_features`.
        view: what the pixel decoder's features are made of; its pixels are `pixels`, unless those are cropped.
        image_hw: of the image.
    """

    prefix_ids: list[int]
    pixels: Mapping[str, Tensor]
    view: View
    image_hw: tuple[int, int]

    def to(self, device: torch.device) -> "ImageInputs":
        """Copy to a device; pixels that are shared stay shared."""
        pixels = {name: tensor.to(device) for name, tensor in self.pixels.items()}
        own = self.view.pixels is not self.pixels
        seen = {name: tensor.to(device) for name, tensor in self.view.pixels.items()} if own else pixels
        view = View(seen, self.view.extent_hw, self.view.tiles)
        return ImageInputs(self.prefix_ids, pixels, view, self.image_hw)


@dataclass
class BackboneBatch:
    """Training batch as `Batch`, whose images are as the base's processor prepared them, each with a prefix of its own.

    Args:
        images: B of them.
        input_ids: (B, T); an image's positions hold the base's image tokens.
        segment_ids: see `Batch`.
        labels: see there.
        target_masks: see there.
        ignored: see there.
    """

    images: list[ImageInputs]
    input_ids: Tensor
    segment_ids: Tensor
    labels: Tensor | None = None
    target_masks: list[Tensor] | None = None
    ignored: list[Tensor] | None = None


@dataclass(frozen=True)
class BackboneFeatures:
    """One image, encoded.

    Args:
        features: what the base's `get_image_features` gave; its `forward` takes it in the place of pixels.
        maps: S maps (1, C, g, g) for the pixel decoder, see `PixelDecoder.prepare`.
        resized_hw: (1, 2).
    """

    features: Any
    maps: list[Tensor]
    resized_hw: Tensor


class BackboneForConditionalGeneration(PixelLMForConditionalGeneration):
    """A base model, and the parts that make it a PixelLM."""

    config: BackboneConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    config_class = BackboneConfig  # pyright: ignore[reportAssignmentType]
    base_model_prefix = "pixellm_backbone"
    main_input_name = "input_ids"

    def build(self, config: BackboneConfig) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.adapter = adapter_for(config.base_config.model_type)
        self.backbone = AutoModelForImageTextToText.from_config(config.base_config)
        self.build_parts(config)

    def build_parts(self, config: BackboneConfig) -> None:
        """Create what PixelLM adds to the base."""
        vision = getattr(config.base_config, "vision_config", config.base_config)
        pixel_width = config.pixel_feature_size or config.text_config.hidden_size
        self.codebook = Codebook(config)
        self.pixel_projector = Projector(vision.hidden_size, int(config.projector_ratio * pixel_width), pixel_width)
        self.neck = Neck(pixel_width, config.decoder_dim)
        self.pixel_decoder = self.pixel_decoder_class(config)

    @classmethod
    def from_base(cls, config: BackboneConfig, base: PreTrainedModel) -> "BackboneForConditionalGeneration":
        """Put new parts on a base model, whose weights are neither copied nor changed."""
        with torch.device("meta"):
            model = cls(config)
        model.backbone = base
        model.build_parts(config)
        for part in (model.codebook, model.pixel_decoder):
            model._init_weights(part)
            part.to(base.dtype)
        model.pixel_projector.to(base.dtype)
        model.neck.to(base.dtype)
        return model

    @property
    def text_model(self) -> Any:
        """See `PixelLMForConditionalGeneration.text_model`."""
        return self.backbone.get_decoder()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.backbone.get_output_embeddings()

    def encode_image(self, inputs: ImageInputs) -> BackboneFeatures:
        """Run the vision tower: once, or twice where the pixel decoder has a view of its own."""
        if self.feature_cache is None:
            features, scales = self._encoded(inputs)
        else:
            view = inputs.view
            pixels = [*inputs.pixels.values(), *view.pixels.values(), view.extent_hw, view.tiles, inputs.image_hw]
            kept = self.feature_cache(pixels, lambda: kept_features(*self._encoded(inputs)))
            features, scales = from_kept(kept)
        maps = self.pixel_decoder.prepare(self.neck_maps(VisionFeatures(scales)))
        resized = canvas.resized_hw(inputs.image_hw, self.config.mask_grid)
        return BackboneFeatures(features, maps, torch.tensor([resized], device=maps[0].device))

    def _encoded(self, inputs: ImageInputs) -> tuple[Any, list[Tensor]]:
        """Return what the base made of an image, and its scales (1, D, g, g)."""
        features = self._features(inputs.pixels)
        own = inputs.view.pixels is not inputs.pixels
        states = (self._features(inputs.view.pixels) if own else features).hidden_states
        features["hidden_states"] = None  # not read again; they are the larger part
        return features, [self._scale(states[layer], inputs) for layer in self.config.vision_layers]

    @property
    def vision_modules(self) -> list[nn.Module]:
        """Vision tower, and what projects its tokens to the language model."""
        return [module for module in self.backbone.base_model.children() if module is not self.text_model]

    def read_prefix(self, inputs: ImageInputs, image: BackboneFeatures, cache: Any) -> Tensor:
        """Fill the cache with the prefix of an image, by the base's own `forward`, and return its positions.

        Returns:
            (1, P) or, for M-RoPE, (3, 1, P)
        """
        ids = torch.tensor([inputs.prefix_ids], device=self.device)
        base = self.backbone.base_model
        positions = self.adapter.positions(base, ids, inputs.pixels)
        mask = self._row_mask(ids, torch.zeros_like(ids)) if self.adapter.bidirectional else None
        base(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            mm_encoder_outputs={"image": image.features},
            **{CACHE_ARGUMENT: cache},
        )
        return positions

    @property
    def recurrent(self) -> bool:
        """See `PixelLMForConditionalGeneration.recurrent`: layers of linear attention keep one state for all."""
        return LINEAR in layer_types(self.config.text_config)

    def new_cache(self) -> KVCache:
        """Make an empty cache for one prefix."""
        return HybridCache.empty(layer_types(self.config.text_config)) if self.recurrent else KVCache()

    def hidden_states(self, embeddings: Tensor, attention_mask: Tensor, position_ids: Tensor, cache=None) -> Tensor:
        masks: Any = layer_masks(attention_mask, self.config.text_config)
        return super().hidden_states(embeddings, masks, position_ids, cache)

    def _row_mask(self, ids: Tensor, segments: Tensor) -> Any:
        """Mask of a packed row (1, T) as the language model takes it, image tokens bidirectional where they are so."""
        dtype = self.get_input_embeddings().weight.dtype
        bias = packed_attention_bias(segments, torch.ones_like(segments, dtype=torch.bool), dtype)
        if self.adapter.bidirectional:
            bias = with_blocks(bias, ids[0] == self.config.base_config.image_token_id)
        return layer_masks(bias, self.config.text_config)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: list[ImageInputs],
        input_ids: Tensor,
        segment_ids: Tensor,
        labels: Tensor | None = None,
        target_masks: list[Tensor] | None = None,
        ignored: list[Tensor] | None = None,
        counts: LossCounts | None = None,
        loss_weights: LossWeights | None = None,
    ) -> Output:
        """Run a teacher-forced pass over a `BackboneBatch`; see `PixelLMForConditionalGeneration.forward`."""
        states = self.forward_states(images, input_ids, segment_ids)
        counts = counts or self.count_terms(labels=labels, target_masks=target_masks)
        weights = loss_weights or self.default_loss_weights
        return self.base_losses(states, segment_ids, labels, target_masks, ignored, counts, weights)

    def forward_states(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images: list[ImageInputs], input_ids: Tensor, segment_ids: Tensor
    ) -> ForwardStates:
        """Run all parts, without losses; rows one after the other, each without padding, as it would be alone."""
        encoded = [self.encode_image(image) for image in images]
        lengths = (segment_ids >= 0).sum(dim=1).tolist()
        rows = [
            self.row_states(image, features, ids[:length], segments[:length])
            for image, features, ids, segments, length in zip(
                images, encoded, input_ids, segment_ids, lengths, strict=True
            )
        ]
        hidden = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        groups = find_groups(input_ids, self.config.codebook_ids)
        group_states = self._group_states(hidden, groups)
        stacked = stack_images(encoded)
        logits = self.decode_masks(stacked, group_states, groups[:, 0])
        per_image = torch.bincount(groups[:, 0], minlength=len(images)).tolist()
        return ForwardStates(stacked, hidden, groups, group_states, list(logits.split(per_image)))

    def row_states(self, inputs: ImageInputs, image: BackboneFeatures, ids: Tensor, segments: Tensor) -> Tensor:
        """Last-layer states (T, D) of a row of `ids` (T,), by the base's own `forward`.

        A recurrent language model reads each conversation after the prefix anew: its states can't skip the others.
        """
        last = int(segments.max())
        if self.recurrent and last > 1:
            kept = [(segments == 0) | (segments == number) for number in range(1, last + 1)]
            runs = [self.row_states(inputs, image, ids[own], segments[own].clamp(max=1)) for own in kept]
            prefix = len(inputs.prefix_ids)
            return torch.cat([runs[0], *(run[prefix:] for run in runs[1:])])
        base, prefix = self.backbone.base_model, len(inputs.prefix_ids)
        seen = self.adapter.positions(base, ids[None, :prefix], inputs.pixels)
        packed = packed_positions(segments[None])[:, prefix:] + seen.max() + 1 - prefix
        positions = torch.cat([seen, packed.expand(*seen.shape[:-1], -1)], dim=-1)
        output = base(
            input_ids=ids[None],
            attention_mask=self._row_mask(ids[None], segments[None]),
            position_ids=positions,
            mm_encoder_outputs={"image": image.features},
            use_cache=False,
        )
        return output.last_hidden_state[0]

    def _features(self, pixels: Mapping[str, Tensor]) -> Any:
        """Encode pixels by the base's own code, with the states of every layer."""
        arguments = self.adapter.feature_arguments(self.config.base_config)
        encode = self.backbone.base_model.get_image_features
        dtype = self.backbone.dtype
        pixels = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in pixels.items()}
        return encode(**pixels, **arguments, output_hidden_states=True, return_dict=True)

    def _scale(self, states: Tensor, inputs: ImageInputs) -> Tensor:
        """Bring a layer's states to the square (1, D, g, g)."""
        raster = self.adapter.raster(self.backbone.base_model, states, inputs.view)
        return canvas.place(raster, inputs.view.extent_hw, inputs.image_hw, self.config.mask_grid)[None]

    @property
    def default_sampling(self) -> dict[str, Any]:
        """The base's repetition penalty; its temperature is left out: PixelLM is greedy where nobody asks for more."""
        penalty = self.config.token_penalty
        return {} if penalty == 1 else {"repetition_penalty": penalty}


def kept_features(features: Any, scales: list[Tensor]) -> dict[str, Tensor]:
    """Return what is read of an encoded image by name; the base's `forward` reads projected features alone."""
    fields = {"scale": scales} | {name: getattr(features, name, None) for name in READ}
    return {key: tensor for name, value in fields.items() for key, tensor in _leaves(name, value)}


def from_kept(tensors: Mapping[str, Tensor]) -> tuple[Any, list[Tensor]]:
    """Undo `kept_features`."""
    features: Any = BaseModelOutputWithPooling()
    for name in READ:
        setattr(features, name, _nested(name, tensors))
    return features, _nested("scale", tensors)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested sequences, each with its place in its name."""
    if isinstance(value, Tensor):
        yield name, value
    elif value is not None:
        for index, part in enumerate(value):
            yield from _leaves(f"{name}.{index}", part)


def _nested(name: str, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `_leaves`; None where there is nothing of this name."""
    if name in tensors:
        return tensors[name]
    count = len({key[len(name) + 1 :].split(".")[0] for key in tensors if key.startswith(f"{name}.")})
    return [_nested(f"{name}.{index}", tensors) for index in range(count)] or None


def stack_images(images: list[BackboneFeatures]) -> EncodedImages:
    """Stack encoded images for `decode_masks`; their tokens are in the cache alone."""
    maps = [torch.cat(maps) for maps in zip(*(image.maps for image in images), strict=True)]
    resized = torch.cat([image.resized_hw for image in images])
    none = maps[0].new_zeros(len(images), 0)
    return EncodedImages(none[..., None], none.bool(), maps, resized)
