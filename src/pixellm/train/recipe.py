"""Recipes: one YAML file describes a published experiment completely.

Two kinds: `Recipe` trains a model on data sets of records in one stage, from a whole model or from a base language
model and a CLIP encoder; `MiniRecipe` builds the embedded default from its parts, on annotated photographs, in two.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from transformers import PreTrainedConfig

from pixellm.baselines.lisa import LisaConfig
from pixellm.data.augment import Augmentation
from pixellm.data.catalogue import INSTANCES
from pixellm.data.chat import Chat
from pixellm.data.datasets import MAX_BAD_FRACTION
from pixellm.data.mixture import SourceConfig
from pixellm.hub.presets import PRESETS
from pixellm.model import PixelLMConfig, PixelLMVisionConfig


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters of the language model.

    Args:
        rank, alpha: the update is alpha / rank · B·A.
        targets: names of the linear layers that get one; none given: every linear layer of a LLaMA block.
        dropout: share of an adapter's inputs that is dropped in training.
    """

    rank: int = 8
    alpha: float = 16
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    dropout: float = 0.0


@dataclass(frozen=True)
class ModelStart:
    """What training starts from: a whole model, or its parts, with everything else new.

    Args:
        model: a name of `pixellm models list`, a Hugging Face Hub id, or a directory; all its modules are kept.
        preset: of `pixellm.baselines.presets`, for parts: the kind of model, and the sizes of everything that is not
            theirs.
        language_model: Hub id or directory of a causal LM with its tokenizer, or the embedded smollm2-135m-instruct;
            `settings: {text_config: {num_hidden_layers: n}}` takes its first n layers. SEEM-style has it, or CLIP's
            text side, for a text encoder.
        vision_model: Hub id or directory of a CLIP-ViT; or pixellm-mini or a directory of a PixelLM model, whose vision
            encoder is taken, and of the same size projectors, neck, and features of names.
        sam_model: of a LISA with a SAM of its own: Hub id or directory of it, in transformers' format.
        settings: fields of the preset's configuration that differ from the model's or the preset's.
    """

    model: str | None = None
    preset: str | None = None
    language_model: str | None = None
    vision_model: str | None = None
    sam_model: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """Which data sets are mixed.

    Args:
        sets: weight of each data set; a name of `pixellm data layout`, or a file of one's own (`*.jsonl`, `*.json`; see
            `open_data`).
        root: the data root.
        epoch_length: samples of an epoch; 0: as many as there are records.
        chat: how they are asked about.
        max_bad_fraction: more bad records than this share are an error.
    """

    sets: Mapping[str, float]
    root: Path = Path("dataset")
    epoch_length: int = 0
    chat: Chat = field(default_factory=Chat)
    max_bad_fraction: float = MAX_BAD_FRACTION


@dataclass(frozen=True)
class Stage:
    """The training.

    Args:
        steps: optimiser steps.
        batch_size: images of a step, over all processes.
        device_batch_size: images that a process takes at once; the rest of a step is accumulated.
        learning_rate, warmup_steps, weight_decay: of AdamW; the rate falls linearly to 0 after warming up.
        betas: of AdamW.
        rates: learning rates of parts, by a part of their parameters' names.
        max_length: tokens of a row at most; longer ones are shortened after a codebook group. None: no limit.
        trained: what of the pixel side trains; frozen is what no entry is the start of a name of.
        bf16: compute in bfloat16; what trains is kept in float32.
        gradient_checkpointing: compute activations of the language model again rather than keep them.
        compile: compile the model with torch.compile.
        save_steps, logging_steps, eval_steps: steps between checkpoints, between logs of the losses, and between
            evaluations (0: only at the end).
        workers: processes that read data.
        average: decay of a running mean of the weights, which is what the training gives (0: the last weights).
    """

    steps: int
    batch_size: int
    learning_rate: float
    device_batch_size: int = 2
    warmup_steps: int = 100
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    rates: Mapping[str, float] = field(default_factory=dict)
    max_length: int | None = None
    trained: tuple[str, ...] = ("llm_projector", "pixel_projector", "neck", "codebook", "pixel_decoder", "word_mix")
    bf16: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False
    save_steps: int = 500
    logging_steps: int = 10
    eval_steps: int = 0
    workers: int = 2
    average: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """An experiment on data sets of records.

    Args:
        start, data, stage, lora: see there.
        validation: held-out images with fixed questions, answered by generating while the model trains and at the end;
            its epoch_length says how many images.
        seed: of everything random.
    """

    name: str
    start: ModelStart
    data: Data
    stage: Stage
    lora: Lora = field(default_factory=Lora)
    validation: Data | None = None
    seed: int = 0


@dataclass(frozen=True)
class VisionStage:
    """First stage: the pixel side alone (`vision.py`).

    Args:
        frozen: modules of the backbone that keep their pretrained weights.
        depthwise: whether its depthwise convolutions train.
        names: how many names each photograph is asked for at most.
        average: decay of the running mean of the weights, which is what the stage gives (0: the last weights).
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
    average: float = 0.0


@dataclass(frozen=True)
class AnswerStage:
    """Second stage: the whole model answers; the vision backbone and the language model's own weights stay.

    Args:
        learning_rate: of what is new in this stage.
        vision_learning_rate: of what the first stage trained.
        name_learning_rate: of the map from codebook states to names, which starts at a least-squares fit.
        questions: conversations per photograph.
        trained: what of the pixel side trains; the rest keeps what the first stage gave it.
        average: as in the first stage.
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
    trained: tuple[str, ...] = (
        *("vision_encoder.pyramid", "vision_encoder.classifier", "llm_projector", "pixel_projector", "neck"),
        *("codebook", "pixel_decoder", "word_mix"),
    )
    average: float = 0.0


@dataclass(frozen=True)
class MiniRecipe:
    """The embedded default, from its parts.

    Args:
        model: fields of `PixelLMConfig`, with `vision` for those of `PixelLMVisionConfig`.
        start: directory of what an earlier run of the same sizes trained (its `trained`); both stages begin with that.
        held_out: sources that are not trained on, for `calibrate_presence`; none: nothing is calibrated.
        recall: see `calibrate_presence`.
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
    start: Path | None = None
    held_out: tuple[SourceConfig, ...] = ()
    recall: float = 0.9


_NESTED: dict[type, dict[str, type]] = {
    Recipe: {"start": ModelStart, "data": Data, "validation": Data, "stage": Stage, "lora": Lora},
    Data: {"chat": Chat},
    MiniRecipe: {
        "vision_stage": VisionStage,
        "answer_stage": AnswerStage,
        "lora": Lora,
        "augmentation": Augmentation,
    },
}


def load_recipe(path: Path) -> Recipe | MiniRecipe:
    """Read and check a recipe; paths in it are relative to its directory.

    With `base`, another recipe in the same directory, it says only what is different from that one.

    Raises:
        ValueError: no such file, malformed YAML, an unknown or a missing field.
    """
    data = _read(path)
    if {"vision_stage", "answer_stage", "sources"} & data.keys():
        return _mini_recipe(data, path)
    recipe: Recipe = _build(Recipe, data, str(path))
    settings = recipe.start.settings
    check_names(settings, _fields(_config_class(recipe.start)), f"{path}: start: settings")
    check_names(settings.get("vision_config", {}), _fields(PixelLMVisionConfig), f"{path}: vision_config")
    parts = {
        key: _beside(getattr(recipe.start, key), path.parent)
        for key in ("model", "language_model", "vision_model", "sam_model")
    }
    recipe = replace(recipe, start=replace(recipe.start, **parts))
    validation = recipe.validation and _located(recipe.validation, path, "validation")
    return replace(recipe, data=_located(recipe.data, path, "data"), validation=validation)


def _read(path: Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, put over that of its `base`."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"expected a recipe at {path} ({error.strerror}). See recipes/ for those published.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a mapping of the recipe's fields, got {type(data).__name__}.")
    base = data.pop("base", None)
    if base is None:
        return data
    if Path(base).name != base or base in (path.name, *above):
        raise ValueError(f"{path}: base: expected another recipe in the same directory, got {base!r}.")
    return _over(_read(path.with_name(base), (path.name, *above)), data)


def _over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` in it; mappings are merged, and what is null is taken away."""
    merged = base | changes
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = _over(base[key], value)
    return {key: value for key, value in merged.items() if value is not None}


def _mini_recipe(data: dict[str, Any], path: Path) -> MiniRecipe:
    for key in ("sources", "held_out"):
        listed = enumerate(data.get(key) or [])
        data[key] = tuple(_build(SourceConfig, source, f"{path}: {key}[{i}]") for i, source in listed)
    recipe: MiniRecipe = _build(MiniRecipe, data, str(path))
    settings = {key: value for key, value in recipe.model.items() if key != "vision"}
    check_names(settings, _fields(PixelLMConfig), f"{path}: model")
    check_names(recipe.model.get("vision", {}), _fields(PixelLMVisionConfig), f"{path}: vision")
    if not recipe.sources:
        raise ValueError(f"{path}: expected at least one source, got none.")
    places = {key: (path.parent / data[key]).resolve() for key in ("data_root", "start") if data.get(key)}
    return replace(recipe, **places)


def _located(data: Data, recipe: Path, where: str) -> Data:
    """With paths from the recipe's directory made absolute; the names of data sets stay as they are."""
    if not data.sets:
        raise ValueError(f"{recipe}: {where}: expected at least one data set, got none.")
    above = recipe.parent

    def located(name: str) -> str:
        if instances := INSTANCES.fullmatch(name):
            return f"{(above / instances['file']).resolve()}{name.removeprefix(instances['file'])}"
        return str((above / name).resolve()) if name.endswith(".jsonl") else name

    sets = {located(name): weight for name, weight in data.sets.items()}
    return replace(data, root=(above / data.root).resolve(), sets=sets)


def _beside(name: str | None, directory: Path) -> str | None:
    """A path from the recipe's directory if that leads somewhere, else the name as it is."""
    return str((directory / name).resolve()) if name and (directory / name).exists() else name


def _config_class(start: ModelStart) -> type:
    """Of the model that a training starts from; of one to be loaded, whichever has most fields."""
    preset = PRESETS.get(start.preset or "")
    return get_type_hints(preset)["return"] if preset else LisaConfig


def _fields(config: type) -> set[str]:
    """What a configuration can be given, that of the ones it is made from included."""
    kinds = [kind for kind in config.__mro__ if issubclass(kind, PreTrainedConfig) and kind is not PreTrainedConfig]
    return {name for kind in kinds for name in signature(kind).parameters} - {"kwargs"}


def _build(kind: type, values: Any, where: str) -> Any:
    """A dataclass from a mapping; what is nested in it, likewise."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected a mapping, got {values!r}.")
    check_names(values, {f.name for f in fields(kind)}, where)
    values = dict(values)
    for name, nested in _NESTED.get(kind, {}).items():
        if name in values:
            values[name] = _build(nested, values[name], f"{where}: {name}")
    for name, hint in get_type_hints(kind).items():
        if name in values:
            values[name] = _typed(values[name], hint, f"{where}: {name}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None


def _typed(value: Any, hint: Any, where: str) -> Any:
    """A value of YAML as the field wants it: YAML has no tuples, and takes 3e-4 for a text.

    Raises:
        ValueError: it is of another kind.
    """
    inner, kind = get_args(hint), get_origin(hint) or hint
    try:
        if kind is float and not isinstance(value, bool):
            return float(value)
        if kind is int and not isinstance(value, bool) and int(value) == float(value):
            return int(value)
        if kind is tuple and isinstance(value, list):
            return tuple(value)
        if kind is Mapping and isinstance(value, dict):
            return {key: _typed(one, inner[1], f"{where}: {key}") for key, one in value.items()}
        if kind is Path:
            return Path(value)
    except (TypeError, ValueError):
        pass
    if kind in (float, int, Mapping) or (kind in (str, bool) and not isinstance(value, kind)):
        raise ValueError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {value!r}.")
    return value


def check_names(values: Mapping, known: Collection[str], where: str) -> None:
    """A ValueError that names the nearest known name for each unknown one."""
    if unknown := sorted(set(values) - known, key=str):
        nearest = {name: get_close_matches(str(name), known, n=1) for name in unknown}
        hints = [f"{name} (did you mean {match[0]}?)" if match else f"{name}" for name, match in nearest.items()]
        raise ValueError(f"{where}: unknown fields {', '.join(hints)}. Known: {', '.join(sorted(known))}.")
