"""Ask a trained model: load → set_image → ask.

A photograph is encoded once; all questions on it share its image features and key-value prefix.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModel

from pixellm import geometry, hub
from pixellm.images import ImageSource, load_image
from pixellm.model import PixelLMForConditionalGeneration, PixelLMProcessor
from pixellm.model.answering import AnswerBuilder
from pixellm.model.generation import Prefix, Sampling, Step, encode_prefix, generate
from pixellm.types import SEG_SLOT, Answer, Conversation, Done, Event, Sample, Target, TextPiece


class _Asked(NamedTuple):
    """A question, its photograph, and the photograph's row in the encoded prefix."""

    question: str
    photograph: Image.Image
    image: int


class Predictor:
    """Answers questions about photographs with text and masks.

    Args:
        model: a PixelLM model; it is put into eval mode.
        processor: its processor.
        system: system prompt in place of the checkpoint's own; plain text.
        sampling: settings of `pixellm.model.generation.Sampling` where who asks does not say.
    """

    def __init__(
        self,
        model: PixelLMForConditionalGeneration,
        processor: PixelLMProcessor,
        system: str | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.processor = model.eval(), copy.copy(processor)
        self.sampling = dict(sampling or {})
        if system is not None:
            self.processor.system = system
        self._photograph: tuple[Image.Image, Prefix] | None = None

    @classmethod
    def load(
        cls,
        name: str | Path = hub.MINI,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        system: str | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> "Predictor":
        """Load a model by name (`pixellm models` lists them), by Hugging Face Hub id, or from a directory.

        Raises:
            ValueError: no such model, or a directory that does not hold one.
        """
        directory = hub.resolve(str(name))
        model = AutoModel.from_pretrained(directory, dtype=dtype)
        if not isinstance(model, PixelLMForConditionalGeneration):
            raise ValueError(f"expected a model that writes answers in {directory}, got a {type(model).__name__}.")
        return cls(model.to(device), PixelLMProcessor.from_pretrained(directory), system, sampling)

    def set_image(self, image: ImageSource) -> None:
        """Encode a photograph: a path, `example:NAME`, a PIL image, or a NumPy array (H, W[, C]).

        Raises:
            ValueError: nothing that can be read as an image.
        """
        photograph = load_image(image)
        self._photograph = (photograph, self._encode([photograph]))

    def ask(self, question: str, **sampling) -> Answer:
        """Answer a question on the photograph of `set_image`.

        Args:
            question: any text; control tokens in it are plain text.
            sampling: see `pixellm.model.generation.Sampling`.
        """
        return self.ask_many([question], **sampling)[0]

    def ask_many(self, questions: Sequence[str], **sampling) -> list[Answer]:
        """Answer several questions on the same photograph at once, each as if it were asked alone."""
        photograph, prefix = self._current()
        if not questions:
            return []
        return self._answers(prefix, [_Asked(question, photograph, 0) for question in questions], sampling)

    def ask_batch(self, images: Sequence[ImageSource], questions: Sequence[str], **sampling) -> list[Answer]:
        """Answer one question on each photograph, all at once; the photograph of `set_image` stays as it is."""
        if len(images) != len(questions):
            raise ValueError(
                f"expected one question for each image, got {len(images)} images and {len(questions)} questions. "
                "For several questions on one image use ask_many."
            )
        if not images:
            return []
        photographs = [load_image(image) for image in images]
        asked = [_Asked(question, photographs[i], i) for i, question in enumerate(questions)]
        return self._answers(self._encode(photographs), asked, sampling)

    @torch.inference_mode()
    def segment_given(self, questions: Sequence[str], answers: Sequence[str]) -> list[Answer]:
        """The masks of answers that are given, teacher-forced: one forward pass for all of them, nothing is generated.

        Args:
            questions: on the photograph of `set_image`.
            answers: for each, with a `{seg}` where a mask belongs; in the answers that come back it is left out.
        """
        photograph, _ = self._current()
        masks = [np.zeros((answer.count(SEG_SLOT), 1, 1), dtype=bool) for answer in answers]  # never looked at
        turns = tuple(Conversation(*turn) for turn in zip(questions, answers, masks, strict=True))
        batch = self.processor([Sample(photograph, turns)])
        device = self.model.device
        pixels = batch.pixel_values.to(device, self.model.dtype)
        inputs = (batch.resized_hw.to(device), batch.input_ids.to(device), batch.segment_ids.to(device))
        context = batch.context_pixel_values
        context = None if context is None else context.to(device, self.model.dtype)
        (logits,) = self.model(pixels, *inputs, context_pixel_values=context).mask_logits
        height, width = batch.resized_hw[0].tolist()
        restored = iter(geometry.restore(logits, (height, width), (photograph.height, photograph.width)))
        return [self._given(turn, restored, photograph) for turn in turns]

    def _given(self, turn: Conversation, logits: Iterator[Tensor], photograph: Image.Image) -> Answer:
        builder = AnswerBuilder(turn.question, photograph, self.model.config.peak_share)
        first, *rest = turn.answer.split(SEG_SLOT)
        builder.add_text(first)
        for piece in rest:
            builder.add_target(next(logits))
            builder.add_text(piece)
        return builder.finish()

    def stream(self, question: str, **sampling) -> Iterator[Event]:
        """Answer piece by piece: `TextPiece`, then a `Target` as soon as its mask is there, at the end `Done`."""
        photograph, prefix = self._current()
        for _, event in self._events(prefix, [_Asked(question, photograph, 0)], sampling):
            yield event

    def _current(self) -> tuple[Image.Image, Prefix]:
        if self._photograph is None:
            raise ValueError("expected an image before the first question. Call set_image first.")
        return self._photograph

    def _encode(self, photographs: list[Image.Image]) -> Prefix:
        inputs = self.processor.images(photographs)
        device, dtype = self.model.device, self.model.dtype
        context = inputs.get("context_pixel_values")
        return encode_prefix(
            self.model,
            inputs["pixel_values"].to(device, dtype),
            inputs["resized_hw"].to(device),
            self.processor.prefix_ids,
            None if context is None else context.to(device, dtype),
        )

    def _answers(self, prefix: Prefix, asked: Sequence[_Asked], sampling: dict) -> list[Answer]:
        answers: dict[int, Answer] = {}
        for row, event in self._events(prefix, asked, sampling):
            if isinstance(event, Done):
                answers[row] = event.answer
        return [answers[row] for row in range(len(asked))]

    def _events(self, prefix: Prefix, asked: Sequence[_Asked], sampling: dict) -> Iterator[tuple[int, Event]]:
        """Events of all rows, each with its row."""
        if not all(one.question.strip() for one in asked):
            raise ValueError("expected a question, got an empty text.")
        prompts = [self.processor.prompt_ids(one.question) for one in asked]
        share = self.model.config.peak_share
        rows = [_RowDecoder(self.processor, AnswerBuilder(one.question, one.photograph, share)) for one in asked]
        images = [one.image for one in asked]
        settings = Sampling(**{"no_repeat_ngram_size": self.model.config.repeat_guard, **self.sampling, **sampling})
        for step in generate(self.model, prefix, images, prompts, self.processor.eos_ids, settings):
            row = rows[step.row]
            if step.states is not None:
                logits = self._mask(prefix, images[step.row], step.states, row.builder.image)
                events = row.target(step, logits)
            else:
                events = row.text(step)
            yield from ((step.row, event) for event in events)

    @torch.inference_mode()
    def _mask(self, prefix: Prefix, image: int, states: Tensor, photograph: Image.Image) -> Tensor:
        """States of one group → (H, W) logits at the photograph's size."""
        logits, _ = self.model.decode_masks(prefix.images, states, torch.tensor([image], device=states.device))
        height, width = prefix.images.resized_hw[image].tolist()
        return geometry.restore(logits, (height, width), (photograph.height, photograph.width))[0]


class _RowDecoder:
    """One row's steps → events. Text is decoded again with every token of its run, so that split characters join."""

    def __init__(self, processor: PixelLMProcessor, builder: AnswerBuilder) -> None:
        self.processor, self.builder = processor, builder
        self._run: list[int] = []
        self._decoded = ""

    def text(self, step: Step) -> list[Event]:
        self._run.extend(step.ids)
        self.builder.token_ids.extend(step.ids)
        return [*self._new_text(final=step.finished), *self._end(step)]

    def target(self, step: Step, logits: Tensor) -> list[Event]:
        events: list[Event] = self._new_text(final=True)
        self._run, self._decoded = [], ""
        self.builder.token_ids.extend(step.ids)
        target: Target = self.builder.add_target(logits)
        return [*events, target, *self._end(step)]

    def _new_text(self, final: bool) -> list[Event]:
        decoded = self.processor.decode_text(self._run)
        if decoded.endswith("\N{REPLACEMENT CHARACTER}") and not final:
            return []
        piece = self.builder.add_text(decoded[len(self._decoded) :])
        self._decoded = decoded
        return [TextPiece(piece)] if piece else []

    def _end(self, step: Step) -> list[Event]:
        return [Done(self.builder.finish())] if step.finished else []
