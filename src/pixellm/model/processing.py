"""Text and images → what the model reads, and its ids → text.

Control tokens (image, codebook, role markers, end) are placed by id. Everything that a user wrote is tokenised with
control tokens switched off, so that `<image>` or `</s>` in a question stays plain text.

Shapes:  B images · S side of the square · T tokens
"""

import re
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AddedToken, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from pixellm.imaging import geometry
from pixellm.model.modeling import IMAGE_TOKEN_ID
from pixellm.model.training_rows import TrainingRow, batch_of_rows, training_row
from pixellm.types import SEG_SLOT, Answer, Batch, Sample
from pixellm.utils.model_files import expect_sizes, readable

_FIELD = re.compile(r"\{(system|question|answer)\}")


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
        pixels, sizes = zip(*(self._letterbox(image) for image in images), strict=True)
        return BatchFeature({"pixel_values": torch.stack(pixels), "resized_hw": torch.tensor(sizes)})

    def _letterbox(self, image: Image.Image) -> tuple[Tensor, tuple[int, int]]:
        if image.mode != "RGB":
            raise ValueError(
                f"expected RGB images, got mode {image.mode}. Open them with pixellm.imaging.images.load_image."
            )
        resized = geometry.resize_longest_side(image, self.image_size)
        pixels = np.asarray(resized, dtype=np.float32) / 255
        pixels = (pixels - np.float32(self.image_mean)) / np.float32(self.image_std)
        square = np.zeros((self.image_size, self.image_size, 3), dtype=np.float32)
        square[: resized.height, : resized.width] = pixels
        return torch.from_numpy(square).permute(2, 0, 1), (resized.height, resized.width)


class PixelLMProcessor(ProcessorMixin):
    """Tokenizer, image settings and prompt template of a checkpoint.

    Args:
        image_processor: see `PixelLMImageProcessor`.
        tokenizer: of the language model, with the codebook among its added tokens.
        codebook_tokens: the L·N tokens of a group, in order.
        num_image_tokens: tokens that one image takes in the language model.
        system: system prompt, plain text.
        prefix: template of what precedes the question, `{system}` in it; `<image>` marks the image.
        prompt: template of a question, `{question}`, up to where the answer begins.
        answer: template of an answer, `{answer}`, with the token that ends it.
        control_tokens: tokens of the templates that are control tokens, besides `<image>` and the codebook.
        strip_text: text next to a control token loses its white space there (LLaMA's released tokenizers).
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
        self._control_ids = {
            token: cast("int", tokenizer.convert_tokens_to_ids(token))
            for token in [*self.control_tokens, *self.codebook_tokens]
        }
        unknown = [
            t
            for t, i in self._control_ids.items()
            if i is None or (i == tokenizer.unk_token_id and t != tokenizer.unk_token)
        ]
        if unknown:
            raise ValueError(f"expected control tokens that the tokenizer has, got {unknown}. Add them to it first.")
        self._control = re.compile("|".join(re.escape(t) for t in ["<image>", *self._control_ids]))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Load the processor of a checkpoint; a ValueError if its files are malformed."""
        with readable(pretrained_model_name_or_path, "a processor_config.json and a tokenizer"):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @property
    def codebook_ids(self) -> list[int]:
        return [self._control_ids[token] for token in self.codebook_tokens]

    @property
    def prefix_ids(self) -> list[int]:
        """Ids of system text and image, shared by all questions; the image's positions hold `IMAGE_TOKEN_ID`."""
        ids = self._encode(self.prefix, system=self.system)
        at = ids.index(IMAGE_TOKEN_ID)
        return [*ids[:at], *[IMAGE_TOKEN_ID] * self.num_image_tokens, *ids[at + 1 :]]

    @property
    def eos_ids(self) -> list[int]:
        """Ids that end an answer: the last control token of the answer template."""
        return self._encode(self.answer, answer="")[-1:]

    def prompt_ids(self, question: str, history: Sequence[Answer] = ()) -> list[int]:
        """Ids of a question, up to where the answer begins; `history`: what was asked and answered before it.

        All text of the history is plain text. A codebook group stands where a target's phrase ends.
        """
        past = [self._encode(self.prompt, question=answer.question) + self._said_ids(answer) for answer in history]
        return [*chain.from_iterable(past), *self._encode(self.prompt, question=question)]

    def _said_ids(self, answer: Answer) -> list[int]:
        cuts = [0, *sorted(target.span[1] for target in answer.targets), len(answer.text)]
        return self._encode(self.answer, answer=[answer.text[start:end] for start, end in pairwise(cuts)])

    def answer_ids(self, answer: str) -> list[int]:
        """Ids of a training answer, in which every `{seg}` becomes a codebook group, with the token that ends it."""
        return self._encode(self.answer, answer=answer.split(SEG_SLOT))

    def _encode(self, template: str, **fields: str | Sequence[str]) -> list[int]:
        """Tokenise a template: its control tokens by id, runs of text between them with what users wrote put in.

        Between the pieces of a field that has several there is a codebook group.
        """
        runs: list[int | str] = [""]

        def control(ids: list[int]) -> None:
            runs.extend([*ids, ""])

        def literal(text: str) -> None:
            position = 0
            for match in self._control.finditer(text):
                runs[-1] += text[position : match.start()]
                control([IMAGE_TOKEN_ID if match.group() == "<image>" else self._control_ids[match.group()]])
                position = match.end()
            runs[-1] += text[position:]

        for index, piece_or_field in enumerate(_FIELD.split(template)):
            if index % 2 == 0:
                literal(piece_or_field)
                continue
            pieces = fields[piece_or_field]
            for slot, piece in enumerate([pieces] if isinstance(pieces, str) else pieces):
                if slot:
                    # No space token between a phrase and its mask: the state before a group is the phrase's last word.
                    runs[-1] = runs[-1].rstrip() if isinstance(runs[-1], str) else runs[-1]
                    control(self.codebook_ids)
                runs[-1] += piece
        ids: list[int] = []
        for index, run in enumerate(runs):
            if isinstance(run, str):
                ids.extend(self._encode_text(run, before=index < len(runs) - 1))
            else:
                ids.append(run)
        return ids

    def _encode_text(self, text: str, before: bool) -> list[int]:
        """A run of plain text that follows a control token, and stands `before` another one or at the end."""
        if self.strip_text:
            text = text.strip() if before else text.lstrip()
        if not text:
            return []
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of ids without codebook tokens; control tokens are dropped."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

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
