"""Does a model fit into memory? Bytes of inference from its configuration, before any weights are read."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import PreTrainedConfig

from pixellm.cost.breakdown import Component, Scenario
from pixellm.cost.counting import BF16, kv_cache_bytes, on_meta, parameters, saved_bytes
from pixellm.cost.language import LanguageCostModel
from pixellm.cost.report import TextTable, quantity
from pixellm.imaging.postprocess import CHUNK
from pixellm.inference.cuda_graphs import SPARE_TOKENS
from pixellm.inference.quantization import Quantize
from pixellm.utils.model_files import stored_bytes

# Python, torch and transformers, imported and idle, as Linux counts it (VmRSS, of which 40 % are the libraries' files).
PROCESS_BYTES = 830_000_000
PIXEL_BYTES = 3  # an RGB pixel of the image
# A column of an RLE mask: two runs, of three bytes each as text, and Python's overhead.
MASK_COLUMN_BYTES = 12
# While a mask is decoded (`pixellm.imaging.postprocess`): chunks of logits, bits, probabilities, edges.
CHUNK_BYTES = 8 * 4 * CHUNK
LANGUAGE_MODEL = "language model"


@dataclass(frozen=True)
class LoadOptions:
    """Precision and device that a model is loaded with."""

    dtype: torch.dtype = torch.float32
    quantize: Quantize | None = None
    device: str = "cpu"

    def __str__(self) -> str:
        precision = str(self.dtype).removeprefix("torch.")
        return f"{self.quantize} and {precision}" if self.quantize else precision

    @property
    def smaller(self) -> "list[LoadOptions]":
        """Options that take less memory, the most precise first."""
        kinds: tuple[Quantize | None, ...] = (None, "int8", "int4")
        better = kinds[kinds.index(self.quantize) + 1 :]
        halved = [replace(self, dtype=torch.bfloat16)] if self.dtype.itemsize > BF16 else []
        return [*halved, *(replace(self, dtype=torch.bfloat16, quantize=kind) for kind in better)]

    @property
    def flags(self) -> str:
        """Command-line options."""
        precision = f"--dtype {str(self.dtype).removeprefix('torch.')}"
        return f"{precision} --quantize {self.quantize}" if self.quantize else precision


@dataclass(frozen=True)
class BatchScenario:
    """Questions about one image that are answered together.

    Args:
        questions: number of questions.
        scenario: lengths of each question and answer.
        image_hw: height and width of the image, which masks have, too.
    """

    questions: int = 1
    scenario: Scenario = field(default_factory=Scenario)
    image_hw: tuple[int, int] = (1080, 1920)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes needed, part by part, and bytes available."""

    needs: dict[str, int]
    available: int

    @property
    def total(self) -> int:
        return sum(self.needs.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.available

    def table(self, title: str) -> TextTable:
        rows = [(name, f"{quantity(size)}B") for name, size in self.needs.items()]
        return TextTable(title, ("memory", "bytes"), (*rows, ("total", f"{quantity(self.total)}B")))


def plan_memory(
    model: LanguageCostModel, options: LoadOptions, batch: BatchScenario, available: int | None = None
) -> MemoryPlan:
    """Add up the memory of answering; `available` is measured by default.

    On a GPU only device memory is counted: neither the process nor the finished masks.
    """
    scenario, factor = batch.scenario, options.dtype.itemsize / BF16
    prefix = model.image_tokens + scenario.system_tokens
    questions = batch.questions * (scenario.prompt_tokens - scenario.system_tokens)
    spare = SPARE_TOKENS if options.device.startswith("cuda") else 0
    cached = prefix + batch.questions * (model.length(scenario) + spare)
    # Image, its prefix and the questions are processed one after the other; masks are decoded one by one.
    memory = model.memory_of(0, max(prefix, questions), min(1, scenario.targets))
    busiest = max(memory.activations, key=lambda component: memory.activations[component])
    height, width = batch.image_hw
    masks = batch.questions * scenario.targets
    needs = {f"weights, {name}": size for name, size in part_bytes(model, options).items()}
    needs["KV cache"] = int(factor * kv_cache_bytes(model.config.text_config, cached))
    needs[f"activations ({busiest})"] = int(factor * memory.peak)
    size = model.mask_side
    # Logits at the encoder's input size, and from there at the image's width; fp32.
    needs["mask decoding"] = 4 * size * (2 * size + width) + CHUNK_BYTES if masks else 0
    if not options.device.startswith("cuda"):
        needs |= {"image and masks": PIXEL_BYTES * height * width + MASK_COLUMN_BYTES * width * masks}
        needs["process"] = PROCESS_BYTES
    return MemoryPlan(needs, available_memory(options.device) if available is None else available)


def part_bytes(model: LanguageCostModel, options: LoadOptions) -> dict[str, int]:
    """Bytes of a model's weights, part by part, without buffers."""
    width = options.dtype.itemsize
    sizes = {
        LANGUAGE_MODEL if component == Component.PREFILL else component: width * parameters(*modules)
        for component, modules in model.parts.items()
    }
    sizes[LANGUAGE_MODEL] -= _saved(model.model, options)
    return sizes


def _saved(model: Any, options: LoadOptions) -> int:
    if options.quantize is None:
        return 0
    return saved_bytes(model.text_model, options.dtype.itemsize, options.quantize)


def available_memory(device: str) -> int:
    """Available bytes of a CUDA device, else of the computer without swapping."""
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else psutil.virtual_memory().available


def expect_room(directory: Path, config: PreTrainedConfig, options: LoadOptions) -> None:
    """Raise a ValueError if the weights of the model in `directory` don't fit into the available memory."""
    available = available_memory(options.device)
    # A stored weight takes two bytes or more. Exact counts need a model, built only if the weights might not fit.
    if stored_bytes(directory) * options.dtype.itemsize / BF16 <= available:
        return
    model = on_meta(config)

    def size(way: LoadOptions) -> int:
        return way.dtype.itemsize * parameters(model) - _saved(model, way)

    if size(options) <= available:
        return
    ways = [f"{way} ({quantity(size(way))}B)" for way in options.smaller if size(way) <= available]
    advice = f"Load it in {' or '.join(ways)}." if ways else "Free some, or take another computer."
    raise ValueError(
        f"expected {quantity(size(options))}B of memory for the weights of {directory.name} in {options}, "
        f"got {quantity(available)}B that is available. {advice}"
    )
