"""Whether a model fits into memory, said from its configuration, before any weights are read."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import torch
from torch import nn
from transformers import PreTrainedConfig

from pixellm.cost import bill
from pixellm.cost.bill import Memory
from pixellm.cost.counted import on_meta
from pixellm.cost.language import LanguageSystem
from pixellm.cost.memory import BF16, kv_cache_bytes, parameters, saved_bytes
from pixellm.cost.report import Rows, quantity
from pixellm.cost.scenario import Scenario
from pixellm.imaging.postprocess import CHUNK
from pixellm.inference.cuda_graphs import ROOM
from pixellm.inference.quantization import Quantize

# Python, torch and transformers, imported and idle, as Linux counts it (VmRSS, of which 40 % are the libraries' files).
PROCESS = 830_000_000
PHOTOGRAPH = 3  # a pixel
# A column of a mask that is kept: two runs, of three bytes each as text, with what Python has around them.
MASK = 12
# While a mask is made (`pixellm.imaging.postprocess`): chunks of logits, bits, probabilities, edges.
CHUNKS = 8 * 4 * CHUNK
LANGUAGE_MODEL = "language model"


@dataclass(frozen=True)
class Loaded:
    """How a model is loaded."""

    dtype: torch.dtype = torch.float32
    quantize: Quantize | None = None
    device: str = "cpu"

    def __str__(self) -> str:
        precision = str(self.dtype).removeprefix("torch.")
        return f"{self.quantize} and {precision}" if self.quantize else precision

    @property
    def smaller(self) -> "list[Loaded]":
        """What takes less, the most exact first."""
        kinds: tuple[Quantize | None, ...] = (None, "int8", "int4")
        better = kinds[kinds.index(self.quantize) + 1 :]
        halved = [replace(self, dtype=torch.bfloat16)] if self.dtype.itemsize > BF16 else []
        return [*halved, *(replace(self, dtype=torch.bfloat16, quantize=kind) for kind in better)]

    @property
    def options(self) -> str:
        """Of the command line."""
        precision = f"--dtype {str(self.dtype).removeprefix('torch.')}"
        return f"{precision} --quantize {self.quantize}" if self.quantize else precision


@dataclass(frozen=True)
class Use:
    """What is asked at one time: so many questions on one photograph, each answered with so many targets.

    Args:
        questions: that are answered together.
        scenario: of each.
        image_hw: height and width of the photograph, at which masks are given.
    """

    questions: int = 1
    scenario: Scenario = field(default_factory=Scenario)
    image_hw: tuple[int, int] = (1080, 1920)


@dataclass(frozen=True)
class Plan:
    """Bytes by what takes them, and what is available."""

    loaded: Loaded
    needs: dict[str, int]
    available: int

    @property
    def total(self) -> int:
        return sum(self.needs.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.available

    def table(self, title: str) -> Rows:
        rows = [(name, f"{quantity(size)}B") for name, size in self.needs.items()]
        return Rows(title, ("memory", "bytes"), (*rows, ("total", f"{quantity(self.total)}B")))


def make_plan(system: LanguageSystem, loaded: Loaded, use: Use, available: int | None = None) -> Plan:
    """Add up what answering takes; `available` is measured where it isn't given.

    On a GPU only what lies there is counted: neither the process nor the masks that are kept.
    """
    scenario, factor = use.scenario, loaded.dtype.itemsize / BF16
    prefix = system.image_tokens + scenario.system_tokens
    questions = use.questions * (scenario.prompt_tokens - scenario.system_tokens)
    room = ROOM if loaded.device.startswith("cuda") else 0
    cached = prefix + use.questions * (system.length(scenario) + room)
    # One after the other come the image, its prefix, the questions; masks are decoded one by one.
    memory: Memory = system.memory_of(0, max(prefix, questions), min(1, scenario.targets))
    busiest = max(memory.activations, key=lambda part: memory.activations[part])
    height, width = use.image_hw
    masks = use.questions * scenario.targets
    needs = {f"weights, {name}": size for name, size in part_bytes(system, loaded).items()}
    needs["keys and values"] = int(factor * kv_cache_bytes(system.config.text_config, cached))
    needs[f"activations ({busiest})"] = int(factor * memory.peak)
    size = system.config.vision_config.image_size
    # Logits at the size that the encoder reads, and from there at the photograph's width; fp32.
    needs["a mask in the making"] = 4 * size * (2 * size + width) + CHUNKS if masks else 0
    if not loaded.device.startswith("cuda"):
        needs |= {"photograph and masks": PHOTOGRAPH * height * width + MASK * width * masks}
        needs["the process itself"] = PROCESS
    return Plan(loaded, needs, available_memory(loaded.device) if available is None else available)


def part_bytes(system: LanguageSystem, loaded: Loaded) -> dict[str, int]:
    """Of a model's weights, part by part; buffers are not counted."""
    width = loaded.dtype.itemsize
    named = {LANGUAGE_MODEL if part == bill.PREFILL else part: modules for part, modules in system.parts.items()}
    sizes = {part: width * parameters(*modules) for part, modules in named.items()}
    sizes[LANGUAGE_MODEL] -= _saved(system.model, loaded)
    return sizes


def _saved(model: nn.Module, loaded: Loaded) -> int:
    if loaded.quantize is None:
        return 0
    return saved_bytes(model.language_model, loaded.dtype.itemsize, loaded.quantize)


def available_memory(device: str) -> int:
    """Bytes that can be had now: of a CUDA device, else of the computer without making it swap."""
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else psutil.virtual_memory().available


def expect_room(directory: Path, config: PreTrainedConfig, loaded: Loaded) -> None:
    """Refuse a model whose weights alone are more than the memory that is available.

    Raises:
        ValueError: they are.
    """
    available = available_memory(loaded.device)
    stored = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    # A stored weight takes two bytes or more. Only if they might not fit are they counted: for that a model is built.
    if stored * loaded.dtype.itemsize / BF16 <= available:
        return
    model = on_meta(config)

    def size(way: Loaded) -> int:
        return way.dtype.itemsize * parameters(model) - _saved(model, way)

    if size(loaded) <= available:
        return
    ways = [f"{way} ({quantity(size(way))}B)" for way in loaded.smaller if size(way) <= available]
    advice = f"Load it in {' or '.join(ways)}." if ways else "Free some, or take another computer."
    raise ValueError(
        f"expected {quantity(size(loaded))}B of memory for the weights of {directory.name} in {loaded}, "
        f"got {quantity(available)}B that is available. {advice}"
    )
