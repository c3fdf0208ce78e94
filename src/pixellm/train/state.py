"""State of a training in full, whether its model is sharded over processes (FSDP2, ZeRO-3) or not.

All processes call these functions together: where parameters are sharded, they fetch each other's parts.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that train; of sharded ones this process's shards."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint has to hold, in full and on the CPU: parameters that train, and buffers."""
    stored = model.state_dict()
    state = {name: whole(parameter) for name, parameter in trained_parameters(model).items()}
    return state | {name: whole(buffer) for name, buffer in model.named_buffers() if name in stored}


@torch.no_grad()
def load_trained_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `trained_state` returned into a model with the same parameters.

    Raises:
        ValueError: other parameters train in it.
    """
    own = {**trained_parameters(model), **{n: b for n, b in model.named_buffers() if n in model.state_dict()}}
    if own.keys() != state.keys():
        raise ValueError(
            "expected a checkpoint of this recipe, got one with other parameters. "
            "Restart with --restart or choose another output directory."
        )
    for name, tensor in own.items():
        put(tensor, state[name])


def whole(tensor: Tensor) -> Tensor:
    """Return a parameter in full, on the CPU."""
    with _gathered(tensor, write=False):
        tensor = tensor.detach()
        tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return tensor.cpu().clone(memory_format=torch.contiguous_format)


def put(tensor: Tensor, value: Tensor) -> None:
    """Overwrite a parameter with a full value."""
    with _gathered(tensor, write=True):
        value = value.to(tensor.device)
        if isinstance(tensor, DTensor):
            value = distribute_tensor(value.to(tensor.dtype), tensor.device_mesh, tensor.placements)
        tensor.detach().copy_(value)


def _gathered(tensor: Tensor, write: bool) -> AbstractContextManager:
    """Gather a parameter, which DeepSpeed's ZeRO-3 takes away between uses."""
    if not hasattr(tensor, "ds_id"):
        return nullcontext()
    import deepspeed  # pyright: ignore[reportMissingImports]

    return deepspeed.zero.GatheredParameters([tensor], modifier_rank=0 if write else None)


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """Let a sharded model be asked questions: what is in none of its layers is otherwise there in `forward` only."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        for module in model.modules():  # some keep what they fetched until the next backward pass
            if isinstance(module, FSDPModule):
                module.reshard()


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Return the state by parameter name, so that another number of processes can resume with it."""
    return get_optimizer_state_dict(model, optimizer, options=WHOLE)


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load what `optimizer_state` returned; a parameter that never had a gradient has no state."""
    set_optimizer_state_dict(model, optimizer, state, options=replace(WHOLE, strict=False))
