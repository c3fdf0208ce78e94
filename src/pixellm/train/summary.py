"""Summary of a training before its first step: trained parameters, memory, data."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from pixellm.data.mixture import MixturePlan
from pixellm.train.recipe import TrainingStage

ADAM_BYTES = 12  # of a trained parameter: gradient and two moments, all float32
GIGABYTE = 1e9


def summary(
    model: nn.Module,
    text_module: PreTrainedModel,
    names: Sequence[str],
    plan: MixturePlan,
    stage: TrainingStage,
    length: int,
) -> Iterator[str]:
    """Yield the lines to show before training starts.

    Args:
        model: with all that trains unfrozen.
        text_module: its part that reads text.
        names: names of the data sets.
        plan: over them, in the same order.
        stage: see `TrainingStage`.
        length: tokens of a long row.
    """
    yield "part                 parameters      trained"
    for name, (total, trained) in parameters(model).items():
        yield f"{name:<18} {total:>12,} {trained:>12,}"
    memory = f"memory of a device, about: {fixed_memory(model) / GIGABYTE:.1f} GB for weights, gradients and optimizer"
    if any(parameter.requires_grad for parameter in text_module.parameters()):  # else its activations are not kept
        activations = activation_memory(text_module.config.get_text_config(), stage, length) / GIGABYTE
        memory += (
            f" (less if sharded), {activations:.1f} GB for activations of the language model ({length} tokens a row)"
        )
    yield memory
    for name, size, quota in zip(names, plan.sizes, plan.quotas, strict=True):
        yield f"{name}: {size:,} records, {quota:,} of the {plan.epoch_length:,} samples of an epoch"
    epochs = stage.steps * stage.batch_size / plan.epoch_length
    yield f"{stage.steps:,} steps of {stage.batch_size} images = {epochs:.1f} epochs"


def parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Count the parameters of each module of a model, and those of them that train; `all` is their sum."""
    counts: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for name, parameter in model.named_parameters():
        size = parameter.numel()
        for key in (name.split(".")[0], "all"):
            total, trained = counts[key]
            counts[key] = (total + size, trained + size * parameter.requires_grad)
    counts["all"] = counts.pop("all")  # last
    return dict(counts)


def fixed_memory(model: nn.Module) -> float:
    """Return the bytes of weights, gradients and optimizer on one device, unsharded."""
    return sum(p.numel() * (p.element_size() + ADAM_BYTES * p.requires_grad) for p in model.parameters())


def activation_memory(text: PreTrainedConfig, stage: TrainingStage, length: int) -> float:
    """Return the bytes of the language model's activations on one device.

    A transformer layer's are tokens × width × (34 + 5 · heads · tokens / width), those of its inputs alone
    tokens × width × 2 (arXiv 2205.05198, 16-bit).
    """
    per_token = 2.0 if stage.gradient_checkpointing else 34 + 5 * text.num_attention_heads * length / text.hidden_size
    precision = 1 if stage.bf16 else 2
    rows = stage.device_batch_size * length * text.hidden_size
    return rows * per_token * text.num_hidden_layers * precision
