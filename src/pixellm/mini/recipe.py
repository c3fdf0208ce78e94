"""Recipes of the embedded default, built from its parts on annotated images in stages."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from pixellm.data.coco import CocoSource
from pixellm.mini.augment import Augmentation
from pixellm.mini.configuration import MiniConfig, MiniVisionConfig
from pixellm.mini.losses import MiniLossWeights
from pixellm.train.model_kind import config_fields
from pixellm.train.recipe import AdapterConfig, build, check_names, fields_of

# Former places of fields, see `read_fields`.
RENAMED = {
    "vision_stage.average": "vision_stage.ema",
    **{f"model.{loss}_weight": f"losses.{loss}" for loss in ("bce", "dice", "overlap", "semantics")},
    "initialise.settings.semantics_weight": "stage.losses.semantics",
    **{
        f"{settings}.{former}": f"{settings}.{name}"
        for settings in ("model", "initialise.settings")
        for former, name in (("repeat_guard", "default_sampling.no_repeat_ngram_size"), ("word_skip", "embedding_skip"))
    },
}
OWN_FIELDS = {"vision_stage", "mask_stage", "refine_stage", "text_stage", "sources"}


@dataclass(frozen=True)
class SourceConfig:
    """One COCO-format source of a recipe; see `CocoSource` for the other fields.

    Args:
        weight: share of the samples.
        unseen: the dense classifier was not trained on it, see `MaskSamples`.
    """

    annotations: str
    images: str
    weight: float = 1.0
    captions: str | None = None
    complete: bool = True
    merged: bool = False
    unseen: bool = False

    def load(self, root: Path) -> CocoSource:
        captions = root / self.captions if self.captions else None
        return CocoSource(root / self.annotations, root / self.images, captions, self.complete, self.merged)


@dataclass(frozen=True)
class VisionStage:
    """First stage: the pixel side alone (`vision_stage.py`).

    Args:
        frozen: modules of the backbone that keep their pretrained weights.
        depthwise: whether its depthwise convolutions train.
        names: maximum number of categories that each image is asked for.
        ema: decay of an exponential moving average of the weights, which is the result (0: the last weights).
    """

    steps: int
    batch_size: int
    learning_rate: float
    backbone_learning_rate: float
    warmup_steps: int = 60
    weight_decay: float = 0.05
    save_steps: int = 100
    frozen: tuple[str, ...] = ()
    depthwise: bool = True
    names: int = 3
    ema: float = 0.0


@dataclass(frozen=True)
class MaskStage:
    """Second stage: masks of detections, with frozen encoders (`mask_stage.py`).

    Args:
        sources: images with a mask for each instance, or for each category.
    """

    steps: int
    batch_size: int
    learning_rate: float
    sources: Annotated[tuple[Annotated[SourceConfig, fields_of(SourceConfig)], ...], Field(min_length=1)]
    warmup_steps: int = 40
    weight_decay: float = 0.02
    save_steps: int = 50
    ema: float = 0.0


@dataclass(frozen=True)
class RefineStage:
    """Third stage: corrections by simulated clicks, everything else frozen (`refine_stage.py`).

    Args:
        steps: of the training.
        batch_size: episodes of a step.
        clicks: of each episode.
        images: number of images, drawn from the sources by weight, that are encoded once and kept in files of 4 MB.
        sources: images with a mask for each instance, or for each category.
    """

    steps: int
    batch_size: int
    learning_rate: float
    images: int
    sources: Annotated[tuple[Annotated[SourceConfig, fields_of(SourceConfig)], ...], Field(min_length=1)]
    clicks: int = 4
    warmup_steps: int = 40
    weight_decay: float = 0.02
    save_steps: int = 100
    ema: float = 0.0


@dataclass(frozen=True)
class TextStage:
    """Last stage: the language model reasons about candidates, without images (`text_stage.py`).

    Args:
        learning_rate: of the candidates' tokens and the marks at category names.
        pointer_learning_rate: of the pointer, which starts near its end: a high rate destroys that (docs/LOG.md).
        questions: of each scene, at most.
        sources: images whose annotations are scenes among drawn ones; none: all scenes are drawn.
    """

    steps: int
    batch_size: int
    learning_rate: float
    lora_learning_rate: float
    pointer_learning_rate: float
    questions: int
    sources: tuple[Annotated[SourceConfig, fields_of(SourceConfig)], ...] = ()
    warmup_steps: int = 30
    weight_decay: float = 0.01
    save_steps: int = 50
    ema: float = 0.0


@dataclass(frozen=True)
class MiniRecipe:
    """The embedded default, from its parts.

    Args:
        model: fields of `MiniConfig`, with `vision` for those of `MiniVisionConfig`.
        initialise: directory of what an earlier run of the same sizes trained (its `trained`), as initial weights of
            all stages.
        held_out: sources that the classifier is not trained on, for `calibrate`; none: nothing is calibrated.
        detector: folder with NanoDet's weights, see `read_detector`; none: there is no detector, and no mask stage.
        vision_stage, mask_stage, refine_stage, text_stage: the stages; one that is none is left out.
        scale: sources for `calibrate_presence`, everyday scenes as users have them; none: those of `held_out`.
        recall: see `calibrate_presence`; none: the scale of scores stays as it is.
        losses: loss weights in place of the defaults of `MiniLossWeights`.
    """

    name: str
    data_root: Path
    sources: Annotated[tuple[Annotated[SourceConfig, fields_of(SourceConfig)], ...], Field(min_length=1)]
    model: dict[str, Any]
    lora: Annotated[AdapterConfig, fields_of(AdapterConfig)]
    vision_stage: Annotated[VisionStage | None, fields_of(VisionStage)] = None
    mask_stage: Annotated[MaskStage | None, fields_of(MaskStage)] = None
    refine_stage: Annotated[RefineStage | None, fields_of(RefineStage)] = None
    text_stage: Annotated[TextStage | None, fields_of(TextStage)] = None
    augmentation: Annotated[Augmentation, fields_of(Augmentation)] = Field(default_factory=Augmentation)
    seed: int = 0
    initialise: Path | None = None
    detector: Path | None = None
    held_out: tuple[Annotated[SourceConfig, fields_of(SourceConfig)], ...] = ()
    scale: tuple[Annotated[SourceConfig, fields_of(SourceConfig)], ...] = ()
    recall: float | None = None
    losses: Annotated[Mapping[str, float], fields_of(MiniLossWeights)] = Field(default_factory=dict)


def mini_recipe_of(values: Mapping[str, Any], path: Path) -> MiniRecipe:
    """Return the recipe of the fields in the file `path`; paths among them are relative to its directory.

    Raises:
        ValueError: an unknown or a missing field, or a value of another type.
    """
    recipe = build(Annotated[MiniRecipe, fields_of(MiniRecipe)], values, path)
    check_names(recipe.model, config_fields(MiniConfig) | {"vision"}, f"{path}: model: ")
    check_names(recipe.model.get("vision", {}), config_fields(MiniVisionConfig), f"{path}: model: vision: ")
    if recipe.mask_stage and not recipe.detector:
        raise ValueError(f"{path}: mask_stage: expected a detector beside it, got none. Name its folder in `detector`.")
    if recipe.refine_stage and not recipe.model.get("refine_width"):
        raise ValueError(f"{path}: refine_stage: expected refine_width in `model`, got none. Set it to 64.")
    paths = {"data_root": recipe.data_root, "initialise": recipe.initialise, "detector": recipe.detector}
    return replace(recipe, **{key: (path.parent / place).resolve() for key, place in paths.items() if place})
