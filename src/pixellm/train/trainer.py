"""transformers' Trainer for PixelLM: batches by plan, losses averaged over whole steps, complete checkpoints.

A step's losses are averaged over all its batches and processes together, so that they are the same however a step is
split. `LengthBatches` alone decides what a step sees.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.integrations import TensorBoardCallback
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pixellm.data.mixture import LengthBatches
from pixellm.eval.validation import ValidationSums, validate
from pixellm.imaging.contact_sheet import Card, contact_sheet
from pixellm.model.losses import LossCounts, LossWeights, without_labels
from pixellm.train.ema import WeightEma
from pixellm.train.state import answering, load_optimizer_state, load_trained_state, optimizer_state, trained_state
from pixellm.types import Output, Sample, Segmenter

logger = logging.getLogger(__name__)

TRAINED = "trained.safetensors"
ANSWER_BUDGET = 128  # tokens: early in a training answers may not end
SHEET_IMAGES = 4  # whose answers are drawn at each evaluation
COMPLETE = "complete"  # written last: a checkpoint without it was interrupted


@dataclass(frozen=True)
class Collator:
    """Convert samples to the model's keyword arguments.

    Args:
        processor: of the model.
        max_length: tokens of a row; longer ones are shortened.
        unlabelled: token ids that the text loss leaves out.
    """

    processor: Any
    max_length: int | None = None
    unlabelled: Sequence[int] = ()

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor | list[Tensor]]:
        batch = self.processor(samples, self.max_length)
        if len(self.unlabelled):
            batch = replace(batch, labels=without_labels(batch.labels, self.unlabelled))
        return {name: value for name, value in vars(batch).items() if value is not None}


class PixelLMTrainer(Trainer):
    """Trainer of a model whose forward pass gives an `Output`.

    Args:
        batches: of the whole training; of each step, processes take every n-th one.
        learning_rates: maps a part of a parameter's name to its rate; the longest match wins.
        ema: decay of the exponential moving average of the weights that training ends with (0: the last weights).
        shardable: whether each process may hold a share of the model.
        loss_weights: weights for the forward pass; None: those of the model.
        segmenter: model → what answers the questions of `eval_dataset`.

    `eval_dataset`, if given, holds samples whose questions are asked at each evaluation (`pixellm.eval.validation`);
    the answers on the first ones are drawn to `validation/step-N.jpg` beside the output directory, and to TensorBoard.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args,
        batches: LengthBatches,
        learning_rates: dict[str, float],
        ema: float = 0.0,
        shardable: bool = True,
        loss_weights: LossWeights | None = None,
        segmenter: Callable[[nn.Module], Segmenter] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.segmenter, self.loss_weights = segmenter, loss_weights
        if self.is_fsdp_enabled and self.accelerator.state.fsdp_plugin.fsdp_version != 2:
            raise ValueError(
                "expected version 2 of FSDP, got 1. Set fsdp_version: 2, as in recipes/accelerate/fsdp2.yaml."
            )
        if self._sharded and not shardable:
            raise ValueError(
                "expected a model that can be sharded, got one whose weights are read outside of its layers. Start it "
                "with torchrun: it is small enough for one device."
            )
        self.batches = batches
        self.learning_rates = learning_rates
        self.ema = WeightEma(ema)
        self.add_callback(self.ema)
        self._losses: dict[str, list[float]] = defaultdict(list)  # of each batch since the last log
        self._steps = self._images = self._tokens = 0  # since then
        self._since = time.monotonic()
        self._resumed_from: Path | None = None
        self.metrics: dict[str, float] = {}  # of the last evaluation
        self._evaluated_at = -1  # step

    def fit(self) -> None:
        """Train to the end, from the last whole checkpoint in the output directory if there is one."""
        last = last_checkpoint(Path(self.args.output_dir))
        if last:
            by_deepspeed = not (last / OPTIMIZER_NAME).is_file()
            if by_deepspeed != self.is_deepspeed_enabled:
                raise ValueError(
                    f"expected to resume {'with' if by_deepspeed else 'without'} DeepSpeed, as {last} was written; its "
                    "optimizer states are in a form of its own."
                )
            logger.info("resuming from %s", last)
            self._resumed_from = last
            self.batches.start = step_of(last)
            self.ema.checkpoint = last
        self.train(resume_from_checkpoint=str(last) if last else None)
        if self.eval_dataset is not None:
            self.evaluate()
        self.save_state()

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
        matches = [key for key in self.learning_rates if key in name]
        return self.learning_rates[max(matches, key=len)] if matches else self.args.learning_rate

    def get_train_dataloader(self) -> DataLoader:
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            persistent_workers=workers > 0,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict], LossCounts]:
        """Return the batches of one step on this process, and what its losses are averaged over on all processes."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        counts = [self.model.count_terms(**batch) for batch in batches]
        terms = sorted(counts[0])
        images = next((name for name in ("images", "pixel_values") if name in batches[0]), "input_ids")
        sizes = [(len(b[images]), b["input_ids"].numel() if "input_ids" in b else 0) for b in batches]
        rows = [[*(count[term] for term in terms), *size] for count, size in zip(counts, sizes, strict=True)]
        *sums, seen, tokens = self.accelerator.reduce(torch.tensor(rows, device=device).sum(dim=0), "sum").tolist()
        self._steps, self._images, self._tokens = self._steps + 1, self._images + seen, self._tokens + tokens
        return batches, LossCounts(dict(zip(terms, sums, strict=True)))

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch: LossCounts | None = None) -> Tensor:
        if self._resumed_from:  # only now: making the loader has drawn random numbers
            self._load_rng_state(str(self._resumed_from))
            self._resumed_from = None
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict,
        return_outputs: bool = False,
        num_items_in_batch: LossCounts | None = None,
    ) -> Tensor | tuple[Tensor, Output]:
        weights = {} if self.loss_weights is None else {"loss_weights": self.loss_weights}
        output: Output = model(**inputs, counts=num_items_in_batch, **weights)
        total = output.loss
        if total is None:
            raise ValueError("expected a batch with labels or masks, got one without anything to learn.")
        if not bool(total.isfinite()):
            losses = ", ".join(f"{name} {float(loss.detach()):g}" for name, loss in output.losses.items())
            raise FloatingPointError(
                f"step {self.state.global_step + 1}: the loss is no longer a number ({losses}). Training has stopped; "
                f"the checkpoints in {self.args.output_dir} are as they were. Lower the learning rate, or look at the "
                "data of this step."
            )
        for name, loss in output.losses.items():
            self._losses[name].append(float(loss.detach()))
        # Processes' gradients are averaged, but their losses are shares of one mean.
        total = total * self.accelerator.num_processes
        return (total, output) if return_outputs else total

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs and self._losses:
            names = sorted(self._losses)
            sums = torch.tensor([sum(self._losses[name]) for name in names], device=self.args.device)
            sums = self.accelerator.reduce(sums, "sum") / self._steps
            logs |= {f"loss_{name}": round(float(value), 4) for name, value in zip(names, sums, strict=True)}
            seconds = max(time.monotonic() - self._since, 1e-9)
            logs["images_per_second"] = round(self._images / seconds, 3)
            logs["tokens_per_second"] = round(self._tokens / seconds, 1)
            self._losses.clear()
            self._steps = self._images = self._tokens = 0
            self._since = time.monotonic()
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Ask the questions of `eval_dataset`, each process those of its share, and log the metrics."""
        if self._evaluated_at == self.state.global_step:
            return {f"eval_{name}": value for name, value in self.metrics.items()}
        started = time.monotonic()
        result, items = self._answers()
        sums = torch.tensor(result.sums, dtype=torch.float64, device=self.args.device)
        if not self._sharded:
            sums = self.accelerator.reduce(sums, "sum")
        self.metrics = ValidationSums.of(sums.tolist()).metrics
        self._evaluated_at = self.state.global_step
        logs = {f"eval_{name}": value for name, value in self.metrics.items()}
        self.log(dict(logs))
        if items and self.args.should_save:
            sheet = Path(self.args.output_dir).with_name("validation") / f"step-{self.state.global_step:06}.jpg"
            contact_sheet(items, sheet)
            self._show(sheet)
        self._since += time.monotonic() - started  # the speed that is logged is that of training
        return logs

    def _answers(self) -> tuple[ValidationSums, list[Card]]:
        """Ask the questions on this process's share of the images.

        Where the model is sharded, all processes answer all: each runs every layer together with the others, and so has
        to choose the same words, as equal devices do.
        """
        if self.segmenter is None:
            raise ValueError("expected a segmenter with eval_dataset, got none.")
        share = slice(None) if self._sharded else slice(self.args.process_index, None, self.args.world_size)
        indices = range(len(self.eval_dataset))[share]
        training = self.model.training
        drawn = SHEET_IMAGES if self.args.should_save else 0
        with self.ema.applied(), answering(self.model), self.accelerator.autocast():
            result = validate(self.segmenter(self.model), map(self.eval_dataset.__getitem__, indices), drawn)
        self.model.train(training)
        return result

    @property
    def _sharded(self) -> bool:
        """Return whether a process alone can't run the model."""
        return self.is_fsdp_enabled or is_deepspeed_zero3_enabled()

    def _show(self, sheet: Path) -> None:
        """Add a contact sheet to TensorBoard."""
        with Image.open(sheet) as image:
            pixels = np.asarray(image)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_image("answers", pixels, self.state.global_step, dataformats="HWC")

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        super()._save_checkpoint(model, trial)
        directory = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self.ema.save(directory, self.args.should_save)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (directory / COMPLETE).touch()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what trains and buffers; frozen pretrained weights are where they came from."""
        state = trained_state(self.model)
        if self.args.should_save:
            directory = Path(output_dir or self.args.output_dir)
            directory.mkdir(parents=True, exist_ok=True)
            (directory / COMPLETE).unlink(missing_ok=True)
            save_file(state, directory / TRAINED)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        state = optimizer_state(self.model, self.optimizer.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        try:
            load_trained_state(self.model, load_file(Path(resume_from_checkpoint) / TRAINED))
        except ValueError as error:
            raise ValueError(f"{resume_from_checkpoint}: {error}") from None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.is_deepspeed_enabled or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        load_optimizer_state(self.model, self.optimizer.optimizer, state)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))


def last_checkpoint(output: Path) -> Path | None:
    """Return the newest complete checkpoint in a directory."""
    whole = [path for path in output.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if (path / COMPLETE).is_file()]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
