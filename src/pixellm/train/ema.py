"""Exponential moving average (EMA) of the weights that train: on few images it generalises better."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pixellm.train.state import put, trained_parameters, whole

EMA = "ema.safetensors"


class WeightEma(TrainerCallback):
    """EMA of a model's trainable parameters, which hold it once training has ended.

    Args:
        decay: 0 ≤ decay < 1; a step's weights fade by this factor with each further step. The first steps count for
            more: the average of a short run would otherwise be mostly its initial weights. 0 keeps no average.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema: expected a decay of at least 0 and below 1, got {decay}.")
        self.decay = decay
        self.parameters: dict[str, nn.Parameter] = {}
        self.mean: dict[str, Tensor] = {}  # float32; of sharded parameters, this process's shards
        self.checkpoint: Path | None = None  # to resume from

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: object
    ) -> TrainerControl:
        """Initialise with the weights as they are, or with the average in the checkpoint."""
        if not self.decay:
            return control
        self.parameters = trained_parameters(model)
        if any(hasattr(parameter, "ds_id") for parameter in self.parameters.values()):
            raise ValueError(
                "ema: expected parameters that stay on their device, got those of ZeRO-3, which come and go. "
                "Shard with FSDP2 or ZeRO-2, or set ema to 0."
            )
        self.mean = self._current(torch.float32)
        if self.checkpoint:
            if not (self.checkpoint / EMA).is_file():
                raise ValueError(
                    f"ema: expected an average of the weights in {self.checkpoint}, which was trained without one. Set "
                    "ema to 0, restart with --restart, or choose another output directory."
                )
            stored = load_file(self.checkpoint / EMA)
            with self.applied():
                for name, parameter in self.parameters.items():
                    put(parameter.data, stored[name])
                self.mean = self._current(torch.float32)
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        if self.mean:
            decay = min(self.decay, state.global_step / (state.global_step + 9))
            current = [local(parameter).float() for parameter in self.parameters.values()]
            torch._foreach_lerp_(list(self.mean.values()), current, 1 - decay)
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        self._set(self.mean)
        return control

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model for the duration of a `with`."""
        current = self._current()
        self._set(self.mean)
        try:
            yield
        finally:
            self._set(current)

    def _current(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        return {name: local(parameter).to(dtype, copy=True) for name, parameter in self.parameters.items()}

    def _set(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            local(parameter).copy_(weights[name])

    def save(self, checkpoint: Path, write: bool) -> None:
        """Write the average into a checkpoint's directory; all processes take part, one writes."""
        if self.mean:
            with self.applied():
                state = {name: whole(parameter) for name, parameter in self.parameters.items()}
            if write:
                save_file(state, checkpoint / EMA)


def local(parameter: Tensor) -> Tensor:
    """Return the shard of a parameter that is on this process."""
    tensor = parameter.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
