"""`pixellm train`: a recipe to its end, from where it was left.

recipe → data sets, model → adapters → PixelLMTrainer → a model directory, adapters merged
"""

import json
import logging
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig, PrinterCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from pixellm.baselines.lisa import LisaConfig
from pixellm.baselines.seem import SeemConfig, SeemForGrounding, SeemProcessor
from pixellm.checkpoints.lora import merge_trained
from pixellm.data.catalogue import open_data
from pixellm.data.mixture import LengthBatches, Mixture
from pixellm.eval.comparison import RUN
from pixellm.hub.models import resolve
from pixellm.mini.stages import train_mini
from pixellm.train import start
from pixellm.train.adapt import adapt, reader_of
from pixellm.train.collate import Collator
from pixellm.train.progress import RichProgress
from pixellm.train.recipe import Data, MiniRecipe, ModelStart, Recipe, Stage, load_recipe
from pixellm.train.samples import ChatSamples
from pixellm.train.state import trained_state
from pixellm.train.summary import summary
from pixellm.train.trainer import PixelLMTrainer
from pixellm.utils.files import atomic_directory, clear_leftovers, write_text
from pixellm.utils.weights import read_json

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
LOOKED_AT = 32  # samples whose longest row stands for a long one, to estimate memory
# Fine-tuning in one line: passes over the data, and no fewer steps than let the rate rise and fall.
PASSES, MIN_STEPS, TUNING_BATCH = 6, 60, 8


def run(recipe_file: Path, output: Path | None = None, restart: bool = False, seed: int | None = None) -> Path:
    """Train a recipe to the end and return the directory of the model, ready for `load_segmenter`.

    Args:
        recipe_file: see `recipe.py`.
        output: where checkpoints and results go; by default `runs/NAME`, with `seed` `runs/NAME-SEED`.
        restart: begin anew instead of resuming.
        seed: in place of the recipe's.
    """
    recipe = load_recipe(recipe_file)
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    output = output or Path("runs") / (recipe.name if seed is None else f"{recipe.name}-{seed}")
    _make_room(output, restart)
    return train_mini(recipe, output) if isinstance(recipe, MiniRecipe) else train(recipe, output)


def fine_tune(data: Path, model: str, output: Path, steps: int | None = None, restart: bool = False) -> Path:
    """Train a model further on one's own data (see `pixellm.data.jsonl`), with settings that suit a few photographs.

    Args:
        data: a JSONL file.
        model: what to start from; see `ModelStart.model`.
        output: where checkpoints and the resulting `model` go.
        steps: optimiser steps; by default six passes over the photographs, at least 60.
        restart: begin anew instead of resuming.

    Returns:
        The directory of the model.
    """
    _make_room(output, restart)
    count = len(open_data(str(data), data.parent))
    stage = Stage(
        steps=steps or max(MIN_STEPS, PASSES * count // TUNING_BATCH),
        batch_size=TUNING_BATCH,
        device_batch_size=TUNING_BATCH // 2,
        learning_rate=1e-3,
        warmup_steps=10,
        weight_decay=0.01,
        # The map to names reads states that are large: a higher rate destroys what it knows (docs/LOG.md).
        rates={"lora_": 2e-4, "word_mix.to_names": 1e-5},
        max_length=2048,
        trained=_tuned(AutoConfig.from_pretrained(resolve(model))),
        save_steps=50,
        average=0.98,
    )
    return train(Recipe(output.name, ModelStart(model), Data({str(data): 1.0}, data.parent), stage), output)


def _tuned(config: PreTrainedConfig) -> tuple[str, ...]:
    """What of a kind of model is trained further, besides adapters of its language model."""
    if isinstance(config, SeemConfig):
        return ("pixel_decoder", "decoder", "text_projection", "logit_scale")
    if isinstance(config, LisaConfig) and config.sam_vision_config is not None:
        return ("codebook", "pixel_decoder")
    return ("codebook", "pixel_decoder", "pixel_projector", "neck", "word_mix")


def train(recipe: Recipe, output: Path) -> Path:
    """Train on data sets of records; checkpoints go to `output`, the result to `output/model`."""
    result = output / "model"
    _check_run(recipe, output)
    if result.exists():
        logger.info("%s is there already and was not trained again; --restart begins anew", result)
        return result
    data, stage = recipe.data, recipe.stage
    per_step = _batches_per_step(stage)
    _describe_run(recipe, output, {})
    mixture = _open(data, recipe.seed)
    held_out = None
    if recipe.validation:  # the same questions for every seed
        whole = replace(recipe.validation.chat, mask_stride=1)
        held_out = ChatSamples(_open(recipe.validation, seed=0), whole)
    model, processor = start.load(recipe.start, recipe.seed)
    torch.manual_seed(recipe.seed)  # adapters are drawn the same whatever ran in this process before
    for part in model.children():
        part.to(torch.bfloat16 if stage.bf16 and part is reader_of(model) else torch.float32)
    adapt(model, recipe.lora, stage.trained)
    if stage.gradient_checkpointing:
        reader_of(model).gradient_checkpointing_enable({"use_reentrant": False})
    if stage.compile:
        reader_of(model).base_model.compile(dynamic=True)
    samples = ChatSamples(mixture, data.chat, len(_codebook_ids(model)))
    shared = 0 if isinstance(processor, SeemProcessor) else len(processor.prefix_ids)
    longest = shared + round(max(samples.length(i) for i in range(LOOKED_AT)))
    length = min(longest, stage.max_length or longest)
    for line in summary(model, list(data.sets), mixture.plan, stage, length):
        logger.info(line)
    progress = RichProgress()
    trainer = PixelLMTrainer(
        model,
        _arguments(recipe, output / "checkpoints"),
        train_dataset=samples,
        eval_dataset=held_out,
        data_collator=Collator(processor, stage.max_length),
        batches=LengthBatches(samples.length, stage.steps, stage.device_batch_size, per_step),
        learning_rates=dict(stage.rates),
        average=stage.average,
        processor=processor,
        callbacks=[progress],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.fit()
    finally:
        progress.bar.stop()  # it hides the cursor
    trained = trained_state(trainer.model)
    if trainer.args.should_save:
        _describe_run(recipe, output, trainer.figures)
        unset_hf_deepspeed_config()  # or this process would wait for the others to share the model with
        _save(recipe, trained, result)
    logger.info("the model is in %s", result)
    return result


def _open(data: Data, seed: int) -> Mixture:
    datasets = [open_data(name, data.root, data.max_bad_fraction) for name in data.sets]
    return Mixture.of(datasets, tuple(data.sets.values()), data.epoch_length, seed)


def _check_run(recipe: Recipe, output: Path) -> None:
    """A ValueError if the directory holds a run of another recipe, or with another seed."""
    if (output / RUN).is_file():
        held = read_json(output / RUN)["recipe"]
        if (held["name"], held["seed"]) != (recipe.name, recipe.seed):
            raise ValueError(
                f"{output}: expected a run of {recipe.name} with the seed {recipe.seed}, got one of {held['name']} "
                f"with the seed {held['seed']}. Choose another --out, or begin anew with --restart."
            )


def _describe_run(recipe: Recipe, output: Path, figures: dict[str, float]) -> None:
    """Write what is trained in this directory, and at the end how well it answers."""
    if os.environ.get("RANK", "0") == "0":
        told = {"recipe": asdict(recipe), "figures": figures}
        write_text(output / RUN, json.dumps(told, indent=2, default=str) + "\n")


def _make_room(output: Path, restart: bool) -> None:
    """The run's directory, emptied for a restart; a ValueError on several processes, which would empty each other's."""
    if restart and output.exists():
        if _processes() > 1:
            raise ValueError(f"--restart: expected one process, got several. Delete {output} and start without it.")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)


def _save(recipe: Recipe, trained: dict[str, torch.Tensor], result: Path) -> None:
    """What training started from, with what was trained put into it."""
    model, processor = start.load(recipe.start, recipe.seed)
    tied = model.config.text_config.tie_word_embeddings
    base = {key: tensor for key, tensor in model.state_dict().items() if not (tied and "lm_head" in key)}
    model.load_state_dict(merge_trained(base, trained, recipe.lora.alpha, _codebook_ids(model)), strict=False)
    clear_leftovers(result)
    with atomic_directory(result) as directory:
        model.save_pretrained(directory)
        processor.save_pretrained(directory)


def _codebook_ids(model: start.Model) -> list[int]:
    """What SEEM-style has none of."""
    return [] if isinstance(model, SeemForGrounding) else model.config.codebook_ids


def _processes() -> int:
    """How many train together, as torchrun and accelerate say."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _batches_per_step(stage: Stage) -> int:
    """Batches of a step on all processes; a ValueError if they can't share it evenly."""
    if stage.batch_size % (stage.device_batch_size * _processes()):
        raise ValueError(
            f"batch_size: expected a multiple of device_batch_size × processes = {stage.device_batch_size} × "
            f"{_processes()}, got {stage.batch_size}. Change one of them."
        )
    return stage.batch_size // stage.device_batch_size


def _arguments(recipe: Recipe, output: Path) -> TrainingArguments:
    stage = recipe.stage
    return TrainingArguments(
        output_dir=str(output),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.device_batch_size,
        gradient_accumulation_steps=_batches_per_step(stage) // _processes(),
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
