"""Text and images → what the model reads, and its ids → text.

Texts become ids in `pixellm.prompts`.

Shapes:  B images · S side of the square · T tokens
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from PIL import Image
from transformers import AddedToken, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from pixellm.imaging import geometry
from pixellm.model.training_rows import TrainingRow, batch_of_rows, training_row
from pixellm.prompts import PromptEncoder, PromptTemplate
from pixellm.types import Answer, Batch, Sample
from pixellm.utils.model_files import expect_sizes, readable


class PixelLMImageProcessor(BaseImageProcessor):
    """Letterbox: longest side to `image_size`, normalise, pad right and bottom with 0.

    Args:
        image_size: side S of the square in pixels.
        image_mean, image_std: of RGB in 0..1.
    """

    model_input_names = ["pixel_values", "resized_hw"]  # noqa: RUF012

    def __init__(
        self,
        image_size: int = 448,
        image_mean: Sequence[float] = (0.485, 0.456, 0.406),
        image_std: Sequence[float] = (0.229, 0.224, 0.225),
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        expect_sizes({"image_size": image_size})
        self.image_size = image_size
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def preprocess(self, images: Sequence[Image.Image], **kwargs) -> BatchFeature:
        """RGB images → `pixel_values` (B, 3, S, S) fp32 and `resized_hw` (B, 2)."""
        letterbox = geometry.Letterbox(self.image_size, tuple(self.image_mean), tuple(self.image_std))
        pixels, sizes = zip(*(letterbox(image) for image in images), strict=True)
        return BatchFeature({"pixel_values": torch.from_numpy(np.stack(pixels)), "resized_hw": torch.tensor(sizes)})


class _ControlTokensOff:
    """`PlainTokenizer` of a tokenizer of transformers, whose added tokens are special."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def decode(self, ids: Sequence[int]) -> str:
        return cast("str", self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def token_id(self, token: str) -> int | None:
        found = cast("int | None", self._tokenizer.convert_tokens_to_ids(token))
        unknown = found == self._tokenizer.unk_token_id and token != self._tokenizer.unk_token
        return None if unknown else found


class PixelLMProcessor(ProcessorMixin):
    """Tokenizer, image settings and prompt template of a checkpoint.

    Args:
        image_processor: see `PixelLMImageProcessor`.
        tokenizer: of the language model, with the codebook among its added tokens.
        codebook_tokens, num_image_tokens, system, prefix, prompt, answer, control_tokens, strip_text: see
            `pixellm.prompts.PromptTemplate`.
    """

    def __init__(
        self,
        image_processor: PixelLMImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        codebook_tokens: Sequence[str] = (),
        num_image_tokens: int = 256,
        system: str = "",
        prefix: str = "",
        prompt: str = "",
        answer: str = "",
        control_tokens: Sequence[str] = (),
        strip_text: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        # Special, so that they can be switched off in what users write; the ids stay.
        plain = [str(token) for token in tokenizer.added_tokens_decoder.values() if not token.special]
        tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in plain], special_tokens=True)
        self.codebook_tokens = list(codebook_tokens)
        self.num_image_tokens = num_image_tokens
        self.system, self.prefix, self.prompt, self.answer = system, prefix, prompt, answer
        self.control_tokens = list(control_tokens)
        self.strip_text = strip_text
        self._prompts: PromptEncoder | None = None
        _ = self.prompts  # a ValueError if the tokenizer lacks control tokens

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Load the processor of a checkpoint; a ValueError if its files are malformed."""
        with readable(pretrained_model_name_or_path, "a processor_config.json and a tokenizer"):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @property
    def prompts(self) -> PromptEncoder:
        """Encoder of prompts and answers with the settings as they are now."""
        template = PromptTemplate.of(vars(self))
        if self._prompts is None or self._prompts.template != template:
            self._prompts = PromptEncoder(_ControlTokensOff(self.tokenizer), template)
        return self._prompts

    @property
    def codebook_ids(self) -> list[int]:
        """See `PromptEncoder.codebook_ids`."""
        return self.prompts.codebook_ids

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

    def answer_ids(self, answer: str) -> list[int]:
        """See `PromptEncoder.answer_ids`."""
        return self.prompts.answer_ids(answer)

    def decode_text(self, ids: Sequence[int]) -> str:
        """See `PromptEncoder.decode_text`."""
        return self.prompts.decode_text(ids)

    def images(self, images: Sequence[Image.Image]) -> BatchFeature:
        """Letterbox RGB images to `pixel_values` (B, 3, S, S) and `resized_hw` (B, 2)."""
        return self.image_processor.preprocess(images)

    def __call__(self, samples: Sequence[Sample], max_length: int | None = None) -> Batch:
        """Samples with answers → a training `Batch`.

        A row of more than `max_length` tokens is shortened: its last answer after the last group that is still whole,
        or anywhere if it has none; what comes after is left out, with its masks.

        Raises:
            ValueError: slots and masks of a conversation differ in number, or not one conversation fits.
        """
        pixels = self.images([sample.image for sample in samples])
        return Batch(
            pixel_values=pixels["pixel_values"],
            resized_hw=pixels["resized_hw"],
            **batch_of_rows([self._row(sample, max_length) for sample in samples]),
            context_pixel_values=pixels.get("context_pixel_values"),
        )

    def _row(self, sample: Sample, max_length: int | None) -> TrainingRow:
        turns = ((turn, self.prompt_ids(turn.question), self.answer_ids(turn.answer)) for turn in sample.conversations)
        return training_row(self.prefix_ids, turns, self.codebook_ids, max_length, sample.record_id)


def add_codebook_tokens(tokenizer: PreTrainedTokenizerBase, count: int) -> list[str]:
    """Add the `count` tokens of a codebook group to a tokenizer and return them in order."""
    tokens = [f"[SEG{i}]" for i in range(count)] if count > 1 else ["[SEG]"]
    # Special, so that they can be switched off in what users write.
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    return tokens
