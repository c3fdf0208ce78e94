"""A running mean of the weights that train: on few photographs it generalises better than the last weights do."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

AVERAGE = "average.safetensors"


class WeightAverage(TrainerCallback):
    """Keeps an exponential mean of a model's trainable parameters, which hold it once training has ended.

    Args:
        model: the model.
        decay: 0 ≤ decay < 1; a step's weights fade by this factor with each further step. The first steps count for
            more: the mean of a short run would otherwise be mostly its start. 0 keeps no mean.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"average: expected a decay of at least 0 and below 1, got {decay}.")
        self.decay = decay
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = trained if decay else {}
        self.mean = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        if self.mean:
            decay = min(self.decay, state.global_step / (state.global_step + 9))
            current = [parameter.detach() for parameter in self.parameters.values()]
            torch._foreach_lerp_(list(self.mean.values()), current, 1 - decay)
        return control

    @torch.no_grad()
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        for name, parameter in self.parameters.items():
            parameter.copy_(self.mean[name])
        return control

    def save(self, checkpoint: Path) -> None:
        """Write the mean into a checkpoint's directory."""
        if self.mean:
            save_file({name: tensor.contiguous() for name, tensor in self.mean.items()}, checkpoint / AVERAGE)

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint's mean."""
        if self.mean:
            for name, tensor in load_file(checkpoint / AVERAGE).items():
                self.mean[name].copy_(tensor)
