"""`pixellm muse generate`: questions about photographs, from their instance masks."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pixellm.cli.common import err_console, print_lines

if TYPE_CHECKING:
    from pixellm.muse.generate import Generated, Generation
    from pixellm.muse.journal import Journal
    from pixellm.muse.selection import Selection


class EngineName(StrEnum):
    TEMPLATE = "template"
    SERVER = "server"


class PromptName(StrEnum):
    BOXES = "boxes"
    CAPTIONS = "captions"
    DESCRIBE = "describe"
