"""The stages of a `MiniRecipe` one after the other, each resumed where it was left."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from pixellm.checkpoints.assemble import assemble, load_partial_checkpoint, save_partial_checkpoint
from pixellm.data.coco import CocoSource
from pixellm.data.mixture import LengthBatches, Mixture
from pixellm.data.records import AnnotatedImage, Record
from pixellm.mini.augment import AugmentedImages
from pixellm.mini.build import (
    TIMM_MEAN,
    TIMM_STD,
    build_config,
    build_model,
    build_processor,
    known_names,
    load_pixel_side,
    pixel_side,
)
from pixellm.mini.calibrate import calibrate_detector, calibrate_presence
from pixellm.mini.kind import MiniKind
from pixellm.mini.losses import MiniLossWeights
from pixellm.mini.mask_stage import MaskSamples, MaskTraining, collate_masks
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.mini.parts import fetch_language_model, fetch_vision_weights
from pixellm.mini.recipe import MaskStage, MiniRecipe, RefineStage, SourceConfig, TextStage, VisionStage
from pixellm.mini.refine_cache import cache_images
from pixellm.mini.refine_stage import Episodes, RefineTraining, collate_episodes
from pixellm.mini.scenes import Scene, scene_of
from pixellm.mini.text_stage import SceneCollator, SceneSamples, SceneTraining
from pixellm.mini.vision_stage import VisionPretraining, VisionSamples, collate_vision, freeze
from pixellm.model import PixelLMProcessor
from pixellm.train.model_kind import adapt
from pixellm.train.trainer import PixelLMTrainer
from pixellm.utils.files import atomic_directory, atomic_write

logger = logging.getLogger(__name__)

CENTRE_SAMPLES = 4  # scenes whose states and candidates the pointer starts around
HELD_OUT_IMAGES = 300  # of each source, for the calibration of presence
# Weights that the vision stage, and checkpoints from before the detector or the refiner, lack.
DETECTOR_PARTS = ("vision_encoder.detector.", "instances.", "refiner.")
# Parts that the text stage trains, beside adapters of the language model and the codebook's tokens.
TEXT_PARTS = ("candidate_tokens", "mentions", "pointer")


def train_mini(recipe: MiniRecipe, output: Path) -> Path:
    """Train the stages of a recipe one after the other, each resumed where it was left.

    Args:
        recipe: see `MiniRecipe`.
        output: where checkpoints and results go: `trained` (what was trained alone) and `model`, which is returned.
    """
    sources = [source.load(recipe.data_root) for source in recipe.sources]
    vocabulary = names_of(sources)
    seeing = output / "vision" / "pixel_side.safetensors"
    if recipe.vision_stage and not seeing.exists():
        train_vision(recipe, recipe.vision_stage, sources, vocabulary, seeing)
    masks = output / "masks" / "mask_head.safetensors"
    if recipe.mask_stage and not masks.exists():
        train_masks(recipe, recipe.mask_stage, vocabulary, seeing, masks)
    refiner = output / "refinement" / "refiner.safetensors"
    if recipe.refine_stage and not refiner.exists():
        train_refiner(recipe, recipe.refine_stage, vocabulary, seeing, masks, refiner)
    trained = output / "trained"
    if not (trained / "config.json").exists():
        train_texts(recipe, vocabulary, seeing, masks, refiner, trained)
    model = output / "model"
    if not model.exists():
        with atomic_directory(model) as directory:
            assemble(trained, fetch_language_model(), directory)
    logger.info("the model is in %s", model)
    return model


def names_of(sources: list[CocoSource]) -> list[str]:
    """Vocabulary of the dense classifier: names of which the sources also tell where they are not, sorted.

    A name that is only ever annotated where it is would soon be seen everywhere.
    """
    return sorted(frozenset[str]().union(*(source.categories for source in sources if source.complete)))


def train_vision(
    recipe: MiniRecipe, stage: VisionStage, sources: list[CocoSource], vocabulary: list[str], result: Path
) -> None:
    """First stage, without a detector: what was trained goes to `result`."""
    torch.manual_seed(recipe.seed)
    recipe = replace(recipe, detector=None)
    config = build_config(recipe, build_processor(recipe), vocabulary)
    model = build_model(config, fetch_vision_weights(), None)
    if recipe.initialise:
        load_partial_checkpoint(model, recipe.initialise, DETECTOR_PARTS)
    freeze(model.vision_encoder.backbone, stage.frozen, stage.depthwise)
    weights = [source.weight for source in recipe.sources]
    mixture = Mixture.of(sources, weights, stage.steps * stage.batch_size, recipe.seed)
    samples = VisionSamples(
        images=AugmentedImages(mixture, recipe.augmentation),
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
        batches=LengthBatches(same_length, stage.steps, stage.batch_size),
        learning_rates={"backbone": stage.backbone_learning_rate},
        ema=stage.ema,
        shardable=MiniKind.shardable,
        loss_weights=MiniLossWeights(**recipe.losses),
    )
    trainer.fit()
    with atomic_write(result) as temporary:
        save_file(pixel_side(model), temporary)


def train_masks(recipe: MiniRecipe, stage: MaskStage, vocabulary: list[str], seeing: Path, result: Path) -> None:
    """Stage of the detections' masks, with the encoders of earlier stages: the mask head goes to `result`."""
    torch.manual_seed(recipe.seed)
    config = build_config(recipe, build_processor(recipe), vocabulary)
    model = build_model(config, fetch_vision_weights(), recipe.detector)
    load_earlier(model, recipe, seeing, None)
    sources = [source.load(recipe.data_root) for source in stage.sources]
    weights = [source.weight for source in stage.sources]
    mixture = Mixture.of(sources, weights, stage.steps * stage.batch_size, recipe.seed + 2)
    samples = MaskSamples(
        images=AugmentedImages(mixture, recipe.augmentation),
        classes=config.vision_config.detector_classes,
        size=config.vision_config.image_size,
        unseen=[source.unseen for source in stage.sources],
        mean=TIMM_MEAN[0],
        std=TIMM_STD[0],
    )
    _fit_head(MaskTraining(model), recipe, stage, samples, collate_masks, result.parent)
    with atomic_write(result) as temporary:
        save_file(model.instances.mask_head.state_dict(), temporary)


def train_refiner(
    recipe: MiniRecipe, stage: RefineStage, vocabulary: list[str], seeing: Path, masks: Path, result: Path
) -> None:
    """Stage of corrections by clicks, with all that earlier stages trained frozen: the refiner goes to `result`."""
    torch.manual_seed(recipe.seed)
    processor = build_processor(recipe)
    model = build_model(build_config(recipe, processor, vocabulary), fetch_vision_weights(), recipe.detector)
    load_earlier(model, recipe, seeing, masks)
    sources = [source.load(recipe.data_root) for source in stage.sources]
    mixture = Mixture.of(sources, [source.weight for source in stage.sources], stage.images, recipe.seed + 3)
    paths = cache_images(model.eval(), processor.image_processor, mixture, result.parent / "images")
    episodes = Episodes(paths, stage.steps * stage.batch_size, recipe.seed)
    _fit_head(RefineTraining(model.refiner, stage.clicks), recipe, stage, episodes, collate_episodes, result.parent)
    with atomic_write(result) as temporary:
        save_file(model.refiner.state_dict(), temporary)


def _fit_head(
    training: nn.Module,
    recipe: MiniRecipe,
    stage: MaskStage | RefineStage,
    samples: Dataset,
    collate: Callable[[list[Any]], dict[str, Any]],
    folder: Path,
) -> None:
    """Train the head of a stage in fp32, with one learning rate; checkpoints go to `folder`."""
    trainer = PixelLMTrainer(
        training,
        _arguments(stage, recipe, folder, bf16=False),
        train_dataset=samples,
        data_collator=collate,
        batches=LengthBatches(same_length, stage.steps, stage.batch_size),
        learning_rates={},
        ema=stage.ema,
        shardable=MiniKind.shardable,
        loss_weights=MiniLossWeights(**recipe.losses),
    )
    trainer.fit()


def load_earlier(model: MiniForConditionalGeneration, recipe: MiniRecipe, seeing: Path, masks: Path | None) -> None:
    """Load what the recipe starts from, and what its stages so far left in the files `seeing` and `masks`."""
    if recipe.initialise:
        load_partial_checkpoint(model, recipe.initialise, DETECTOR_PARTS)
    if seeing.exists():
        load_pixel_side(model, load_file(seeing), DETECTOR_PARTS)
    if masks is not None and masks.exists():
        model.instances.mask_head.load_state_dict(load_file(masks))


def train_texts(
    recipe: MiniRecipe, vocabulary: list[str], seeing: Path, masks: Path, refiner: Path, result: Path
) -> None:
    """Last stage, from the files that the others left; what was trained goes to `result`."""
    torch.manual_seed(recipe.seed)  # not the state that an earlier stage left, if it ran in this process
    processor = build_processor(recipe)
    model = build_model(build_config(recipe, processor, vocabulary), fetch_vision_weights(), recipe.detector)
    adapt(model, MiniKind(), recipe.lora, TEXT_PARTS)
    load_earlier(model, recipe, seeing, masks)
    if refiner.exists():
        model.refiner.load_state_dict(load_file(refiner))
    if recipe.text_stage:
        fit_texts(model, processor, recipe, recipe.text_stage, result.parent / "texts")
    if recipe.held_out:
        if recipe.detector:
            calibrate_detector(model, processor, _images(recipe, recipe.held_out))
        if recipe.recall is not None:
            calibrate_presence(model, processor, _images(recipe, recipe.scale or recipe.held_out), recipe.recall)
    with atomic_directory(result) as directory:
        save_partial_checkpoint(model, processor, recipe.lora.alpha, directory)


def fit_texts(
    model: MiniForConditionalGeneration, processor: PixelLMProcessor, recipe: MiniRecipe, stage: TextStage, output: Path
) -> None:
    """Train a model with adapters on questions about scenes."""
    count = model.config.num_candidates
    samples = SceneSamples(
        length=stage.steps * stage.batch_size,
        questions=stage.questions,
        count=count,
        annotated=[scene for source in stage.sources for scene in scenes(source.load(recipe.data_root))],
        seed=recipe.seed,
    )
    training, collate = (
        SceneTraining(model),
        SceneCollator(processor, count, known_names(model.config.vision_config.vocabulary)),
    )
    if not model.pointer.state_centre.any():  # it is new
        training.centre_pointer(**collate([samples[index] for index in range(min(CENTRE_SAMPLES, len(samples)))]))
    trainer = PixelLMTrainer(
        training,
        _arguments(stage, recipe, output, bf16=False),
        train_dataset=samples,
        data_collator=collate,
        learning_rates={"lora_": stage.lora_learning_rate, "pointer.": stage.pointer_learning_rate},
        batches=LengthBatches(same_length, stage.steps, stage.batch_size),
        ema=stage.ema,
        shardable=MiniKind.shardable,
        loss_weights=MiniLossWeights(**recipe.losses),
    )
    trainer.fit()


def scenes(source: CocoSource) -> list[Scene]:
    """Return the scenes that the annotations of a source describe."""
    return [scene_of(source[index].decode()) for index in range(len(source))]


def _images(recipe: MiniRecipe, sources: Sequence[SourceConfig]) -> list[AnnotatedImage]:
    records = chain.from_iterable(evenly(source.load(recipe.data_root)) for source in sources)
    return [record.decode() for record in records]


def evenly(source: CocoSource) -> list[Record]:
    """Return at most `HELD_OUT_IMAGES` records, from the whole of a source."""
    count = min(len(source), HELD_OUT_IMAGES)
    return [source[index * len(source) // count] for index in range(count)]


def same_length(_: int) -> float:
    """Return the same length for all images: batches stay as they are drawn."""
    return 0.0


def _arguments(
    stage: VisionStage | MaskStage | RefineStage | TextStage, recipe: MiniRecipe, output: Path, bf16: bool = True
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=stage.warmup_steps,
        weight_decay=stage.weight_decay,
        max_grad_norm=1.0,
        bf16=bf16,
        seed=recipe.seed,
        logging_steps=min(10, stage.steps),
        save_steps=stage.save_steps,
        save_total_limit=2,
        ignore_data_skip=True,  # the batches start where they have to
        dataloader_num_workers=2,
        dataloader_prefetch_factor=2,
        remove_unused_columns=False,
        report_to=["tensorboard"],
        use_cpu=not torch.cuda.is_available(),
    )
