"""Training by a recipe to its end, resumed from the last whole checkpoint.

recipe → data sets, model → adapters → PixelLMTrainer → a model directory, adapters merged
"""

import gc
import json
import logging
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from pixellm.checkpoints.lora import merge_trained
from pixellm.data.catalogue import open_data
from pixellm.data.mixture import ChatSamples, LengthBatches, Mixture
from pixellm.eval.comparison import RUN
from pixellm.train.features import keep_features
from pixellm.train.model_kind import KnownModels, ModelKind, NewModel, WholeModel, adapt, has_tied_embeddings
from pixellm.train.progress import RichProgress
from pixellm.train.recipe import AdapterConfig, ModelSource, Recipe, TrainingData, TrainingStage
from pixellm.train.state import trained_state
from pixellm.train.summary import summary
from pixellm.train.trainer import ANSWER_BUDGET, Collator, PixelLMTrainer
from pixellm.utils.files import atomic_directory, write_text
from pixellm.utils.model_files import read_config, read_json
from pixellm.utils.weights import without_progress_bars

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
LENGTH_SAMPLES = 32  # the longest row of so many samples stands for a long one, to estimate memory
# Fine-tuning: epochs, and no fewer steps than let the rate rise and fall.
TUNING_EPOCHS, TUNING_MIN_STEPS, TUNING_BATCH = 6, 60, 8


def fine_tune(
    data: Path, model: str, output: Path, known: KnownModels, steps: int | None = None, restart: bool = False
) -> Path:
    """Train a model further on one's own data by a `tuning_recipe`, from the last checkpoint or with `restart` anew.

    Returns:
        The directory of the model.
    """
    prepare_output(output, restart)
    return train(tuning_recipe(data, model, output.name, known, steps), output, known)


def tuning_recipe(data: Path, model: str, name: str, known: KnownModels, steps: int | None = None) -> Recipe:
    """Return a recipe for training a model on one's own data, with settings that suit a few images.

    Args:
        data: a JSONL file, see `pixellm.data.jsonl`.
        model: initial weights; see `ModelSource.model`.
        name: of the recipe.
        known: what names stand for.
        steps: optimiser steps; by default six epochs, at least 60.
    """
    count = len(open_data(str(data), data.parent))
    config = read_config(known.resolve(model))
    tuning = known.kind_of(config).tuning(config)
    stage = TrainingStage(
        steps=steps or max(TUNING_MIN_STEPS, TUNING_EPOCHS * count // TUNING_BATCH),
        batch_size=TUNING_BATCH,
        device_batch_size=TUNING_BATCH // 2,
        learning_rate=1e-3,
        warmup_steps=10,
        weight_decay=0.01,
        rates=tuning.rates,
        max_length=tuning.max_length,
        trained=tuning.trained,
        save_steps=50,
        ema=0.98,
        group_labels="first",  # pixellm-mini was never trained on the others, which would outweigh all other losses
    )
    mixture = TrainingData({str(data): 1.0}, data.parent)
    return Recipe(name, ModelSource(model), mixture, stage)


def train(recipe: Recipe, output: Path, known: KnownModels) -> Path:
    """Train on data sets of records; checkpoints go to `output`, the result to `output/model`."""
    result = output / "model"
    _check_run(recipe, output)
    if result.exists():
        logger.info("%s is there already and was not trained again; --restart begins anew", result)
        return result
    data, stage = recipe.data, recipe.stage
    per_step = _batches_per_step(stage)
    _describe_run(recipe, output, {})
    mixture = open_mixture(data, recipe.seed)
    source = known.open(recipe.initialise)
    model, processor = _initialise(source, recipe)
    codebook_ids = source.kind.codebook_ids(model.config)
    samples = ChatSamples(mixture, data.chat, len(codebook_ids))
    longest = round(max(samples.length(i) for i in range(LENGTH_SAMPLES)))
    longest += source.kind.num_prefix_tokens(processor)
    length = min(longest, stage.max_length or longest)
    for line in summary(model, source.kind.text_module(model), list(data.sets), mixture.plan, stage, length):
        logger.info(line)
    progress = RichProgress()
    trainer = PixelLMTrainer(
        model,
        _arguments(recipe, output / "checkpoints"),
        train_dataset=samples,
        eval_dataset=_held_out(recipe.validation),
        data_collator=Collator(processor, stage.max_length, codebook_ids[1:] if stage.group_labels == "first" else ()),
        batches=LengthBatches(samples.length, stage.steps, stage.device_batch_size, per_step),
        learning_rates=dict(stage.rates),
        ema=stage.ema,
        shardable=source.kind.shardable,
        loss_weights=source.kind.loss_weights(model, stage.losses),
        segmenter=lambda trained: source.kind.segmenter(trained, processor, ANSWER_BUDGET),
        callbacks=[progress],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.fit()
    finally:
        progress.bar.stop()  # it hides the cursor
    trained, metrics, saves = trained_state(trainer.model), trainer.metrics, trainer.args.should_save
    del trainer, model  # the result is made of the initial weights: both need not be there at once
    gc.collect()
    if saves:
        _describe_run(recipe, output, metrics)
        unset_hf_deepspeed_config()  # or this process would wait for the others to share the model with
        _save(source, recipe, trained, result)
    logger.info("the model is in %s", result)
    return result


def _initialise(source: WholeModel | NewModel, recipe: Recipe) -> tuple[Any, Any]:
    """Return the model that is to be trained, adapters inserted, and its processor."""
    stage, quantize = recipe.stage, recipe.lora.quantize
    if quantize:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, processor = source.load_quantised(quantize, torch.bfloat16 if stage.bf16 else torch.float32, device)
    else:
        model, processor = source.load(recipe.seed)
    torch.manual_seed(recipe.seed)  # adapters are drawn the same whatever ran in this process before
    prepare(model, source.kind, stage, recipe.lora)
    keep_features(model, source.kind, recipe.features)
    if stage.compile:
        source.kind.text_module(model).base_model.compile(dynamic=True)
    return model, processor


def prepare(model: Any, kind: ModelKind, stage: TrainingStage, adapters: AdapterConfig) -> None:
    """Bring a model's parts to the precision that they train in, insert adapters, and freeze the rest."""
    text_module = kind.text_module(model)
    for module in model.children():
        if module is not text_module:
            module.to(torch.float32)
        elif adapters.quantize is None:  # else it was loaded so
            module.to(torch.bfloat16 if stage.bf16 else torch.float32)
    adapt(model, kind, adapters, kind.trained_parts(model.config) if stage.trained is None else stage.trained)
    if stage.gradient_checkpointing:
        # transformers has renamed it since 5.20; the old name warns.
        enable: Any = getattr(text_module, "activation_checkpointing_enable", None)
        (enable or text_module.gradient_checkpointing_enable)({"use_reentrant": False})


def _held_out(data: TrainingData | None) -> ChatSamples | None:
    """Return the samples of a validation, the same for every seed."""
    return data and ChatSamples(open_mixture(data, seed=0), replace(data.chat, mask_stride=1))


def open_mixture(data: TrainingData, seed: int) -> Mixture:
    """Open the data sets of a recipe."""
    datasets = [open_data(name, data.root, data.max_bad_fraction) for name in data.sets]
    return Mixture.of(datasets, tuple(data.sets.values()), data.epoch_length, seed)


def _check_run(recipe: Recipe, output: Path) -> None:
    """Raise a ValueError if the directory holds a run of another recipe, or with another seed."""
    if (output / RUN).is_file():
        held = read_json(output / RUN)["recipe"]
        if (held["name"], held["seed"]) != (recipe.name, recipe.seed):
            raise ValueError(
                f"{output}: expected a run of {recipe.name} with the seed {recipe.seed}, got one of {held['name']} "
                f"with the seed {held['seed']}. Choose another --out, or begin anew with --restart."
            )


def _describe_run(recipe: Recipe, output: Path, metrics: dict[str, float]) -> None:
    """Write the recipe of this run, and at the end its metrics."""
    if os.environ.get("RANK", "0") == "0":
        run = {"recipe": asdict(recipe), "metrics": metrics}
        write_text(output / RUN, json.dumps(run, indent=2, default=str) + "\n")


def prepare_output(output: Path, restart: bool) -> None:
    """Create the run's directory, emptied for a restart.

    Raises:
        ValueError: a restart on several processes, which would empty each other's.
    """
    if restart and output.exists():
        if processes() > 1:
            raise ValueError(f"--restart: expected one process, got several. Delete {output} and start without it.")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)


def _save(source: WholeModel | NewModel, recipe: Recipe, trained: dict[str, torch.Tensor], result: Path) -> None:
    """Write the initial model with what was trained merged into it."""
    model, processor = source.load(recipe.seed)
    tied = has_tied_embeddings(model)
    base = {key: tensor for key, tensor in model.state_dict().items() if not (tied and "lm_head" in key)}
    rows = source.kind.codebook_ids(model.config)
    model.load_state_dict(merge_trained(base, trained, recipe.lora.alpha, rows), strict=False)
    with atomic_directory(result) as directory, without_progress_bars():
        model.save_pretrained(directory)
        processor.save_pretrained(directory)


def processes() -> int:
    """Return the number of processes that train together, as torchrun and accelerate set it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _batches_per_step(stage: TrainingStage) -> int:
    """Return the batches of a step on all processes; raise a ValueError if they can't share it evenly."""
    if stage.batch_size % (stage.device_batch_size * processes()):
        raise ValueError(
            f"batch_size: expected a multiple of device_batch_size × processes = {stage.device_batch_size} × "
            f"{processes()}, got {stage.batch_size}. Change one of them."
        )
    return stage.batch_size // stage.device_batch_size


def _arguments(recipe: Recipe, output: Path) -> TrainingArguments:
    stage = recipe.stage
    return TrainingArguments(
        output_dir=str(output),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.device_batch_size,
        gradient_accumulation_steps=_batches_per_step(stage) // processes(),
        learning_rate=stage.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=stage.warmup_steps,
        weight_decay=stage.weight_decay,
        adam_beta1=stage.betas[0],
        adam_beta2=stage.betas[1],
        max_grad_norm=1.0,
        bf16=stage.bf16,
        seed=recipe.seed,
        logging_steps=min(stage.logging_steps, stage.steps),
        save_steps=stage.save_steps,
        eval_strategy="steps" if recipe.validation and stage.eval_steps else "no",
        eval_steps=stage.eval_steps or None,
        save_total_limit=KEPT_CHECKPOINTS,
        ignore_data_skip=True,  # the batches start where they have to
        ddp_find_unused_parameters=True,  # without a target the pixel decoder does nothing
        dataloader_num_workers=stage.workers,
        dataloader_prefetch_factor=2 if stage.workers else None,
        remove_unused_columns=False,
        report_to=["tensorboard"],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
