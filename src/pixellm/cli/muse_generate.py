"""`pixellm muse generate`: questions about photographs, from their instance masks."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class EngineName(StrEnum):
    TEMPLATE = "template"
    SERVER = "server"


class PromptName(StrEnum):
    BOXES = "boxes"
    CAPTIONS = "captions"
    DESCRIBE = "describe"
