"""Cost models that several tests of costs share."""

from functools import cache

from pixellm.cost.breakdown import Scenario
from pixellm.cost.language import LanguageCostModel
from pixellm.cost.models import open_cost_model
from pixellm.hub.presets import PRESETS
from tests.support import tiny

TERA = 1e12
SHORT = Scenario(prompt_tokens=9, answer_tokens=5, targets=2, system_tokens=4)
LANGUAGE_PRESETS = {name: preset for name, preset in PRESETS.items() if not name.startswith("seem")}


@cache
def system(name: str) -> LanguageCostModel:
    opened = open_cost_model(name)
    assert isinstance(opened, LanguageCostModel)
    return opened


@cache
def tiny_system() -> LanguageCostModel:
    return LanguageCostModel("tiny", tiny.clip_config())
