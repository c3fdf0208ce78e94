"""Cost models by name: presets, model directories, and models that are asked phrase by phrase (LISA_rec)."""

from collections.abc import Sequence
from dataclasses import replace

from pixellm.backbones import BackboneConfig
from pixellm.backbones.presets import PRESETS as BACKBONE_PRESETS
from pixellm.baselines.seem import SeemConfig
from pixellm.cost.backbones import BackboneCostModel
from pixellm.cost.breakdown import Component, CostModel, FlopsBreakdown, FlopsLine, MemoryBreakdown, Scenario
from pixellm.cost.counting import parameters
from pixellm.cost.language import LanguageCostModel
from pixellm.cost.seem import SeemCostModel
from pixellm.hub.models import where
from pixellm.hub.presets import PRESETS as MODEL_PRESETS
from pixellm.model import PixelLMConfig
from pixellm.utils.model_files import read_config

Config = PixelLMConfig | SeemConfig | BackboneConfig
PRESETS = MODEL_PRESETS | BACKBONE_PRESETS | {"seem": MODEL_PRESETS["seem-focal-large"]}
BY_PHRASE = ":rec"
# "Segment ….", with its role markers; and "Sure, it is … ."
ASK_TOKENS, REPLY_TOKENS = 12, 6


class ByPhraseCostModel:
    """LISA_rec: first an answer in text, then a question of its own for each phrase in it.

    As `pixellm.baselines.two_stage` with one model for both stages: image features and the KV cache of image and
    system text are reused.

    Args:
        model: model of both stages.
    """

    def __init__(self, model: LanguageCostModel) -> None:
        self.name, self.model = f"{model.name}{BY_PHRASE}", model

    def breakdown(self, scenario: Scenario) -> FlopsBreakdown:
        """Count the first answer and the replies."""
        if not scenario.cache:
            raise ValueError(f"{self.name}: expected a cache, got none. Leave --no-cache out.")
        model, targets = self.model, scenario.targets
        prefix, question = self._second_question(scenario)
        words, reply = replace(scenario, targets=0), replace(scenario, answer_tokens=REPLY_TOKENS, targets=1)
        text, _ = model.decoding_lines(words, model.start(words), model.step)
        answer, group = model.decoding_lines(reply, prefix + question, model.step)
        tokens = text.calls + targets * answer.calls
        mean = (text.total + targets * answer.total) / max(1, tokens)
        lines = [
            *model.image_lines(1),
            FlopsLine(Component.PREFILL, model.prefill(scenario), 1, parameters(*model.parts[Component.PREFILL])),
            FlopsLine(Component.PHRASES, model.step(question, prefix), targets),
            FlopsLine(Component.TEXT, mean, tokens),
            FlopsLine(Component.GROUP, group.flops, targets),
            model.mask_line(targets),
        ]
        return FlopsBreakdown(self.name, tuple(lines))

    def memory(self, scenario: Scenario) -> MemoryBreakdown:
        """Count memory with all phrases in one batch, each with a KV cache of its own."""
        model, targets = self.model, scenario.targets
        prefix, question = self._second_question(scenario)
        replies = targets * (prefix + question + REPLY_TOKENS + model.group)
        cached = max(model.length(replace(scenario, targets=0)), replies)
        return model.memory_of(cached, prefix, min(1, targets))

    def _second_question(self, scenario: Scenario) -> tuple[int, int]:
        """Tokens of the reused prefix, and of the question about one phrase."""
        return self.model.image_tokens + scenario.system_tokens, ASK_TOKENS + scenario.phrase_tokens


def open_cost_model(name: str, image_size: int | None = None) -> CostModel:
    """Build the cost model of a name, without weights.

    Args:
        name: a preset (`PRESETS`), a name of `pixellm models list`, or a model directory; with `:rec` at its end the
            model is asked phrase by phrase (`ByPhraseCostModel`).
        image_size: side in pixels of the square that masks are made from; None: the model's own.

    Raises:
        ValueError: no such model, or an image size that it cannot have.
    """
    plain = name.removesuffix(BY_PHRASE)
    config = _config(plain)
    if image_size is not None:
        config = with_image_size(config, image_size)
    if isinstance(config, SeemConfig):
        if name.endswith(BY_PHRASE):
            raise ValueError(f"{name}: expected a model that writes text, got a SEEM-style one. Leave :rec out.")
        return SeemCostModel(plain, config)
    kind = BackboneCostModel if isinstance(config, BackboneConfig) else LanguageCostModel
    model = kind(plain, config)  # pyright: ignore[reportArgumentType]
    return ByPhraseCostModel(model) if name.endswith(BY_PHRASE) else model


def open_cost_models(names: Sequence[str], image_size: int | None = None) -> list[CostModel]:
    """Build the cost models of several names, see `open_cost_model`.

    Raises:
        ValueError: also if a name comes twice.
    """
    names = [name.strip() for name in names]
    if len(set(names)) < len(names):
        raise ValueError(f"expected different models, got {', '.join(names)}. Name each once.")
    return [open_cost_model(name, image_size) for name in names]


def with_image_size(config: Config, size: int) -> Config:
    """Copy a configuration with another side of the square that masks are made from: SAM's, or the vision encoder's."""
    if isinstance(config, BackboneConfig):
        raise ValueError("image size: expected none for a vision-language model, whose images have sizes of their own.")
    settings = config.to_dict()
    sam = settings.get("sam_vision_config")
    if sam is not None and size % sam["patch_size"]:
        patch = sam["patch_size"]
        raise ValueError(f"image size: expected a multiple of SAM's patch of {patch} pixels, got {size}.")
    (settings["vision_config"] if sam is None else sam)["image_size"] = size
    return type(config).from_dict(settings)


def _config(name: str) -> Config:
    if name in PRESETS:
        return PRESETS[name]()
    try:
        directory = where(name)
    except ValueError:
        raise ValueError(
            f"expected a model whose sizes are known, got {name!r}. Known: {', '.join(PRESETS)}; or give a directory "
            "with a config.json."
        ) from None
    config = read_config(directory)
    if not isinstance(config, Config):
        raise ValueError(f"{directory}: expected a PixelLM, LISA or SEEM-style model, got {config.model_type!r}.")
    return config
