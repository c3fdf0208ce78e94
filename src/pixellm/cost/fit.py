"""Settings with which a training fits into memory: LoRA or QLoRA, gradient checkpointing, images at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pixellm.backbones.adapter import ImageLoad
from pixellm.backbones.kind import BackboneKind
from pixellm.backbones.modeling import BackboneBatch, ImageInputs
from pixellm.cost.backbones import BackboneCostModel
from pixellm.cost.language import LanguageCostModel
from pixellm.cost.report import TextTable, quantity
from pixellm.cost.training import FP32, RowLoad, step_memory
from pixellm.data.mixture import ChatSamples
from pixellm.model.codebook import find_groups
from pixellm.model.losses import IGNORE_INDEX
from pixellm.train.model_kind import KnownModels, WholeModel
from pixellm.train.pixellm_kind import PixelLMKind
from pixellm.train.recipe import Recipe
from pixellm.train.run import LENGTH_SAMPLES, open_mixture, processes
from pixellm.utils.model_files import read_config
from pixellm.utils.sizes import rounded_up

# CUDA's context, its libraries' workspaces, and what the allocator can't use: an estimate, not measured.
GPU_BYTES = 800_000_000
# A process that trains on a CPU, without what is counted: libraries, the Trainer, kernels of the first step. Measured
# at a tiny size, where it is half of all (docs/training.md).
TRAINING_PROCESS_BYTES = 1_100_000_000


@dataclass(frozen=True)
class TrainingPlan:
    """A recipe with settings for some memory, and what they take.

    Args:
        recipe: with these settings.
        load: the largest row among those that were looked at.
        needs: bytes, part by part.
        memory: bytes that there are.
    """

    recipe: Recipe
    load: RowLoad
    needs: dict[str, int]
    memory: int

    @property
    def total(self) -> int:
        return sum(self.needs.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.memory

    @property
    def settings(self) -> str:
        """Settings in words: QLoRA (int4), gradient checkpointing, images at once: 2, passes a step: 4."""
        stage, quantize = self.recipe.stage, self.recipe.lora.quantize
        checkpointing = "gradient checkpointing, " if stage.gradient_checkpointing else ""
        count = stage.device_batch_size
        times = stage.batch_size // (count * processes())
        adapters = f"QLoRA ({quantize})" if quantize else "LoRA"
        return f"{adapters}, {checkpointing}images at once: {count}, passes a step: {times}"

    def table(self) -> TextTable:
        rows = [(name, f"{size / 1e9:.2f}") for name, size in self.needs.items()]
        rows.append(("total", f"{self.total / 1e9:.2f} of {self.memory / 1e9:.2f}"))
        return TextTable(f"{self.settings}, rows of up to {self.load.tokens} tokens", ("memory", "GB"), tuple(rows))


def fit(recipe: Recipe, known: KnownModels, memory: int, device: str) -> TrainingPlan:
    """Choose settings for a training of a whole model by adapters: the fastest that fit.

    Args:
        recipe: its rank of adapters, rows and images of a step stay as they are.
        known: what names stand for.
        memory: bytes of the device; on a CPU, of the process.
        device: cpu or cuda.

    Raises:
        ValueError: nothing fits, or the model is of a kind that can't be planned.
    """
    source = known.open(recipe.initialise)
    if not isinstance(source, WholeModel) or type(source.kind) not in (PixelLMKind, BackboneKind):
        raise ValueError(
            f"--memory: expected a model of the paper's assembly, or one that `pixellm init` made, got "
            f"{recipe.initialise.model}. Leave --memory out."
        )
    config: Any = read_config(source.directory, **source.settings)
    load = row_load(recipe, source, config)
    smallest: dict[str, TrainingPlan] = {}
    for way in _ways(recipe):
        for plan in _batch_sizes(way, source, config, load, memory, device):
            if plan.fits:
                return plan
            smallest[plan.settings] = plan
    least = min(smallest.values(), key=lambda plan: plan.total)
    would = "; ".join(f"{rounded_up(plan.total)} with {settings}" for settings, plan in smallest.items())
    raise ValueError(
        f"--memory: expected at least {rounded_up(least.total)} to train {recipe.initialise.model} on rows of "
        f"{load.tokens} tokens, got {quantity(memory)}B. What would fit: {would}. Or take a smaller model or smaller "
        "images, or shorten rows by `stage: {max_length: …}` in a recipe."
    )


def plan_for(recipe: Recipe, source: WholeModel, config: Any, load: RowLoad, memory: int, device: str) -> TrainingPlan:
    """Count what a recipe's settings take."""
    stage = recipe.stage
    counted = step_memory(config, source.kind, stage, recipe.lora, load)
    gradients = FP32 * counted.trained
    needs = {f"weights, {name.replace('_', ' ')}": size for name, size in counted.weights.items()}
    needs |= {"gradients": gradients, "optimiser states": 2 * gradients}
    if stage.ema:
        needs["EMA of the weights"] = gradients
    needs["activations"] = max(0, counted.passes - gradients - counted.logits)
    needs["logits"] = counted.logits
    if device == "cuda":
        # While weights are updated, all at once, there are no activations; else they would be added.
        needs["activations"] = max(needs["activations"], 2 * gradients - counted.logits)
        needs["CUDA"] = GPU_BYTES
    else:
        needs["process"] = TRAINING_PROCESS_BYTES
    return TrainingPlan(recipe, load, needs, memory)


def row_load(recipe: Recipe, source: WholeModel, config: Any) -> RowLoad:
    """Return the sizes of the largest of the first samples: of each size the largest."""
    processor = source.kind.processor_class.from_pretrained(source.directory)
    mixture = open_mixture(recipe.data, recipe.seed)
    samples = ChatSamples(mixture, recipe.data.chat, len(source.kind.codebook_ids(config)))
    seen = [
        load_of_row(processor([samples[index]], recipe.stage.max_length), config)
        for index in range(min(LENGTH_SAMPLES, recipe.stage.steps * recipe.stage.batch_size))
    ]
    largest = max((load.image_hw for load in seen), key=lambda hw: hw[0] * hw[1])
    sizes = ("tokens", "labels", "masks", "answers", "vision_bytes")
    return RowLoad(image_hw=largest, **{name: max(getattr(load, name) for load in seen) for name in sizes})


def load_of_row(batch: Any, config: Any) -> RowLoad:
    """Return the sizes of a batch of one row."""
    ids, masks = batch.input_ids, batch.target_masks[0]
    groups = find_groups(ids, config.codebook_ids)[:, 1]
    if isinstance(batch, BackboneBatch):
        model: LanguageCostModel = BackboneCostModel("", config)
        model.load = _image_load(batch.images[0], config)  # pyright: ignore[reportAttributeAccessIssue]
        held = 1
    else:
        model, held = LanguageCostModel("", config), 2  # its vision encoder computes in fp32
    return RowLoad(
        tokens=ids.shape[1],
        labels=int((batch.labels != IGNORE_INDEX).sum()),
        masks=len(masks),
        answers=len(batch.segment_ids[0, groups].unique()),
        image_hw=(masks.shape[1], masks.shape[2]),
        vision_bytes=held * model.vision_bytes,
    )


def _image_load(image: ImageInputs, config: Any) -> ImageLoad:
    """Count the tokens of an image as its processor prepared it."""
    pixels, base = image.pixels["pixel_values"], config.base_config
    image_tokens = image.prefix_ids.count(base.image_token_id)
    if pixels.ndim == 2:  # packed, a row for each token
        return ImageLoad(1, len(pixels), image_tokens)
    patch = base.vision_config.patch_size
    patch = patch[0] if isinstance(patch, list | tuple) else patch
    sequences = pixels[..., 0, 0, 0].numel()
    return ImageLoad(sequences, (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch) + 1, image_tokens)


def _ways(recipe: Recipe) -> Iterator[Recipe]:
    """Yield the recipe's variants, the fastest first: a quantised weight has to be unpacked for every product."""
    for quantize in (None, "int4"):
        for checkpointing in (False, True):
            stage = replace(recipe.stage, gradient_checkpointing=checkpointing)
            yield replace(recipe, stage=stage, lora=replace(recipe.lora, quantize=quantize))


def _batch_sizes(
    recipe: Recipe, source: WholeModel, config: Any, load: RowLoad, memory: int, device: str
) -> Iterator[TrainingPlan]:
    """Yield plans with as many images at once as fit, or with one if not even that fits."""

    def plan(count: int) -> TrainingPlan:
        stage = replace(recipe.stage, device_batch_size=count)
        return plan_for(replace(recipe, stage=stage), source, config, load, memory, device)

    single = plan(1)
    counts = _divisors(recipe.stage.batch_size // processes())
    if single.fits and len(counts) > 1:
        # Each further image takes about as much as the second.
        double = plan(counts[1])
        each = (double.total - single.total) / (counts[1] - 1)
        for count in reversed(counts[1:]):
            if single.total + (count - 1) * each <= memory:
                yield double if count == counts[1] else plan(count)
    yield single


def _divisors(number: int) -> Sequence[int]:
    return [count for count in range(1, number + 1) if number % count == 0]


def training_device() -> str:
    """Device that this process trains on."""
    return "cuda" if torch.cuda.is_available() else "cpu"
