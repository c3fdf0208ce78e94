"""The SEEM-style baseline: no language model that answers; each target is found by a phrase that somebody gives it."""

from functools import cached_property

import torch
from torch import Tensor

from pixellm.baselines.seem import SeemConfig, SeemForGrounding
from pixellm.baselines.seem.pixel_decoder import ImageFeatures
from pixellm.cost import bill
from pixellm.cost.bill import Bill, Line, Memory
from pixellm.cost.counted import Measured, measure, on_meta
from pixellm.cost.language import MaskHead
from pixellm.cost.memory import parameters, weight_bytes
from pixellm.cost.scenario import Scenario

PHRASE = "text encoder, a phrase"
CONTROL_TOKENS = 2  # around a phrase


class SeemSystem:
    """A SEEM-style model of a configuration, on the meta device.

    Args:
        name: what it is called.
        config: its sizes.
    """

    def __init__(self, name: str, config: SeemConfig) -> None:
        self.name, self.config = name, config
        self.model: SeemForGrounding = on_meta(config)

    def bill(self, scenario: Scenario) -> Bill:
        """Phrases are given, nothing is written: of the scenario only targets and the length of their names matter."""
        model, targets, tokens = self.model, scenario.targets, self._phrase_tokens(scenario)
        each = self.mask_head(tokens).flops(targets) / max(1, targets)
        lines = (
            Line(bill.VISION, self.vision.flops, 1, parameters(model.vision_encoder)),
            Line(bill.DECODER_FEATURES, self.pixel_decoder, 1, parameters(model.pixel_decoder)),
            Line(PHRASE, self.phrase(tokens), targets, parameters(model.text_encoder, model.text_projection)),
            Line(bill.MASKS, each, targets, parameters(model.decoder) + model.logit_scale.numel()),
        )
        return Bill(self.name, lines)

    def memory(self, scenario: Scenario) -> Memory:
        """All phrases at once; there is nothing to keep between tokens, and no language model to quantise."""
        activations = {bill.VISION: self.vision.peak_bytes, bill.DECODER_FEATURES: self._encoding.peak_bytes}
        if scenario.targets:
            activations[bill.MASKS] = self._decoder(scenario.targets, self._phrase_tokens(scenario)).peak_bytes
        return Memory(weight_bytes(self.model, None), 0, activations)

    @cached_property
    def vision(self) -> Measured:
        """The backbone."""
        return measure(lambda: self.model.vision_encoder(self._pixels(), self._hw()))

    @cached_property
    def _encoding(self) -> Measured:
        return measure(lambda: self.model.encode_images(self._pixels(), self._hw()))

    @cached_property
    def _images(self) -> ImageFeatures:
        with torch.inference_mode():
            return self.model.encode_images(self._pixels(), self._hw())

    @property
    def pixel_decoder(self) -> int:
        """FLOPs of what follows the backbone, once for each image."""
        return self._encoding.flops - self.vision.flops

    def phrase(self, tokens: int) -> int:
        """FLOPs of the text encoder."""
        ids = self._ids(1, tokens)
        return measure(lambda: self.model.encode_text(ids, torch.ones_like(ids))).flops

    def mask_head(self, tokens: int) -> MaskHead:
        """Of the decoder, with phrases of so many tokens: the image's keys and values are projected once for all."""
        one, two = (self._decoder(targets, tokens).flops - targets * self.phrase(tokens) for targets in (1, 2))
        return MaskHead(2 * one - two, two - one)

    def _decoder(self, targets: int, tokens: int) -> Measured:
        """Text encoder and decoder."""
        images = self._images
        ids = self._ids(targets, tokens)
        index = torch.zeros(targets, dtype=torch.long, device="meta")
        return measure(lambda: self.model.ground(images, ids, torch.ones_like(ids), index))

    def _phrase_tokens(self, scenario: Scenario) -> int:
        """Of each phrase; a longer one is cut off."""
        return min(self.config.max_tokens, scenario.phrase_tokens + CONTROL_TOKENS)

    def _ids(self, rows: int, tokens: int) -> Tensor:
        return torch.zeros(rows, tokens, dtype=torch.long, device="meta")

    def _pixels(self) -> Tensor:
        size = self.config.vision_config.image_size
        return torch.empty(1, 3, size, size, dtype=torch.bfloat16, device="meta")

    def _hw(self) -> Tensor:
        return torch.full((1, 2), self.config.vision_config.image_size, device="meta")
