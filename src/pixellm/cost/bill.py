"""What an answer costs, line by line, and what a system has to offer to be compared."""

from dataclasses import dataclass
from typing import Protocol

from pixellm.cost.scenario import Scenario

VISION = "vision encoder"
SAM = "SAM image encoder"
LLM_PROJECTOR = "projector to the LLM"
DECODER_FEATURES = "features for the mask head"
PREFILL = "prefill"
PHRASES = "prefill, each phrase again"
TEXT = "decode, text token"
GROUP = "decode, a target's mask tokens"
MASKS = "mask head, a target"
ORDER = (VISION, LLM_PROJECTOR, SAM, DECODER_FEATURES, PREFILL, PHRASES, TEXT, GROUP, MASKS)


@dataclass(frozen=True)
class Line:
    """One part.

    Args:
        part: its name.
        flops: of one call (the mean, where they differ); a multiply-add counts two.
        calls: how often the answer needs it.
        parameters: of the modules that do their work here; each is counted in one line of a bill.
    """

    part: str
    flops: float
    calls: int
    parameters: int = 0

    @property
    def total(self) -> float:
        return self.flops * self.calls


@dataclass(frozen=True)
class Bill:
    system: str
    lines: tuple[Line, ...]

    @property
    def flops(self) -> float:
        """Of the whole answer."""
        return sum(line.total for line in self.lines)

    @property
    def parameters(self) -> int:
        return sum(line.parameters for line in self.lines)


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Args:
        weights: by precision: bf16, int8, int4 (see `pixellm.cost.memory`).
        kv_cache: keys and values in bfloat16 at the answer's end.
        activations: most that each part's tensors take at one time, in bfloat16 (see `pixellm.cost.counted`).
    """

    weights: dict[str, int]
    kv_cache: int
    activations: dict[str, int]

    @property
    def peak(self) -> int:
        """Of the activations: parts run one after the other."""
        return max(self.activations.values())


class System(Protocol):
    """What answers questions with masks."""

    name: str

    def bill(self, scenario: Scenario) -> Bill: ...

    def memory(self, scenario: Scenario) -> Memory: ...
