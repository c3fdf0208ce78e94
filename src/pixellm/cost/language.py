"""PixelLM and LISA: a vision encoder, a language model that answers, a head that turns some of its tokens into masks.

What is counted are the models' own methods; `pixellm.inference.generation` says how often an answer calls them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from pixellm.cost import bill
from pixellm.cost.bill import Bill, Line, Memory
from pixellm.cost.counted import Measured, measure, on_meta
from pixellm.cost.memory import kv_cache_bytes, parameters, weight_bytes
from pixellm.cost.scenario import Scenario
from pixellm.model import PixelLMConfig
from pixellm.model.modeling import EncodedImages, PixelLMForConditionalGeneration


@dataclass(frozen=True)
class Reading:
    """FLOPs of the language model's layers: some for each token, some for each pair of a token and what it may see.

    Attention is counted in full, as a product of matrices: also for the pairs that the causal mask hides.
    """

    per_token: float
    per_pair: float

    def flops(self, tokens: int, context: int = 0) -> float:
        """Of reading so many tokens behind `context` cached ones."""
        return tokens * (self.per_token + self.per_pair * (context + tokens))


@dataclass(frozen=True)
class MaskHead:
    """FLOPs of decoding targets: some for each call, some for each target."""

    per_call: float
    per_target: float

    def flops(self, targets: int) -> float:
        return self.per_call + self.per_target * targets if targets else 0.0


class LanguageSystem:
    """A PixelLM or LISA of a configuration, on the meta device: shapes without weights.

    Args:
        name: what it is called.
        config: its sizes.
    """

    def __init__(self, name: str, config: PixelLMConfig) -> None:
        self.name, self.config = name, config
        self.model: PixelLMForConditionalGeneration = on_meta(config)
        self.group = len(config.codebook_ids)
        self.width = config.text_config.hidden_size

    # How an answer uses the parts

    def bill(self, scenario: Scenario) -> Bill:
        """One answer with its masks in it: by our cached decoding, or by the released code's."""
        if scenario.cache:
            reads, prefill, cost = 1, self.prefill(scenario), self.step
        else:
            # Of a sequence read again for every token, the scores of the next one are computed all along it.
            reads = 1 + sum(tokens for _, tokens in scenario.steps(self.group))
            prefill, cost = self.reread(1, self.start(scenario) - 1), self.reread
        lines = [
            *self.image_lines(reads),
            Line(bill.PREFILL, prefill, 1, parameters(*self.parts[bill.PREFILL])),
            *self.decoding_lines(scenario, self.start(scenario), cost),
            self.mask_line(scenario.targets),
        ]
        return Bill(self.name, tuple(lines))

    def memory(self, scenario: Scenario) -> Memory:
        """As `bill`; see there."""
        length = self.length(scenario)
        read = self.image_tokens + scenario.system_tokens if scenario.cache else length
        return self.memory_of(length if scenario.cache else 0, read, scenario.targets)

    @property
    def parts(self) -> dict[str, list[nn.Module]]:
        """The modules behind each line of the bill that has some of its own."""
        named = {
            bill.VISION: ("vision_encoder",),
            bill.LLM_PROJECTOR: ("llm_projector",),
            bill.SAM: ("sam_encoder",),
            bill.DECODER_FEATURES: ("pixel_projector", "neck", "word_mix"),
            bill.PREFILL: ("language_model",),
            bill.MASKS: ("codebook", "pixel_decoder"),
        }
        there = dict(self.model.named_children())
        found = {part: [there[name] for name in names if name in there] for part, names in named.items()}
        return {part: modules for part, modules in found.items() if modules}

    @property
    def image_tokens(self) -> int:
        return self.config.num_image_tokens

    def start(self, scenario: Scenario) -> int:
        """Tokens before the answer."""
        return self.image_tokens + scenario.prompt_tokens

    def length(self, scenario: Scenario) -> int:
        """Tokens at the answer's end."""
        return self.start(scenario) + scenario.answer_tokens + self.group * scenario.targets

    def image_lines(self, reads: int) -> list[Line]:
        """What depends on the image alone, of which the language model's share is computed `reads` times."""
        vision, projector = self._vision
        flops = {
            bill.VISION: (vision.flops, reads),
            bill.LLM_PROJECTOR: (projector.flops, reads),
            bill.SAM: (self.sam.flops if self.sam else 0, 1),
            bill.DECODER_FEATURES: (self.decoder_features, 1),
        }
        return [Line(part, *flops[part], parameters(*self.parts[part])) for part in flops if part in self.parts]

    def prefill(self, scenario: Scenario) -> float:
        """Image and system text, then the question; the next token is chosen at the last position alone."""
        prefix = self.image_tokens + scenario.system_tokens
        question = scenario.prompt_tokens - scenario.system_tokens
        return self.reading.flops(prefix) + self.step(question, prefix)

    def step(self, tokens: int, context: int) -> float:
        """A step reads what was chosen last and chooses what comes next."""
        return self.reading.flops(tokens, context) + self.head

    def reread(self, tokens: int, context: int) -> float:
        """As many steps as there are tokens, each of which reads everything and scores every position."""
        lengths = range(context + 1, context + tokens + 1)
        return sum(self.reading.flops(length) + self.head * length for length in lengths)

    def decoding_lines(self, scenario: Scenario, context: int, cost: Callable[[int, int], float]) -> list[Line]:
        """The answer's steps behind `context` tokens: text tokens and groups of mask tokens."""
        spent = {False: 0.0, True: 0.0}
        for is_mask, tokens in scenario.steps(self.group):
            spent[is_mask] += cost(tokens, context)
            context += tokens
        text, targets = scenario.answer_tokens, scenario.targets
        return [
            Line(bill.TEXT, spent[False] / max(1, text), text),
            Line(bill.GROUP, spent[True] / max(1, targets), targets),
        ]

    def mask_line(self, targets: int) -> Line:
        each = self.mask_head.flops(targets) / max(1, targets)
        return Line(bill.MASKS, each, targets, parameters(*self.parts[bill.MASKS]))

    def memory_of(self, cached: int, read: int, targets: int) -> Memory:
        """With so many tokens in the cache at the end, so many read at a time, and so many masks decoded at once."""
        activations = {
            bill.VISION: self._vision[0].peak_bytes,
            bill.SAM if self.sam else bill.DECODER_FEATURES: self._encoding.peak_bytes,
            bill.PREFILL: measure(lambda: self._hidden_states(read, 0, None)).peak_bytes,
        }
        if targets:
            activations[bill.MASKS] = self._decode_masks(targets).peak_bytes
        weights = weight_bytes(self.model, self.model.language_model)
        return Memory(weights, kv_cache_bytes(self.config.text_config, cached), activations)

    # What each part takes

    @property
    def vision(self) -> int:
        """FLOPs of the vision encoder."""
        return self._vision[0].flops

    @property
    def llm_projector(self) -> int:
        """FLOPs of making the language model's image tokens."""
        return self._vision[1].flops

    @cached_property
    def sam(self) -> Measured | None:
        encoder: nn.Module | None = getattr(self.model, "sam_encoder", None)
        return encoder and measure(lambda: encoder(_pixels(self.config.sam_vision_config.image_size)))

    @property
    def decoder_features(self) -> int:
        """FLOPs of what is left of `encode_images`."""
        return self._encoding.flops - self.vision - self.llm_projector - (self.sam.flops if self.sam else 0)

    @cached_property
    def reading(self) -> Reading:
        """From two passes; the tests hold it against others."""
        one, many = 1, 64
        first, second = self.count_reading(one), self.count_reading(many) / many
        per_pair = (second - first) / (many - one)
        return Reading(first - per_pair, per_pair)

    @cached_property
    def head(self) -> int:
        """FLOPs of the scores of one position's next token."""
        output = self.model.get_output_embeddings()
        return measure(lambda: output(_empty(1, self.width))).flops

    @cached_property
    def mask_head(self) -> MaskHead:
        one, two = self._decode_masks(1).flops, self._decode_masks(2).flops
        return MaskHead(2 * one - two, two - one)

    def count_reading(self, tokens: int, context: int = 0) -> int:
        """FLOPs of reading so many tokens behind `context` cached ones, counted."""
        cache = DynamicCache()
        if context:
            with torch.inference_mode():
                self._hidden_states(context, 0, cache)
        return measure(lambda: self._hidden_states(tokens, context, cache)).flops

    @cached_property
    def _vision(self) -> tuple[Measured, Measured]:
        model, size, found = self.model, self.config.vision_config.image_size, []
        encoder = measure(lambda: found.append(model.vision_encoder(_pixels(size), _hw(size))))
        return encoder, measure(lambda: model.image_tokens(found[0]))

    @property
    def _encoding(self) -> Measured:
        return self._encoded[0]

    @property
    def _images(self) -> EncodedImages:
        return self._encoded[1]

    @cached_property
    def _encoded(self) -> tuple[Measured, EncodedImages]:
        found: list[EncodedImages] = []
        return measure(lambda: found.append(self._encode())), found[0]

    def _encode(self) -> EncodedImages:
        size = self.config.vision_config.image_size
        if not self.sam:
            return self.model.encode_images(_pixels(size), _hw(size))
        side = self.config.sam_vision_config.image_size
        return self.model.encode_images(_pixels(side), _hw(side), _pixels(size))

    def _hidden_states(self, tokens: int, context: int, cache: DynamicCache | None) -> Tensor:
        bias = _empty(1, 1, tokens, context + tokens)
        positions = torch.arange(tokens, device="meta")[None]
        return self.model.hidden_states(_empty(1, tokens, self.width), bias, positions, cache)

    def _decode_masks(self, targets: int) -> Measured:
        images, device = self._images, "meta"
        if self.model.word_mix is not None and self.config.name_prior:
            images, device = self._images_on_cpu, "cpu"
        states = torch.zeros(targets * self.group, self.width, dtype=torch.bfloat16, device=device)
        index = torch.zeros(targets, dtype=torch.long, device=device)
        return measure(lambda: self.model.decode_masks(images, states, index))

    @cached_property
    def _images_on_cpu(self) -> EncodedImages:
        """For heads in whose prior numbers decide over shapes (which target is of which image): with zeros in it."""
        for module in (self.model.codebook, self.model.word_mix, self.model.pixel_decoder):
            module.to_empty(device="cpu")
        images = self._images
        return replace(
            images,
            maps=[torch.zeros_like(map_, device="cpu") for map_ in images.maps],
            class_logits=torch.zeros_like(images.class_logits, device="cpu"),
            words=torch.zeros_like(images.words, device="cpu"),
        )


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


def _pixels(size: int) -> Tensor:
    return _empty(1, 3, size, size)


def _hw(size: int) -> Tensor:
    return torch.full((1, 2), size, device="meta")
