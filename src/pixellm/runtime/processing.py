"""Prompts and image settings of an exported model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm.imaging.geometry import Letterbox
from pixellm.prompts import PROCESSOR_CONFIG, PromptEncoder
from pixellm.types import Answer
from pixellm.utils.model_files import read_json, readable


class RuntimeProcessor:
    """What `pixellm.model.PixelLMProcessor` does for questions, without torch.

    Args:
        prompts: encoder of prompts.
        letterbox: of the images.
    """

    def __init__(self, prompts: PromptEncoder, letterbox: Letterbox) -> None:
        self.prompts, self.letterbox = prompts, letterbox

    @classmethod
    def from_directory(cls, directory: Path) -> "RuntimeProcessor":
        """Read the processor of a checkpoint; a ValueError if a file is missing or malformed."""
        with readable(directory, f"a {PROCESSOR_CONFIG}"):
            letterbox = Letterbox.of(read_json(directory / PROCESSOR_CONFIG).get("image_processor"))
        return cls(PromptEncoder.from_directory(directory), letterbox)

    @property
    def system(self) -> str:
        """System prompt, plain text."""
        return self.prompts.template.system

    @system.setter
    def system(self, text: str) -> None:
        self.prompts = PromptEncoder(self.prompts.tokenizer, replace(self.prompts.template, system=text))

    @property
    def prefix_ids(self) -> list[int]:
        """See `PromptEncoder.prefix_ids`."""
        return self.prompts.prefix_ids

    @property
    def eos_ids(self) -> list[int]:
        """See `PromptEncoder.eos_ids`."""
        return self.prompts.eos_ids

    def prompt_ids(self, question: str, history: Sequence[Answer] = ()) -> list[int]:
        """See `PromptEncoder.prompt_ids`."""
        return self.prompts.prompt_ids(question, history)

    def decode_text(self, ids: Sequence[int]) -> str:
        """See `PromptEncoder.decode_text`."""
        return self.prompts.decode_text(ids)

    def images(self, images: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """Letterbox RGB images to fp32 (B, 3, S, S), and their sizes in the square, int64 (B, 2)."""
        pixels, sizes = zip(*(self.letterbox(image) for image in images), strict=True)
        return np.stack(pixels), np.array(sizes, dtype=np.int64)
