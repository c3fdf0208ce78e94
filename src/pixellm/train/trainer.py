"""transformers' Trainer with PixelLM's losses in the log and a learning rate for each part."""

from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer

from pixellm.types import Output

CHECKPOINT = "trained.safetensors"


class PixelLMTrainer(Trainer):
    """`learning_rates` maps a part of a parameter's name to its rate; the longest match wins."""

    def __init__(self, *args, learning_rates: dict[str, float], **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.learning_rates = learning_rates
        self._parts: dict[str, list[float]] = defaultdict(list)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        model = model or self.model
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                decay = self.args.weight_decay if parameter.ndim > 1 else 0.0
                groups[self._rate(name), decay].append(parameter)
        self.optimizer = torch.optim.AdamW(
            [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()],
            betas=(self.args.adam_beta1, self.args.adam_beta2),
        )
        return self.optimizer

    def _rate(self, name: str) -> float:
        matches = [part for part in self.learning_rates if part in name]
        return self.learning_rates[max(matches, key=len)] if matches else self.args.learning_rate

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, **_: object
    ) -> Tensor | tuple[Tensor, Output]:
        output: Output = model(**inputs)
        if output.loss is None:
            raise ValueError("expected a batch with labels or masks, got one without anything to learn.")
        for name, loss in output.losses.items():
            self._parts[name].append(float(loss.detach()))
        return (output.loss, output) if return_outputs else output.loss

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Checkpoints hold what trains and buffers; frozen pretrained weights are where they came from."""
        directory = Path(output_dir or self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        save_file(trainable_state(self.model), directory / CHECKPOINT)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / CHECKPOINT)
        expected = trainable_state(self.model)
        if state.keys() != expected.keys():
            raise ValueError(
                f"{resume_from_checkpoint}: expected a checkpoint of this recipe, got one with other parameters. "
                "Restart with --restart or choose another output directory."
            )
        self.model.load_state_dict(state, strict=False)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            logs |= {f"loss_{name}": round(sum(values) / len(values), 4) for name, values in self._parts.items()}
            self._parts.clear()
        super().log(logs, *args, **kwargs)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint has to hold: parameters that train, and buffers."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    buffers = {name for name, _ in model.named_buffers()}
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name in trained | buffers}
