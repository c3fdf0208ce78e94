"""All that golden results use of pixellm's own modules: adapt this file when they move.

Everything else goes through the command line and the helpers of the tests.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pixellm
from pixellm.cli import main as console_entry
from pixellm.segmenter import load_segmenter
from tests.support import tiny

SHIPPED = Path(pixellm.__file__).parent / "pretrained/pixellm-mini"  # what was trained of it

__all__ = ["SHIPPED", "console_entry", "fill_in", "load", "save_tiny"]


def load(model: str | Path | None = None) -> Any:
    """Return a model that is asked with `set_image` and `ask`: the default, or one in a directory."""
    return load_segmenter("pixellm-mini" if model is None else str(model))


def save_tiny(folder: Path) -> None:
    """Write a whole model of random weights."""
    tiny.build(tiny.clip_config()).save_pretrained(folder)
    tiny.tiny_processor(image_size=56, num_image_tokens=4).save_pretrained(folder)


def fill_in(segmenter: Any, question: str, pieces: Sequence[int | None]) -> Any:
    """Return an answer that begins a mask where a piece is None, and else has so many freely chosen text tokens."""
    (mask,) = tiny.plan_of(segmenter.processor, "{seg}")[-1:]
    plan = [one for piece in pieces for one in ([mask] if piece is None else [None] * piece)]
    write = tiny.Write(segmenter.processor, {question: plan})
    return segmenter.ask(question, processors=(write,))
