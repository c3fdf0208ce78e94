"""FLOPs and memory of an answer part by part, and the interface of the models that they are counted from."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

# With 256 image tokens, 74 tokens of text make a sequence of 330. LLaVA's system text takes some 40 of them.
SYSTEM_TOKENS = 40
PROMPT_TOKENS = 74
# Most descriptions in MUSE take 12 to 14 tokens.
PHRASE_TOKENS = 13


class Component(StrEnum):
    """Components of an answer's cost, in the order of tables and charts."""

    VISION = "vision encoder"
    LLM_PROJECTOR = "projector to the LLM"
    SAM = "SAM image encoder"
    DECODER_FEATURES = "features for the mask head"
    PREFILL = "prefill"
    PHRASES = "prefill, each phrase again"
    TEXT = "decode, text token"
    GROUP = "decode, a target's mask tokens"
    MASKS = "mask head, a target"
    TEXT_ENCODER = "text encoder, a phrase"


@dataclass(frozen=True)
class Scenario:
    """Lengths of one question about one image and of its answer.

    Args:
        prompt_tokens: text before the answer, system text and question; image tokens come on top.
        answer_tokens: text of the answer without the codebook tokens.
        targets: masks in the answer.
        image_size: side in pixels of the square that masks are made from; None: the model's own.
        cache: decode with a KV cache; without one the whole sequence is run again for every token, as in the released
            code.
        system_tokens: the part of the prompt that all questions on an image share.
    """

    prompt_tokens: int = PROMPT_TOKENS
    answer_tokens: int = 3 * PHRASE_TOKENS
    targets: int = 3
    image_size: int | None = None
    cache: bool = True
    system_tokens: int = SYSTEM_TOKENS

    def __post_init__(self) -> None:
        if self.prompt_tokens <= self.system_tokens:
            raise ValueError(
                f"prompt tokens: expected more than the {self.system_tokens} of the system text, "
                f"got {self.prompt_tokens}."
            )
        if self.answer_tokens < 0 or self.targets < 0:
            raise ValueError(f"expected 0 or more, got {self.answer_tokens} answer tokens and {self.targets} targets.")

    @property
    def phrase_tokens(self) -> int:
        """Text tokens per target."""
        return round(self.answer_tokens / max(1, self.targets))

    def steps(self, group: int) -> Iterator[tuple[bool, int]]:
        """Yield (is codebook group, tokens) of each decoding step, targets evenly spread, `group` tokens per target."""
        written = 0
        for target in range(1, self.targets + 1):
            end = self.answer_tokens * target // self.targets
            yield from [(False, 1)] * (end - written)
            yield True, group
            written = end
        yield from [(False, 1)] * (self.answer_tokens - written)


@dataclass(frozen=True)
class FlopsLine:
    """FLOPs of one component of a model.

    Args:
        part: the component.
        flops: FLOPs of one call (the mean, where they differ), two per multiply-add.
        calls: calls per answer.
        parameters: parameters of the modules that do their work here; each is counted in one line only.
    """

    part: Component
    flops: float
    calls: int
    parameters: int = 0

    @property
    def total(self) -> float:
        return self.flops * self.calls


@dataclass(frozen=True)
class FlopsBreakdown:
    """FLOPs of one answer, part by part."""

    model: str
    lines: tuple[FlopsLine, ...]

    @property
    def flops(self) -> float:
        return sum(line.total for line in self.lines)

    @property
    def parameters(self) -> int:
        return sum(line.parameters for line in self.lines)


@dataclass(frozen=True)
class MemoryBreakdown:
    """Bytes of one answer.

    Args:
        weights: by precision: bf16, int8, int4 (see `pixellm.cost.counting.weight_bytes`).
        kv_cache: KV cache in bfloat16 at the answer's end.
        activations: peak of each part's tensors in bfloat16 (see `pixellm.cost.counting.PeakMemory`).
    """

    weights: dict[str, int]
    kv_cache: int
    activations: dict[Component, int]

    @property
    def peak(self) -> int:
        """Peak of the activations: parts run one after the other."""
        return max(self.activations.values())


class CostModel(Protocol):
    """A model whose answers can be counted without weights."""

    name: str

    def breakdown(self, scenario: Scenario) -> FlopsBreakdown: ...

    def memory(self, scenario: Scenario) -> MemoryBreakdown: ...
