"""Prompts and image settings of an exported model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm.imaging.geometry import Letterbox
from pixellm.prompts import PROCESSOR_CONFIG, PlainTokenizer, PromptEncoder, PromptTemplate
from pixellm.utils.model_files import read_json, readable


class RuntimeProcessor(PromptEncoder):
    """`PromptEncoder` with the image settings of a checkpoint: `PixelLMProcessor` for questions, without torch.

    Args:
        tokenizer: see `PromptEncoder`.
        template: see `PromptEncoder`.
        letterbox: of the images.
    """

    def __init__(self, tokenizer: PlainTokenizer, template: PromptTemplate, letterbox: Letterbox) -> None:
        super().__init__(tokenizer, template)
        self.letterbox = letterbox

    @classmethod
    def from_directory(cls, directory: Path, system: str | None = None) -> "RuntimeProcessor":
        """Read the processor of a checkpoint; see `PromptEncoder.from_directory`."""
        prompts = PromptEncoder.from_directory(directory, system)
        with readable(directory, f"a {PROCESSOR_CONFIG}"):
            letterbox = Letterbox.of(read_json(directory / PROCESSOR_CONFIG).get("image_processor"))
        return cls(prompts.tokenizer, prompts.template, letterbox)

    @property
    def system(self) -> str:
        """System prompt, plain text."""
        return self.template.system

    @system.setter
    def system(self, text: str) -> None:
        self.template = replace(self.template, system=text)

    def images(self, images: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """Letterbox RGB images to fp32 (B, 3, S, S), and their sizes in the square, int64 (B, 2)."""
        pixels, sizes = zip(*(self.letterbox(image) for image in images), strict=True)
        return np.stack(pixels), np.array(sizes, dtype=np.int64)
