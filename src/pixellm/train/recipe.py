"""Recipes: one YAML file describes a published experiment completely."""

from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from pixellm.data.augment import Augmentation
from pixellm.data.mixture import SourceConfig
from pixellm.model import PixelLMConfig, PixelLMVisionConfig


@dataclass(frozen=True)
class VisionStage:
    """First stage: the pixel side alone (`vision.py`).

    Args:
        frozen: modules of the backbone that keep their pretrained weights.
        depthwise: whether its depthwise convolutions train.
        names: how many names each photograph is asked for at most.
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


@dataclass(frozen=True)
class AnswerStage:
    """Second stage: the whole model answers; the vision backbone and the language model's own weights stay.

    Args:
        learning_rate: of what is new in this stage.
        vision_learning_rate: of what the first stage trained.
        name_learning_rate: of the map from codebook states to names, which starts at a least-squares fit.
        questions: conversations per photograph.
    """

    steps: int
    batch_size: int
    learning_rate: float
    lora_learning_rate: float
    vision_learning_rate: float
    name_learning_rate: float
    questions: int
    warmup_steps: int = 40
    weight_decay: float = 0.0
    save_steps: int = 50


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on every linear layer of the language model."""

    rank: int
    alpha: float


@dataclass(frozen=True)
class Recipe:
    """A whole experiment; `directory` is where its file lies.

    Args:
        model: fields of `PixelLMConfig`, with `vision` for those of `PixelLMVisionConfig`.
    """

    name: str
    data_root: Path
    sources: tuple[SourceConfig, ...]
    model: dict[str, Any]
    lora: Lora
    vision_stage: VisionStage
    answer_stage: AnswerStage
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        ValueError: no such file, malformed YAML, an unknown or a missing field.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"expected a recipe at {path} ({error.strerror}). See recipes/ for those published.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a mapping of the recipe's fields, got {type(data).__name__}.")
    nested = {"vision_stage": VisionStage, "answer_stage": AnswerStage, "lora": Lora, "augmentation": Augmentation}
    for name, kind in nested.items():
        if name in data:
            data[name] = _build(kind, data[name], f"{path}: {name}")
    data["sources"] = tuple(
        _build(SourceConfig, source, f"{path}: sources[{i}]") for i, source in enumerate(data.get("sources") or [])
    )
    recipe = _build(Recipe, data, str(path))
    settings = {key: value for key, value in recipe.model.items() if key != "vision"}
    _check_names(settings, set(signature(PixelLMConfig).parameters) - {"kwargs"}, f"{path}: model")
    _check_names(
        recipe.model.get("vision", {}), set(signature(PixelLMVisionConfig).parameters) - {"kwargs"}, f"{path}: vision"
    )
    if not recipe.sources:
        raise ValueError(f"{path}: expected at least one source, got none.")
    return _build(Recipe, {**data, "data_root": (path.parent / recipe.data_root).resolve()}, str(path))


def _build(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected a mapping, got {values!r}.")
    _check_names(values, {f.name for f in fields(kind)}, where)
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None


def _check_names(values: dict, known: set[str], where: str) -> None:
    if unknown := sorted(set(values) - known, key=str):
        nearest = {name: get_close_matches(str(name), known, n=1) for name in unknown}
        hints = [f"{name} (did you mean {match[0]}?)" if match else f"{name}" for name, match in nearest.items()]
        raise ValueError(f"{where}: unknown fields {', '.join(hints)}. Known: {', '.join(sorted(known))}.")
