"""Cost of a PixelLM on a vision-language model, for an image of 1024 × 768 pixels.

The language model and the parts that PixelLM adds are counted as in `pixellm.cost.language`; the vision tower, whose
code reads values, by formula: two FLOPs for each weight and token, and attention within each sequence.
"""

from functools import cached_property

import torch
from torch import nn

from pixellm.backbones.adapter import ImageLoad
from pixellm.backbones.canvas import PIXELS_PER_CELL
from pixellm.backbones.configuration import BackboneConfig
from pixellm.backbones.families import adapter_for
from pixellm.backbones.modeling import BackboneFeatures, stack_images
from pixellm.cost.breakdown import Component
from pixellm.cost.counting import BF16, CallCost, measure
from pixellm.cost.language import LanguageCostModel
from pixellm.model.states import EncodedImages
from pixellm.model.vision import VisionFeatures
from pixellm.train.model_kind import has_tied_embeddings

LAYERS = (".layers.", ".layer.", ".blocks.", "patch")  # in names of weights that work on every vision token
LOOKED_UP = ("position", "pos_embed", "cls_token", "mask_token")


class BackboneCostModel(LanguageCostModel):
    """See `LanguageCostModel`; `config` is a `BackboneConfig`."""

    def __init__(self, name: str, config: BackboneConfig) -> None:
        super().__init__(name, config)  # pyright: ignore[reportArgumentType]
        self.load: ImageLoad = adapter_for(config.base_config.model_type).image_load(config.base_config)

    @property
    def mask_side(self) -> int:
        return self.model.config.mask_grid * PIXELS_PER_CELL  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def image_tokens(self) -> int:
        return self.load.image_tokens

    @property
    def parts(self) -> dict[Component, list[nn.Module]]:
        model = self.model
        head = [] if has_tied_embeddings(model) else [model.get_output_embeddings()]
        return {
            Component.VISION: self.model.vision_modules,
            Component.DECODER_FEATURES: [model.pixel_projector, model.neck],
            Component.PREFILL: [model.text_model, *head],
            Component.MASKS: [model.codebook, model.pixel_decoder],
        }

    @cached_property
    def _vision(self) -> tuple[CallCost, CallCost]:
        config: BackboneConfig = self.config  # pyright: ignore[reportAssignmentType]
        vision, load = config.base_config.vision_config, self.load
        tokens, layers = (
            load.sequences * load.tokens,
            adapter_for(config.base_config.model_type).num_layers(config.base_config),
        )
        flops = layers * load.sequences * 4 * load.tokens**2 * vision.hidden_size
        for module in self.model.vision_modules:
            for name, weight in module.named_parameters():
                if weight.ndim > 1 and not any(part in name for part in LOOKED_UP):
                    everywhere = any(part in f".{name}" for part in LAYERS)
                    flops += 2 * weight.numel() * (tokens if everywhere else load.image_tokens)
        # The states of all layers are kept until the scales are taken from them.
        width = (layers + 5) * vision.hidden_size + 2 * vision.intermediate_size
        return CallCost(flops, BF16 * tokens * width), CallCost(0, 0)

    @cached_property
    def _encoded(self) -> tuple[CallCost, EncodedImages]:
        outputs: list[EncodedImages] = []
        prepared = measure(lambda: outputs.append(self._encode()))
        return CallCost(prepared.flops + self.vision, prepared.peak_bytes), outputs[0]

    def _encode(self) -> EncodedImages:
        config: BackboneConfig = self.config  # pyright: ignore[reportAssignmentType]
        shape = (1, config.base_config.vision_config.hidden_size, config.mask_grid, config.mask_grid)
        scales = [torch.empty(shape, dtype=torch.bfloat16, device="meta") for _ in range(config.num_scales)]
        maps = self.model.pixel_decoder.prepare(self.model.neck_maps(VisionFeatures(scales)))
        return stack_images([BackboneFeatures(None, maps, torch.empty(1, 2, device="meta"))])
