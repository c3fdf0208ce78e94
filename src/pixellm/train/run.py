"""`pixellm train RECIPE`: the stages of a recipe one after the other, each resumed where it was left."""

import logging
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from pixellm.data.coco import CocoSource
from pixellm.data.mixture import Mixture
from pixellm.embedded import fetch_language_model, fetch_vision_weights
from pixellm.model.assemble import assemble, save_trained
from pixellm.train.build import (
    TIMM_MEAN,
    TIMM_STD,
    adapt,
    build_config,
    build_model,
    build_processor,
    calibrate_codebook,
    fit_names,
    load_pixel_side,
    pixel_side,
)
from pixellm.train.dataset import Collator, ConversationSamples, naming_samples
from pixellm.train.recipe import AnswerStage, Recipe, VisionStage, load_recipe
from pixellm.train.trainer import PixelLMTrainer
from pixellm.train.vision import VisionPretraining, VisionSamples, collate_vision, freeze

logger = logging.getLogger(__name__)

CALIBRATION_SAMPLES = 16
# Parameters that the second stage finds trained.
FIRST_STAGE_PARTS = (
    *("vision_encoder", "pixel_projector", "neck", "pixel_decoder"),
    *("word_mix.to_pixels", "word_mix.to_prompts", "word_mix.prior_weight"),
)


def run(recipe_file: Path, output: Path | None = None, restart: bool = False) -> Path:
    """Train a recipe to the end and return the directory of the model, ready for `Predictor.load`.

    Args:
        recipe_file: see `Recipe`.
        output: where checkpoints and results go (`trained`: what was trained alone); by default `runs/NAME`.
        restart: begin anew instead of resuming.
    """
    recipe = load_recipe(recipe_file)
    output = output or Path("runs") / recipe.name
    if restart and output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    sources = [source.load(recipe.data_root) for source in recipe.sources]
    vocabulary = names_of(sources)
    seeing = output / "vision" / "pixel_side.safetensors"
    if not seeing.exists():
        train_vision(recipe, recipe.vision_stage, sources, vocabulary, seeing)
    trained = output / "trained"
    if not (trained / "config.json").exists():
        train_answers(recipe, recipe.answer_stage, sources, vocabulary, seeing, trained)
    model = output / "model"
    if not model.exists():
        partial = output / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        assemble(trained, fetch_language_model(), partial)
        partial.rename(model)
    logger.info("the model is in %s", model)
    return model


def names_of(sources: list[CocoSource]) -> list[str]:
    """Vocabulary of the dense classifier: names of which the sources also tell where they are not, sorted.

    A name that is only ever annotated where it is would soon be seen everywhere.
    """
    return sorted(frozenset[str]().union(*(source.known for source in sources if source.complete)))


def train_vision(
    recipe: Recipe, stage: VisionStage, sources: list[CocoSource], vocabulary: list[str], result: Path
) -> None:
    """First stage: what was trained goes to `result`."""
    torch.manual_seed(recipe.seed)
    config = build_config(recipe, build_processor(recipe), vocabulary)
    model = build_model(config, fetch_vision_weights())
    freeze(model.vision_encoder.backbone, stage.frozen, stage.depthwise)
    samples = VisionSamples(
        mixture=_mixture(recipe, sources, stage.steps * stage.batch_size),
        vocabulary=vocabulary,
        size=config.vision_config.image_size,
        grid=config.vision_config.grid_sizes[-1],
        names=stage.names,
        mean=TIMM_MEAN[0],
        std=TIMM_STD[0],
    )
    trainer = PixelLMTrainer(
        VisionPretraining(model),
        _arguments(stage, recipe, result.parent),
        train_dataset=samples,
        data_collator=collate_vision,
        learning_rates={"backbone": stage.backbone_learning_rate},
    )
    _fit(trainer)
    partial = result.with_suffix(".partial")
    save_file(pixel_side(model), partial)
    partial.rename(result)


def train_answers(
    recipe: Recipe, stage: AnswerStage, sources: list[CocoSource], vocabulary: list[str], seeing: Path, result: Path
) -> None:
    """Second stage, from the pixel side in the file `seeing`: what was trained goes to the directory `result`."""
    torch.manual_seed(recipe.seed)  # not the state that the first stage left, if it ran in this process
    processor = build_processor(recipe)
    config = build_config(recipe, processor, vocabulary)
    model = build_model(config, fetch_vision_weights())
    load_pixel_side(model, load_file(seeing))
    adapt(model, recipe.lora)
    with_questions = [(s, c.weight) for s, c in zip(sources, recipe.sources, strict=True) if _has_masks(s)]
    asked, weights = zip(*with_questions, strict=True)
    length = stage.steps * stage.batch_size
    samples = ConversationSamples(
        mixture=Mixture(asked, weights, length, recipe.augmentation, recipe.seed + 1),
        vocabulary=vocabulary,
        size=config.vision_config.image_size,
        grid=config.vision_config.grid_sizes[-1],
        questions=stage.questions,
    )
    collate = Collator(processor)
    calibrate_codebook(model, collate([samples[i] for i in range(min(CALIBRATION_SAMPLES, length))]))
    fit_names(model, map(collate, naming_samples(vocabulary, samples)))
    trainer = PixelLMTrainer(
        model,
        _arguments(stage, recipe, result.parent / "answer"),
        train_dataset=samples,
        data_collator=collate,
        learning_rates={
            "lora_": stage.lora_learning_rate,
            **dict.fromkeys(FIRST_STAGE_PARTS, stage.vision_learning_rate),
            "word_mix.to_names": stage.name_learning_rate,
        },
    )
    _fit(trainer)
    partial = result.with_suffix(".partial")
    save_trained(model, processor, recipe.lora.alpha, partial)
    partial.rename(result)


def _mixture(recipe: Recipe, sources: list[CocoSource], length: int) -> Mixture:
    return Mixture(sources, [source.weight for source in recipe.sources], length, recipe.augmentation, recipe.seed)


def _has_masks(source: CocoSource) -> bool:
    return any(photograph.things for photograph in (source[i] for i in range(min(3, len(source)))))


def _arguments(stage: VisionStage | AnswerStage, recipe: Recipe, output: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=stage.warmup_steps,
        weight_decay=stage.weight_decay,
        max_grad_norm=1.0,
        bf16=True,
        seed=recipe.seed,
        logging_steps=min(10, stage.steps),
        save_steps=stage.save_steps,
        save_total_limit=2,
        dataloader_num_workers=2,
        dataloader_prefetch_factor=2,
        dataloader_persistent_workers=True,
        remove_unused_columns=False,
        report_to=["tensorboard"],
        use_cpu=not torch.cuda.is_available(),
    )


def _fit(trainer: PixelLMTrainer) -> None:
    last = get_last_checkpoint(trainer.args.output_dir) if Path(trainer.args.output_dir).exists() else None
    if last:
        logger.info("resuming from %s", last)
    trainer.train(resume_from_checkpoint=last)
    trainer.save_state()
