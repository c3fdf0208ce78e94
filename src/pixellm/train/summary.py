"""What a training is about to do: what trains, what it takes, what it learns from."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch import nn

from pixellm.baselines.seem import SeemForGrounding
from pixellm.data.mixture import MixturePlan
from pixellm.model import PixelLMForConditionalGeneration
from pixellm.train.recipe import Stage

ADAM_BYTES = 12  # of a trained parameter: gradient and two moments, all float32
GIGABYTE = 1e9


def summary(
    model: PixelLMForConditionalGeneration | SeemForGrounding,
    names: Sequence[str],
    plan: MixturePlan,
    stage: Stage,
    length: int,
) -> Iterator[str]:
    """Lines to show before training starts.

    Args:
        model: with all that trains unfrozen.
        names: of the data sets.
        plan: over them, in the same order.
        stage: see `Stage`.
        length: tokens of a long row.
    """
    yield "part                 parameters      trained"
    for name, (total, trained) in parameters(model).items():
        yield f"{name:<18} {total:>12,} {trained:>12,}"
    told = f"memory of a device, about: {fixed_memory(model) / GIGABYTE:.1f} GB for weights, gradients and optimizer"
    if isinstance(model, PixelLMForConditionalGeneration):
        kept = activation_memory(model, stage, length) / GIGABYTE
        told += f" (less if sharded), {kept:.1f} GB for activations of the language model ({length} tokens a row)"
    yield told
    for name, size, quota in zip(names, plan.sizes, plan.quotas, strict=True):
        yield f"{name}: {size:,} records, {quota:,} of the {plan.epoch_length:,} samples of an epoch"
    epochs = stage.steps * stage.batch_size / plan.epoch_length
    yield f"{stage.steps:,} steps of {stage.batch_size} images = {epochs:.1f} epochs"


def parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Of each part of a model, its parameters and how many of them train."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, parameter in model.named_parameters():
        part = counts[name.split(".")[0]]
        part[0] += parameter.numel()
        part[1] += parameter.numel() * parameter.requires_grad
    whole = tuple(sum(column) for column in zip(*counts.values(), strict=True))
    return {**{name: (total, trained) for name, (total, trained) in counts.items()}, "all": (whole[0], whole[1])}


def fixed_memory(model: nn.Module) -> float:
    """Bytes on one device, unsharded, of weights, gradients and optimizer."""
    return sum(p.numel() * (p.element_size() + ADAM_BYTES * p.requires_grad) for p in model.parameters())


def activation_memory(model: PixelLMForConditionalGeneration, stage: Stage, length: int) -> float:
    """Bytes on one device of the language model's activations.

    Of a transformer layer they are tokens × width × (34 + 5 · heads · tokens / width), of its inputs alone
    tokens × width × 2 (arXiv 2205.05198, 16-bit).
    """
    text = model.config.text_config
    per_token = 2.0 if stage.gradient_checkpointing else 34 + 5 * text.num_attention_heads * length / text.hidden_size
    precision = 1 if stage.bf16 else 2
    rows = stage.device_batch_size * length * text.hidden_size
    return rows * per_token * text.num_hidden_layers * precision
