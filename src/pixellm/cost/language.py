"""Cost of PixelLM and LISA: vision encoder, language model that answers, head that decodes some of its tokens to masks.

The models' own methods are counted; `pixellm.inference.generation` says how often an answer calls them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from pixellm.cost.breakdown import Component, FlopsBreakdown, FlopsLine, MemoryBreakdown, Scenario
from pixellm.cost.counting import CallCost, kv_cache_bytes, measure, on_meta, parameters, weight_bytes
from pixellm.mini.candidates import Candidates
from pixellm.mini.modeling import ClassifiedImages, MiniForConditionalGeneration
from pixellm.model import PixelLMConfig
from pixellm.model.modeling import PixelLMForConditionalGeneration
from pixellm.model.states import EncodedImages
from pixellm.model.vision import VisionFeatures


@dataclass(frozen=True)
class LayerFlops:
    """FLOPs of the language model's layers as a function of tokens and context.

    Attention is counted in full, as a matrix product: also for the pairs that the causal mask hides.

    Args:
        per_token: FLOPs of each token.
        per_pair: FLOPs of each pair of a token and a position that it may attend to.
    """

    per_token: float
    per_pair: float

    def flops(self, tokens: int, context: int = 0) -> float:
        """FLOPs of a forward pass over `tokens` tokens behind `context` cached ones."""
        return tokens * (self.per_token + self.per_pair * (context + tokens))


@dataclass(frozen=True)
class MaskHeadFlops:
    """FLOPs of decoding masks, per call and per target."""

    per_call: float
    per_target: float

    def flops(self, targets: int) -> float:
        return self.per_call + self.per_target * targets if targets else 0.0


class LanguageCostModel:
    """Cost model of a PixelLM or LISA configuration, on the meta device: shapes without weights.

    Args:
        name: name in tables.
        config: configuration of the model.
    """

    def __init__(self, name: str, config: PixelLMConfig) -> None:
        self.name, self.config = name, config
        self.model: PixelLMForConditionalGeneration = on_meta(config)
        self.group = len(config.codebook_ids)
        self.width = config.text_config.hidden_size

    @property
    def mask_side(self) -> int:
        """Side in pixels of the square that logits are enlarged to."""
        return self.config.vision_config.image_size

    # Calls of each part per answer

    def breakdown(self, scenario: Scenario) -> FlopsBreakdown:
        """Count one answer with its masks, with our cached decoding or with the released code's."""
        if scenario.cache:
            passes, prefill, cost = 1, self.prefill(scenario), self.step
        else:
            # A sequence that is run again for every token gets next-token scores at every position.
            passes = 1 + sum(tokens for _, tokens in scenario.steps(self.group))
            prefill, cost = self.step_without_cache(1, self.start(scenario) - 1), self.step_without_cache
        lines = [
            *self.image_lines(passes),
            FlopsLine(Component.PREFILL, prefill, 1, parameters(*self.parts[Component.PREFILL])),
            *self.decoding_lines(scenario, self.start(scenario), cost),
            self.mask_line(scenario.targets),
        ]
        return FlopsBreakdown(self.name, tuple(lines))

    def memory(self, scenario: Scenario) -> MemoryBreakdown:
        """Count the memory of one answer, with or without a KV cache."""
        length = self.length(scenario)
        tokens = self.image_tokens + scenario.system_tokens if scenario.cache else length
        return self.memory_of(length if scenario.cache else 0, tokens, scenario.targets)

    @property
    def parts(self) -> dict[Component, list[nn.Module]]:
        """Modules of each line of the breakdown that has any."""
        named = {
            Component.VISION: ("vision_encoder",),
            Component.LLM_PROJECTOR: ("llm_projector", "selection", "candidate_tokens", "mentions"),
            Component.SAM: ("sam_encoder",),
            Component.DECODER_FEATURES: ("pixel_projector", "neck", "class_prompts"),
            Component.PREFILL: ("language_model",),
            Component.MASKS: ("codebook", "pointer", "pixel_decoder", "instances", "refiner"),
        }
        children = dict(self.model.named_children())
        modules = {key: [children[name] for name in names if name in children] for key, names in named.items()}
        return {component: of_component for component, of_component in modules.items() if of_component}

    @property
    def image_tokens(self) -> int:
        return self.config.num_image_tokens

    def start(self, scenario: Scenario) -> int:
        """Tokens before the answer."""
        return self.image_tokens + scenario.prompt_tokens

    def length(self, scenario: Scenario) -> int:
        """Tokens at the answer's end."""
        return self.start(scenario) + scenario.answer_tokens + self.group * scenario.targets

    def image_lines(self, passes: int) -> list[FlopsLine]:
        """Lines that depend on the image only; the language model's share of them is computed `passes` times."""
        vision, projector = self._vision
        flops = {
            Component.VISION: (vision.flops, passes),
            Component.LLM_PROJECTOR: (projector.flops, passes),
            Component.SAM: (self.sam.flops if self.sam else 0, 1),
            Component.DECODER_FEATURES: (self.decoder_features, 1),
        }
        return [FlopsLine(key, *flops[key], parameters(*self.parts[key])) for key in flops if key in self.parts]

    def prefill(self, scenario: Scenario) -> float:
        """FLOPs of image and system text, then the question; only the last position gets next-token scores."""
        prefix = self.image_tokens + scenario.system_tokens
        question = scenario.prompt_tokens - scenario.system_tokens
        return self.layers.flops(prefix) + self.step(question, prefix)

    def step(self, tokens: int, context: int) -> float:
        """FLOPs of a decoding step with `tokens` input tokens and next-token scores at one position."""
        return self.layers.flops(tokens, context) + self.head

    def step_without_cache(self, tokens: int, context: int) -> float:
        """FLOPs of one step per token, each over the whole sequence, with scores at every position."""
        lengths = range(context + 1, context + tokens + 1)
        return sum(self.layers.flops(length) + self.head * length for length in lengths)

    def decoding_lines(self, scenario: Scenario, context: int, cost: Callable[[int, int], float]) -> list[FlopsLine]:
        """Lines of the decoding steps behind `context` tokens: text tokens and codebook groups."""
        spent = {False: 0.0, True: 0.0}
        for is_mask, tokens in scenario.steps(self.group):
            spent[is_mask] += cost(tokens, context)
            context += tokens
        text, targets = scenario.answer_tokens, scenario.targets
        return [
            FlopsLine(Component.TEXT, spent[False] / max(1, text), text),
            FlopsLine(Component.GROUP, spent[True] / max(1, targets), targets),
        ]

    def mask_line(self, targets: int) -> FlopsLine:
        each = self.mask_head.flops(targets) / max(1, targets)
        return FlopsLine(Component.MASKS, each, targets, parameters(*self.parts[Component.MASKS]))

    def memory_of(self, cached: int, tokens: int, targets: int) -> MemoryBreakdown:
        """Count memory with `cached` tokens in the KV cache, `tokens` in one pass and `targets` masks at once."""
        activations = {
            Component.VISION: self._vision[0].peak_bytes,
            Component.SAM if self.sam else Component.DECODER_FEATURES: self._encoded[0].peak_bytes,
            Component.PREFILL: measure(lambda: self._hidden_states(tokens, 0, None)).peak_bytes,
        }
        if targets:
            activations[Component.MASKS] = self._decode_masks(targets).peak_bytes
        weights = weight_bytes(self.model, self.model.text_model)
        return MemoryBreakdown(weights, kv_cache_bytes(self.config.text_config, cached), activations)

    # FLOPs of each part

    @property
    def vision(self) -> int:
        """FLOPs of the vision encoder."""
        return self._vision[0].flops

    @property
    def vision_bytes(self) -> int:
        """Peak of the vision encoder's activations in bf16."""
        return self._vision[0].peak_bytes

    @property
    def llm_projector(self) -> int:
        """FLOPs of projecting image features to the language model's image tokens."""
        return self._vision[1].flops

    @cached_property
    def sam(self) -> CallCost | None:
        encoder: nn.Module | None = getattr(self.model, "sam_encoder", None)
        return encoder and measure(lambda: encoder(_pixels(self.config.sam_vision_config.image_size)))

    @property
    def decoder_features(self) -> int:
        """FLOPs of the remainder of `encode_images`."""
        return self._encoded[0].flops - self.vision - self.llm_projector - (self.sam.flops if self.sam else 0)

    @cached_property
    def layers(self) -> LayerFlops:
        """FLOPs of the language model's layers, from passes of two lengths."""
        tokens = 64
        first, second = self.count_layers(1), self.count_layers(tokens) / tokens
        per_pair = (second - first) / (tokens - 1)
        return LayerFlops(first - per_pair, per_pair)

    @cached_property
    def head(self) -> int:
        """FLOPs of the next-token scores at one position."""
        output = self.model.get_output_embeddings()
        return measure(lambda: output(_empty(1, self.width))).flops

    @cached_property
    def mask_head(self) -> MaskHeadFlops:
        single, double = self._decode_masks(1).flops, self._decode_masks(2).flops
        return MaskHeadFlops(2 * single - double, double - single)

    def count_layers(self, tokens: int, context: int = 0) -> int:
        """Count the FLOPs of a pass over `tokens` tokens behind `context` cached ones."""
        cache = DynamicCache()
        if context:
            with torch.inference_mode():
                self._hidden_states(context, 0, cache)
        return measure(lambda: self._hidden_states(tokens, context, cache)).flops

    @cached_property
    def _vision(self) -> tuple[CallCost, CallCost]:
        model, size, outputs = self.model, self.config.vision_config.image_size, []
        encoder = measure(lambda: outputs.append(model.vision_encoder(_pixels(size), _hw(size))))
        return encoder, measure(lambda: self._read(outputs[0]))

    def _read(self, features: VisionFeatures) -> Tensor:
        """Return the language model's image tokens: the projected grid, or candidates."""
        model, hw = self.model, _hw(self.config.vision_config.image_size)
        if not isinstance(model, MiniForConditionalGeneration) or model.selection is None:
            return model.image_tokens(features)
        # Not `class_prompts.words`: to count masks, that part is on the CPU.
        words = torch.zeros(len(self.config.vision_config.vocabulary), self.width, dtype=torch.bfloat16, device="meta")
        return model.read_candidates(model.selection(features, hw), words)

    @cached_property
    def _encoded(self) -> tuple[CallCost, EncodedImages]:
        outputs: list[EncodedImages] = []
        return measure(lambda: outputs.append(self._encode())), outputs[0]

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

    def _decode_masks(self, targets: int) -> CallCost:
        images, device = self._encoded[1], "meta"
        if isinstance(images, ClassifiedImages) and images.candidates is not None:
            images, device = self._images_on_cpu, "cpu"
        states = torch.zeros(targets * self.group, self.width, dtype=torch.bfloat16, device=device)
        index = torch.zeros(targets, dtype=torch.long, device=device)

        def decode() -> None:
            self.model.decode_masks(images, states, index)
            if isinstance(images, ClassifiedImages) and self.model.instances is not None:
                self._segment(targets)

        return measure(decode)

    def _segment(self, targets: int) -> None:
        """Segment one detection for each target."""
        images, numbers = self._encoded[1], torch.zeros(targets, dtype=torch.long, device="meta")
        boxes = _empty(targets, 4)
        self.model.instances.segment(images.objects, images.mask_maps, images.class_logits, boxes, numbers, numbers)

    @cached_property
    def _images_on_cpu(self) -> ClassifiedImages:
        """Zeros on the CPU, for heads with a pointer, in which values decide over shapes."""
        for module in (self.model.codebook, self.model.pointer, self.model.class_prompts, self.model.pixel_decoder):
            module.to_empty(device="cpu")
        images = self._encoded[1]
        assert isinstance(images, ClassifiedImages)
        assert images.candidates is not None
        candidates = {name: torch.zeros_like(field, device="cpu") for name, field in vars(images.candidates).items()}
        return replace(
            images,
            maps=[torch.zeros_like(map_, device="cpu") for map_ in images.maps],
            class_logits=torch.zeros_like(images.class_logits, device="cpu"),
            words=torch.zeros_like(images.words, device="cpu"),
            tokens=torch.zeros_like(images.tokens, device="cpu"),
            candidates=Candidates(**candidates),
            objects=None,
        )


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


def _pixels(size: int) -> Tensor:
    return _empty(1, 3, size, size)


def _hw(size: int) -> Tensor:
    return torch.full((1, 2), size, device="meta")
