"""Names → systems to compare: presets, model directories, and ways to use them."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig

from pixellm.baselines.seem import SeemConfig
from pixellm.cost.bill import System
from pixellm.cost.by_phrase import ByPhrase
from pixellm.cost.language import LanguageSystem
from pixellm.cost.seem import SeemSystem
from pixellm.hub.models import where
from pixellm.hub.presets import PRESETS as KNOWN_SIZES
from pixellm.model import PixelLMConfig

Config = PixelLMConfig | SeemConfig
BY_PHRASE = ":rec"
PRESETS = KNOWN_SIZES | {"seem": KNOWN_SIZES["seem-focal-large"]}


def open_system(name: str, image_size: int | None = None) -> System:
    """A system without weights.

    Args:
        name: a preset (`PRESETS`), or a model that is here: a directory, or a name of `pixellm models list`; with
            `:rec` at its end it is asked once for each phrase of a first answer (`ByPhrase`).
        image_size: side in pixels of the square that masks are made from; None: its own.

    Raises:
        ValueError: no such model, or an image size that it cannot have.
    """
    plain = name.removesuffix(BY_PHRASE)
    config = _config(plain)
    if image_size is not None:
        config = with_image_size(config, image_size)
    if isinstance(config, SeemConfig):
        if name.endswith(BY_PHRASE):
            raise ValueError(f"{name}: expected a model that writes, got one that is given phrases. Leave :rec out.")
        return SeemSystem(plain, config)
    system = LanguageSystem(plain, config)
    return ByPhrase(system) if name.endswith(BY_PHRASE) else system


def open_systems(names: Sequence[str], image_size: int | None = None) -> list[System]:
    """Each of several names, see `open_system`.

    Raises:
        ValueError: also if a name comes twice.
    """
    names = [name.strip() for name in names]
    if len(set(names)) < len(names):
        raise ValueError(f"expected different systems, got {', '.join(names)}.")
    return [open_system(name, image_size) for name in names]


def with_image_size(config: Config, size: int) -> Config:
    """Another side of the square that masks are made from: SAM's where there is one, else the vision encoder's."""
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
        known = ", ".join(PRESETS)
        raise ValueError(
            f"expected a model whose sizes are known, got {name!r}. Known: {known}; or give a directory with a "
            "config.json."
        ) from None
    config = AutoConfig.from_pretrained(Path(directory))
    if not isinstance(config, Config):
        raise ValueError(f"{directory}: expected a PixelLM, LISA or SEEM-style model, got {config.model_type!r}.")
    return config
