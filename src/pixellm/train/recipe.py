"""Recipes: one YAML file describes a published experiment completely.

A recipe trains a model on data sets of records in one stage, from a whole model or from a base language model and a
CLIP encoder. The embedded default has recipes of its own (`pixellm.mini.recipe`).
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from pixellm.data.catalogue import INSTANCES
from pixellm.data.chat import Chat
from pixellm.data.datasets import MAX_BAD_FRACTION
from pixellm.inference.quantization import Quantize
from pixellm.utils.sizes import bytes_of

logger = logging.getLogger(__name__)

# Former place of a field in a recipe → its place.
RENAMED = {
    "start": "initialise",
    "stage.average": "stage.ema",
    "initialise.settings.overlap_weight": "stage.losses.overlap",
}


def fields_of(kind: type) -> BeforeValidator:
    """Return a check that a mapping has only fields of the dataclass `kind`."""

    def check(values: Any) -> Any:
        if isinstance(values, Mapping):  # else pydantic says what is wrong
            check_names(values, {field.name for field in fields(kind)})
        return values

    return BeforeValidator(check)


@dataclass(frozen=True)
class AdapterConfig:
    """Low-rank adapters of the language model.

    Args:
        rank, alpha: the update is alpha / rank · B·A; rank 0: no adapters, the language model itself trains.
        targets: names of the linear layers that get one; by default every linear layer of a LLaMA block.
        dropout: share of an adapter's inputs that is dropped in training.
        quantize: precision of the language model's frozen linear layers (QLoRA, arXiv 2305.14314); None: see `bf16`.
    """

    rank: int = 8
    alpha: float = 16
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    dropout: float = 0.0
    quantize: Quantize | None = None

    def __post_init__(self) -> None:
        if self.quantize and self.rank == 0:
            raise ValueError("lora: expected a rank above 0 with quantize, got 0. Quantised weights don't train.")


@dataclass(frozen=True)
class ModelSource:
    """Initial weights: a whole model, or its parts, with everything else new.

    Args:
        model: a name of `pixellm models list`, a Hugging Face Hub id, or a directory; all its modules are kept.
        preset: name in `pixellm.hub.presets`, for parts: the kind of model, and the sizes of everything that is not
            theirs.
        language_model: Hub id or directory of a causal LM with its tokenizer, or the embedded smollm2-135m-instruct;
            `settings: {text_config: {num_hidden_layers: n}}` takes its first n layers. SEEM-style has it, or CLIP's
            text side, for a text encoder.
        vision_model: Hub id or directory of a CLIP-ViT; or pixellm-mini or a directory of a PixelLM model, whose vision
            encoder is taken, and if the sizes are the same, the projectors, the neck and the class embeddings.
        sam_model: for a LISA with a SAM of its own: Hub id or directory of it, in transformers' format.
        settings: fields of the preset's configuration that differ from the model's or the preset's.
    """

    model: str | None = None
    preset: str | None = None
    language_model: str | None = None
    vision_model: str | None = None
    sam_model: str | None = None
    settings: Mapping[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class TrainingData:
    """Mixture of data sets.

    Args:
        sets: weight of each data set; a name of `pixellm data layout`, or a file of one's own (`*.jsonl`, `*.json`; see
            `open_data`).
        root: the data root.
        epoch_length: samples of an epoch; 0: as many as there are records.
        chat: see `Chat`.
        max_bad_fraction: a larger share of bad records is an error.
    """

    sets: Mapping[str, float]
    root: Path = Path("dataset")
    epoch_length: int = 0
    chat: Annotated[Chat, fields_of(Chat)] = Field(default_factory=Chat)
    max_bad_fraction: float = MAX_BAD_FRACTION


@dataclass(frozen=True)
class TrainingStage:
    """Optimisation.

    Args:
        steps: optimiser steps.
        batch_size: images of a step, over all processes.
        learning_rate, warmup_steps, weight_decay: of AdamW; the rate falls linearly to 0 after warming up.
        device_batch_size: images that a process takes at once; the rest of a step is accumulated.
        betas: of AdamW.
        rates: learning rates of parts, by a part of their parameters' names.
        max_length: maximum tokens of a row; longer ones are shortened after a codebook group. None: no limit.
        trained: prefixes of the parameters that train, besides the adapters. None: those of the kind of model
            (`ModelKind.trained_parts`).
        bf16: compute in bfloat16; what trains is kept in float32.
        gradient_checkpointing: compute activations of the language model again rather than keep them.
        compile: compile the language model with torch.compile.
        save_steps, logging_steps, eval_steps: steps between checkpoints, between logs of the losses, and between
            evaluations (0: only at the end).
        workers: processes that read data.
        ema: decay of an exponential moving average of the weights, which is the result (0: the last weights).
        losses: loss weights in place of the model's `default_loss_weights`.
        group_labels: tokens of a codebook group that the text loss counts: "all" as the paper's, or the "first" alone,
            which is the only one that an answer's decoding asks for.
    """

    steps: int
    batch_size: int
    learning_rate: float
    device_batch_size: int = 2
    warmup_steps: int = 100
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    rates: Mapping[str, float] = Field(default_factory=dict)
    max_length: int | None = None
    trained: tuple[str, ...] | None = None
    bf16: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False
    save_steps: int = 500
    logging_steps: int = 10
    eval_steps: int = 0
    workers: int = 2
    ema: float = 0.0
    losses: Mapping[str, float] = Field(default_factory=dict)
    group_labels: Literal["all", "first"] = "all"


@dataclass(frozen=True)
class FeatureSettings:
    """Features of a frozen vision encoder on disk: each image is encoded once, then read.

    Args:
        cache: directory, which several runs and processes may share; None: each image is encoded whenever it comes.
        limit: bytes of the directory, like 20GB; what was read longest ago is deleted first.
    """

    cache: Path | None = None
    limit: str = "20GB"

    def __post_init__(self) -> None:
        bytes_of(self.limit)


@dataclass(frozen=True)
class Recipe:
    """An experiment on data sets of records.

    Args:
        initialise, data, stage, lora, features: see there.
        validation: held-out images with fixed questions, answered by generating while the model trains and at the end;
            its epoch_length is their number.
        seed: of everything random.
    """

    name: str
    initialise: Annotated[ModelSource, fields_of(ModelSource)]
    data: Annotated[TrainingData, fields_of(TrainingData)]
    stage: Annotated[TrainingStage, fields_of(TrainingStage)]
    lora: Annotated[AdapterConfig, fields_of(AdapterConfig)] = Field(default_factory=AdapterConfig)
    validation: Annotated[TrainingData, fields_of(TrainingData)] | None = None
    seed: int = 0
    features: Annotated[FeatureSettings, fields_of(FeatureSettings)] = Field(default_factory=FeatureSettings)


def recipe_of(values: dict[str, Any], path: Path) -> Recipe:
    """Return the recipe of the fields in the file `path`; paths among them are relative to its directory.

    Raises:
        ValueError: an unknown or a missing field, or a value of another type.
    """
    _move_loss_weights(values, path)
    recipe = build(Annotated[Recipe, fields_of(Recipe)], values, path)
    source = recipe.initialise
    parts = {
        key: _absolute(getattr(source, key), path.parent)
        for key in ("model", "language_model", "vision_model", "sam_model")
    }
    validation = recipe.validation and _located(recipe.validation, path, "validation")
    data = _located(recipe.data, path, "data")
    cache = recipe.features.cache
    features = replace(recipe.features, cache=cache and (path.parent / cache).resolve())
    return replace(recipe, initialise=replace(source, **parts), data=data, validation=validation, features=features)


def read_fields(path: Path, renamed: Mapping[str, str], descendants: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read the mapping of a YAML file, merged into that of its `base`: another recipe in the same directory.

    Args:
        path: the file.
        renamed: former places of fields, read with a note → their places, both as keys joined by dots.
        descendants: names of the files that have it for a base.

    Raises:
        ValueError: no such file, or malformed YAML.
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
    for former, place in renamed.items():
        if _move(data, former.split("."), place.split(".")):
            logger.warning("%s: %s is now called %s", path, former, place)
    base = data.pop("base", None)
    if base is None:
        return data
    if Path(base).name != base or base in (path.name, *descendants):
        raise ValueError(f"{path}: base: expected another recipe in the same directory, got {base!r}.")
    return _merged(read_fields(path.with_name(base), renamed, (path.name, *descendants)), data)


def _move_loss_weights(values: dict[str, Any], path: Path) -> None:
    """Move loss weights that older recipes have in the settings of the model, where SEEM-style has them still."""
    source = values.get("initialise")
    if isinstance(source, dict) and not str(source.get("preset")).startswith("seem"):
        for loss in ("ce", "bce", "dice"):
            if _move(values, ["initialise", "settings", f"{loss}_weight"], ["stage", "losses", loss]):
                logger.warning("%s: settings.%s_weight is now called stage.losses.%s", path, loss, loss)


def _move(data: dict[str, Any], former: Sequence[str], place: Sequence[str]) -> bool:
    """Move a value within nested mappings; return whether there was one."""
    origin: Any = data
    for key in former[:-1]:
        origin = origin.get(key) if isinstance(origin, dict) else None
    if not isinstance(origin, dict) or former[-1] not in origin:
        return False
    value, target = origin.pop(former[-1]), data
    for key in place[:-1]:
        target = target.setdefault(key, {})
    target.setdefault(place[-1], value)
    return True


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge mappings recursively; what is null in `changes` is removed."""
    merged = base | changes
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = _merged(base[key], value)
    return {key: value for key, value in merged.items() if value is not None}


def _located(data: TrainingData, recipe: Path, field: str) -> TrainingData:
    """Make paths absolute that are relative to the recipe's directory; the names of data sets stay as they are."""
    if not data.sets:
        raise ValueError(f"{recipe}: {field}: expected at least one data set, got none.")

    def located(name: str) -> str:
        if instances := INSTANCES.fullmatch(name):
            return f"{(recipe.parent / instances['file']).resolve()}{name.removeprefix(instances['file'])}"
        return str((recipe.parent / name).resolve()) if name.endswith(".jsonl") else name

    sets = {located(name): weight for name, weight in data.sets.items()}
    return replace(data, root=(recipe.parent / data.root).resolve(), sets=sets)


def _absolute(name: str | None, directory: Path) -> str | None:
    """Return the path of a file in `directory` if there is one of this name, else the name as it is."""
    return str((directory / name).resolve()) if name and (directory / name).exists() else name


def build(kind: Any, values: Mapping[str, Any], path: Path) -> Any:
    """Return a validated dataclass; all mistakes in a recipe are reported at once.

    Raises:
        ValueError: unknown or missing fields, or values of another type.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise ValueError("\n".join(f"{path}: {_message(detail)}" for detail in error.errors())) from None


def _message(detail: ErrorDetails) -> str:
    place = "".join(f"{key}: " for key in detail["loc"] if key != "function-before")
    if detail["type"] == "value_error":
        return f"{place}{detail['msg'].removeprefix('Value error, ')}"
    if detail["type"] == "missing":
        return f"{place}expected a value, got none."
    return f"{place}expected {detail['msg'].removeprefix('Input should be ')}, got {detail['input']!r}."


def check_names(values: Collection, known: Collection[str], place: str = "") -> None:
    """Raise a ValueError, beginning with `place`, that names the nearest known name for each unknown one."""
    if unknown := sorted(set(values) - set(known), key=str):
        nearest = {name: get_close_matches(str(name), known, n=1) for name in unknown}
        hints = [f"{name} (did you mean {match[0]}?)" if match else f"{name}" for name, match in nearest.items()]
        raise ValueError(f"{place}unknown fields {', '.join(hints)}. Known: {', '.join(sorted(known))}.")
