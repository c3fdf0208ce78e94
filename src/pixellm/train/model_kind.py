"""Protocol of a kind of model: everything that training asks of PixelLM, its variants and its baselines.

`KnownModels` says what the names in a recipe stand for. The table of all kinds is `pixellm.training.KNOWN_MODELS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from pixellm.inference.quantization import Quantize, let_gradients_through, load_quantised
from pixellm.model.losses import LossWeights
from pixellm.train.recipe import AdapterConfig, ModelSource, check_names
from pixellm.types import Segmenter
from pixellm.utils.model_files import read_config
from pixellm.utils.weights import mapped_weights


@dataclass(frozen=True)
class Parts:
    """Pretrained parts of a new model; see `ModelSource` for the fields.

    Args:
        language_model, vision_model, sam_model: directories.
        settings: fields of the configuration that differ from the preset's.
    """

    language_model: Path
    vision_model: Path
    sam_model: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tuning:
    """Fine-tuning of a whole model on a few images.

    Args:
        trained: prefixes of the parameters that train, besides the adapters.
        rates: learning rates of parts, see `TrainingStage.rates`.
        max_length: see `TrainingStage`.
    """

    trained: tuple[str, ...]
    rates: Mapping[str, float] = field(default_factory=dict)
    max_length: int | None = 2048


class ModelKind(Protocol):
    """A kind of model that can be trained.

    Attributes:
        config_class: class of the configuration; no two kinds have the same.
        processor_class: class of the processor.
        shardable: whether each process may hold a share of the model.
        keeps_features: whether features of its frozen vision encoder can be kept on disk.
    """

    config_class: type[PreTrainedConfig]
    processor_class: Any
    shardable: bool
    keeps_features: bool

    def describe(self, preset: Any, parts: Parts) -> tuple[Any, Any]:
        """Return configuration and processor of a new model with a preset's sizes; reads no weights.

        Raises:
            ValueError: a part is missing, too many, or of another kind.
        """
        ...

    def load_parts(self, model: Any, parts: Parts) -> None:
        """Load the parts' weights into a new model.

        Raises:
            ValueError: a part has other sizes.
        """
        ...

    def trained_parts(self, config: Any) -> tuple[str, ...]:
        """Return prefixes of the parameters that train by default, besides the adapters."""
        ...

    def tuning(self, config: Any) -> Tuning:
        """Return the settings of a fine-tuning that depend on the kind."""
        ...

    def text_module(self, model: Any) -> PreTrainedModel:
        """Return the part that reads text; its own weights stay as they are unless there are no adapters."""
        ...

    def add_adapters(self, model: Any, adapters: AdapterConfig) -> None:
        """Insert what trains in the part that reads text, and freeze what never trains."""
        ...

    def codebook_ids(self, config: Any) -> Sequence[int]:
        """Return the token ids whose embeddings train."""
        ...

    def num_prefix_tokens(self, processor: Any) -> int:
        """Return the number of tokens that precede the conversations of every image."""
        ...

    def loss_weights(self, model: Any, changes: Mapping[str, float]) -> LossWeights | None:
        """Return the model's loss weights with a recipe's changes; None where its configuration holds them."""
        ...

    def segmenter(self, model: Any, processor: Any, max_new_tokens: int) -> Segmenter:
        """Return a model's `Segmenter`, for evaluations during training."""
        ...


@dataclass(frozen=True)
class WholeModel:
    """A model in a directory, none of whose modules is initialised anew."""

    kind: ModelKind
    directory: Path
    settings: Mapping[str, Any]

    def load(self, seed: int) -> tuple[Any, Any]:
        """Return the model, its weights in the precision that they are stored in, and its processor."""
        config = read_config(self.directory, **self.settings)
        model: Any = AutoModel.from_pretrained(self.directory, config=config, dtype="auto")
        return model, self.kind.processor_class.from_pretrained(self.directory)

    def load_quantised(self, quantize: Quantize, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
        """Return the model with the language model's linear layers quantised while they are read, and its processor.

        Args:
            quantize: precision of these layers.
            dtype: of everything else in the part that reads text; other parts are as they are stored.
            device: where the model is to train.
        """
        config = read_config(self.directory, **self.settings)
        model: Any = load_quantised(self.directory, config, quantize, device, dtype)
        let_gradients_through(model.text_model)
        model.is_quantized = False  # or transformers' Trainer wants adapters that peft's own models have
        text, stored = self.kind.text_module(model), mapped_weights(self.directory)
        for part, module in model.named_children():
            if module is not text:
                for name, parameter in module.named_parameters():
                    parameter.data = stored[f"{part}.{name}"][...].to(parameter.device)
        return model, self.kind.processor_class.from_pretrained(self.directory)


@dataclass(frozen=True)
class NewModel:
    """A model with a preset's sizes and pretrained parts."""

    kind: ModelKind
    preset: PreTrainedConfig
    parts: Parts

    def describe(self) -> tuple[Any, Any]:
        """Return configuration and processor."""
        return self.kind.describe(self.preset, self.parts)

    def load_quantised(self, quantize: Quantize, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
        """Refuse: only a whole model's weights are quantised while they are read."""
        raise ValueError(
            f"lora: quantize: expected a whole model in initialise, got {self.parts.language_model} and other parts. "
            "Train without it once, or leave it out."
        )

    def load(self, seed: int) -> tuple[Any, Any]:
        """Return the model, whose other weights are drawn with `seed`, and its processor."""
        config, processor = self.describe()
        torch.manual_seed(seed)
        model: Any = AutoModel.from_config(config)
        self.kind.load_parts(model, self.parts)
        return model, processor


@dataclass(frozen=True)
class KnownModels:
    """Names that a recipe may use.

    Args:
        kinds: all kinds of model.
        presets: name → configuration.
        resolve: name of a whole model → its directory.
        resolve_part: name of a language model, a vision encoder or a SAM → its directory.
    """

    kinds: tuple[ModelKind, ...]
    presets: Mapping[str, Callable[[], Any]]
    resolve: Callable[[str], Path]
    resolve_part: Callable[[str], Path]

    def kind_of(self, config: PreTrainedConfig) -> ModelKind:
        """Return the kind of the model with a configuration."""
        for kind in self.kinds:
            if type(config) is kind.config_class:
                return kind
        known = ", ".join(kind.config_class.model_type for kind in self.kinds)
        raise ValueError(f"expected a model that can be trained ({known}), got one of type {config.model_type!r}.")

    def open(self, source: ModelSource) -> WholeModel | NewModel:
        """Find the initial weights of a training; what is not here is fetched.

        Raises:
            ValueError: neither a whole model nor both parts are given, a name is unknown, or a model can't be fetched.
        """
        if source.model:
            directory = self.resolve(source.model)
            config = read_config(directory)
            _check_settings(source.settings, config)
            return WholeModel(self.kind_of(config), directory, source.settings)
        if not (source.language_model and source.vision_model and source.preset):
            raise ValueError(
                f"initialise: expected a model, or a preset with language_model and vision_model, got {source}."
            )
        if source.preset not in self.presets:
            raise ValueError(f"initialise: expected a preset, got {source.preset!r}. Known: {', '.join(self.presets)}.")
        preset = self.presets[source.preset]()
        _check_settings(source.settings, preset)
        parts = Parts(
            self.resolve_part(source.language_model),
            self.resolve_part(source.vision_model),
            self.resolve_part(source.sam_model) if source.sam_model else None,
            source.settings,
        )
        return NewModel(self.kind_of(preset), preset, parts)


def config_fields(config: type) -> set[str]:
    """Return the names of all arguments of a configuration class and its bases."""
    bases = [base for base in config.__mro__ if issubclass(base, PreTrainedConfig) and base is not PreTrainedConfig]
    return {name for base in bases for name in signature(base).parameters} - {"kwargs"}


def _check_settings(settings: Mapping[str, Any], config: Any) -> None:
    place = "initialise: settings: "
    check_names(settings, config_fields(type(config)), place)
    if vision := settings.get("vision_config"):
        check_names(vision, config_fields(type(config.vision_config)), f"{place}vision_config: ")


def has_tied_embeddings(model: Any) -> bool:
    """Return whether the language model's head is its embedding table."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def adapt(model: Any, kind: ModelKind, adapters: AdapterConfig, trained: Sequence[str]) -> None:
    """Freeze all but the adapters and what a prefix in `trained` names.

    What trains is kept in float32, frozen weights in the dtype that they have.

    Raises:
        ValueError: a prefix names no part of the model, or no linear layer is called like an adapter's target.
    """
    model.requires_grad_(False)
    for prefix in trained:
        if not hasattr(model, prefix.split(".")[0]):
            known = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"trained: expected a part of the model, got {prefix!r}. Known: {known}.")
        for name, parameter in model.named_parameters():
            if name == prefix or name.startswith(f"{prefix}."):
                parameter.requires_grad_(True)
    kind.add_adapters(model, adapters)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
