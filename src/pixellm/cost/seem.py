"""Cost of the SEEM-style baseline, which writes no text: each target is segmented from a phrase in the input."""

from functools import cached_property

import torch
from torch import Tensor

from pixellm.baselines.seem import SeemConfig, SeemForGrounding
from pixellm.baselines.seem.pixel_decoder import ImageFeatures
from pixellm.cost.breakdown import Component, FlopsBreakdown, FlopsLine, MemoryBreakdown, Scenario
from pixellm.cost.counting import CallCost, measure, on_meta, parameters, weight_bytes
from pixellm.cost.language import MaskHeadFlops

CONTROL_TOKENS = 2  # around a phrase


class SeemCostModel:
    """Cost model of a SEEM-style configuration, on the meta device.

    Args:
        name: name in tables.
        config: configuration of the model.
    """

    def __init__(self, name: str, config: SeemConfig) -> None:
        self.name, self.config = name, config
        self.model: SeemForGrounding = on_meta(config)

    def breakdown(self, scenario: Scenario) -> FlopsBreakdown:
        """Count one answer; of the scenario only the targets and the length of their phrases matter."""
        model, targets, tokens = self.model, scenario.targets, self._phrase_tokens(scenario)
        text = (model.text_encoder, model.text_projection)
        each = self.mask_head(tokens).flops(targets) / max(1, targets)
        lines = (
            FlopsLine(Component.VISION, self.vision.flops, 1, parameters(model.vision_encoder)),
            FlopsLine(Component.DECODER_FEATURES, self.pixel_decoder, 1, parameters(model.pixel_decoder)),
            FlopsLine(Component.TEXT_ENCODER, self.phrase(tokens), targets, parameters(*text)),
            FlopsLine(Component.MASKS, each, targets, parameters(model.decoder) + model.logit_scale.numel()),
        )
        return FlopsBreakdown(self.name, lines)

    def memory(self, scenario: Scenario) -> MemoryBreakdown:
        """Count memory with all phrases at once; there is no KV cache, and no language model to quantise."""
        activations = {Component.VISION: self.vision.peak_bytes, Component.DECODER_FEATURES: self._encoding.peak_bytes}
        if scenario.targets:
            activations[Component.MASKS] = self._decoder(scenario.targets, self._phrase_tokens(scenario)).peak_bytes
        return MemoryBreakdown(weight_bytes(self.model, None), 0, activations)

    @cached_property
    def vision(self) -> CallCost:
        """Cost of the backbone."""
        return measure(lambda: self.model.vision_encoder(self._pixels(), self._hw()))

    @cached_property
    def _encoding(self) -> CallCost:
        return measure(lambda: self.model.encode_images(self._pixels(), self._hw()))

    @cached_property
    def _images(self) -> ImageFeatures:
        with torch.inference_mode():
            return self.model.encode_images(self._pixels(), self._hw())

    @property
    def pixel_decoder(self) -> int:
        """FLOPs of the pixel decoder, once per image."""
        return self._encoding.flops - self.vision.flops

    def phrase(self, tokens: int) -> int:
        """FLOPs of the text encoder for a phrase of `tokens` tokens."""
        ids = self._ids(1, tokens)
        return measure(lambda: self.model.encode_text(ids, torch.ones_like(ids))).flops

    def mask_head(self, tokens: int) -> MaskHeadFlops:
        """FLOPs of the decoder for phrases of `tokens` tokens; the image's keys and values are made once per call."""
        single, double = (self._decoder(targets, tokens).flops - targets * self.phrase(tokens) for targets in (1, 2))
        return MaskHeadFlops(2 * single - double, double - single)

    def _decoder(self, targets: int, tokens: int) -> CallCost:
        """Cost of text encoder and decoder."""
        images = self._images
        ids = self._ids(targets, tokens)
        index = torch.zeros(targets, dtype=torch.long, device="meta")
        return measure(lambda: self.model.ground(images, ids, torch.ones_like(ids), index))

    def _phrase_tokens(self, scenario: Scenario) -> int:
        """Tokens of each phrase; a longer one is cut off."""
        return min(self.config.max_tokens, scenario.phrase_tokens + CONTROL_TOKENS)

    def _ids(self, rows: int, tokens: int) -> Tensor:
        return torch.zeros(rows, tokens, dtype=torch.long, device="meta")

    def _pixels(self) -> Tensor:
        size = self.config.vision_config.image_size
        return torch.empty(1, 3, size, size, dtype=torch.bfloat16, device="meta")

    def _hw(self) -> Tensor:
        return torch.full((1, 2), self.config.vision_config.image_size, device="meta")
