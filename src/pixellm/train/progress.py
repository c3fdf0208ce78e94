"""Progress of a training on the terminal: steps, time left, losses, images and tokens per second."""

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

TIMED_STEPS = 5  # after the first, whose mean duration is printed


class RichProgress(TrainerCallback):
    """A bar on the first process; on anything but a terminal, a line for each log."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.ends: list[float] = []  # of the steps of this run
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        if state.is_world_process_zero:
            self.bar.start()
            self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step)
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        if state.is_world_process_zero:
            self.bar.update(self.task, completed=state.global_step)
            self._print_duration(state)
        return control

    def _print_duration(self, state: TrainerState) -> None:
        """Estimate the time left, once, after a few steps: the very first one prepares much that later ones reuse."""
        if len(self.ends) > TIMED_STEPS:
            return
        self.ends.append(time.monotonic())
        if len(self.ends) > TIMED_STEPS:
            seconds = (self.ends[-1] - self.ends[0]) / TIMED_STEPS
            left = timedelta(seconds=round(seconds * (state.max_steps - state.global_step)))
            self._print(state, f"{seconds:.3g} s a step, about {left} to go, evaluations not counted")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> TrainerControl:
        if not state.is_world_process_zero or not logs:
            return control
        metrics = {key.removeprefix("eval_"): value for key, value in logs.items() if key.startswith("eval_")}
        if metrics:
            self._print(state, "held out: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
        elif "loss" in logs:
            line = describe(logs)
            self.bar.update(self.task, description=line)
            if not self.console.is_terminal:
                self._print(state, line)
        return control

    def _print(self, state: TrainerState, text: str) -> None:
        self.console.print(f"step {state.global_step}/{state.max_steps}  {text}", highlight=False, soft_wrap=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        self.bar.stop()
        return control


def describe(logs: dict[str, float]) -> str:
    """Return a log as one line: the loss, its terms, and the speed."""
    terms = [f"{key.removeprefix('loss_')} {value:.3f}" for key, value in logs.items() if key.startswith("loss_")]
    speed = f"{logs['images_per_second']:.2f} images/s, {logs['tokens_per_second']:.0f} tokens/s"
    return f"loss {float(logs['loss']):.3f} ({', '.join(terms)})  {speed}"
