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
from transformers import AutoConfig, AutoModel

from pixellm.cost.memory import LoadOptions, expect_room
from pixellm.hub.models import MINI, resolve
from pixellm.imaging.images import ImageSource, load_image
from pixellm.imaging.postprocess import Binary, binarize
from pixellm.inference.answer_builder import AnswerBuilder
from pixellm.inference.generation import Prefix, Sampling, Step, encode_prefix, generate
from pixellm.inference.quantization import Quantize, load_quantised
from pixellm.model import PixelLMConfig, PixelLMForConditionalGeneration, PixelLMProcessor
from pixellm.types import SEG_SLOT, Answer, Conversation, Done, Event, Sample, TextPiece


class _Asked(NamedTuple):
    """A question, its photograph, and the photograph's row in the encoded prefix."""

    question: str
    photograph: Image.Image
    image: int
    history: tuple[Answer, ...] = ()


class Predictor:
    """Answers questions about photographs with text and masks.

    Args:
        model: a PixelLM model; it is put into eval mode.
        processor: its processor.
        system: system prompt in place of the checkpoint's own; plain text.
        sampling: settings of `pixellm.inference.generation.Sampling` where who asks does not say.
    """

    teacher_forcing = True

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
        name: str | Path = MINI,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        system: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        quantize: Quantize | None = None,
    ) -> "Predictor":
        """Load a model by name (`pixellm models` lists them), by Hugging Face Hub id, or from a directory.

        Args:
            name: of the model.
            device: where it runs.
            dtype: of its weights.
            system: see `Predictor`.
            sampling: see there.
            quantize: the language model's weights at 8 or 4 bits, see `pixellm.inference.quantization`.

        Raises:
            ValueError: no such model, a directory that does not hold one, or weights that don't fit into memory.
            ModuleNotFoundError: torchao is missing, with which weights are quantised (the extra `quant`).
        """
        directory = resolve(str(name))
        config = AutoConfig.from_pretrained(directory)
        if not isinstance(config, PixelLMConfig):
            raise ValueError(f"expected a model that writes answers in {directory}, got a {config.model_type!r}.")
        expect_room(directory, config, LoadOptions(dtype, quantize, str(device)))
        if quantize is None:
            model = AutoModel.from_pretrained(directory, dtype=dtype).to(device)
        else:
            model = load_quantised(directory, config, quantize, torch.device(device), dtype)
        return cls(model, PixelLMProcessor.from_pretrained(directory), system, sampling)

    def set_image(self, image: ImageSource) -> None:
        """Encode a photograph: a path, `example:NAME`, a PIL image, or a NumPy array (H, W[, C]).

        Raises:
            ValueError: nothing that can be read as an image.
        """
        photograph = load_image(image)
        self._photograph = (photograph, self.encode([photograph]))

    def ask(self, question: str, history: Sequence[Answer] = (), **sampling) -> Answer:
        """Answer a question on the photograph of `set_image`.

        Args:
            question: any text; control tokens in it are plain text.
            history: earlier answers on it that this question goes on from, the oldest first.
            sampling: see `pixellm.inference.generation.Sampling`.
        """
        photograph, prefix = self._current()
        return self._answers(prefix, [_Asked(question, photograph, 0, tuple(history))], sampling)[0]

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
        return [answer for (answer,) in self.ask_about(images, [[question] for question in questions], **sampling)]

    def ask_about(
        self, images: Sequence[ImageSource], questions: Sequence[Sequence[str]], **sampling
    ) -> list[list[Answer]]:
        """Answer each photograph's questions, all at once; the photograph of `set_image` stays as it is."""
        photographs = [load_image(image) for image in images]
        asked = [
            _Asked(question, photograph, i)
            for i, (photograph, texts) in enumerate(zip(photographs, questions, strict=True))
            for question in texts
        ]
        if not asked:
            return [[] for _ in images]
        answers = iter(self._answers(self.encode(photographs), asked, sampling))
        return [[next(answers) for _ in texts] for texts in questions]

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
        size = (photograph.height, photograph.width)
        found = binarize(logits, (height, width), size, self.model.peak_share)
        return [self._given(turn, found, photograph) for turn in turns]

    def _given(self, turn: Conversation, found: Iterator[Binary], photograph: Image.Image) -> Answer:
        builder = AnswerBuilder(turn.question, photograph)
        first, *rest = turn.answer.split(SEG_SLOT)
        builder.add_text(first)
        for piece in rest:
            builder.add_target(*next(found))
            builder.add_text(piece)
        return builder.finish()

    def stream(self, question: str, history: Sequence[Answer] = (), **sampling) -> Iterator[Event]:
        """Answer piece by piece: `TextPiece`, then a `Target` as soon as its mask is there, at the end `Done`."""
        photograph, prefix = self._current()
        for _, event in self._events(prefix, [_Asked(question, photograph, 0, tuple(history))], sampling):
            yield event

    def prompt_ids(self, question: str, history: Sequence[Answer] = ()) -> list[int]:
        """See `PixelLMProcessor.prompt_ids`; a ValueError if nothing is asked."""
        if not question.strip():
            raise ValueError("expected a question, got an empty text.")
        return self.processor.prompt_ids(question, history)

    def settings(self, **sampling) -> Sampling:
        """What is asked for, then what this predictor was made with, then what its model is made for."""
        return Sampling(**{**self.model.default_sampling, **self.sampling, **sampling})

    def _current(self) -> tuple[Image.Image, Prefix]:
        if self._photograph is None:
            raise ValueError("expected an image before the first question. Call set_image first.")
        return self._photograph

    def encode(self, photographs: Sequence[Image.Image]) -> Prefix:
        """What all questions on some photographs share."""
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
        prompts = [self.prompt_ids(one.question, one.history) for one in asked]
        rows = [AnswerDecoder(self, one.question, one.photograph, prefix, one.image) for one in asked]
        images = [one.image for one in asked]
        settings = self.settings(**sampling)
        for step in generate(self.model, prefix, images, prompts, self.processor.eos_ids, settings):
            yield from ((step.row, event) for event in rows[step.row].events(step))


class AnswerDecoder:
    """One row's steps → events.

    Text is decoded again with every token of its run, so that split characters join.

    Args:
        predictor: whose model makes the steps.
        question: what is answered.
        photograph: what it is asked about.
        prefix: that holds the photograph.
        image: its row there.
    """

    def __init__(
        self, predictor: Predictor, question: str, photograph: Image.Image, prefix: Prefix, image: int = 0
    ) -> None:
        self.model, self.processor = predictor.model, predictor.processor
        self.builder = AnswerBuilder(question, photograph)
        self._prefix, self._image = prefix, image
        self._run: list[int] = []
        self._decoded = ""

    def events(self, step: Step) -> list[Event]:
        """What a step adds to the answer."""
        self.builder.token_ids.extend(step.ids)
        if step.states is None:
            self._run.extend(step.ids)
            events = self._new_text(final=step.finished)
        else:
            events = [*self._new_text(final=True), self.builder.add_target(*self._mask(step.states))]
            self._run, self._decoded = [], ""
        return [*events, Done(self.builder.finish())] if step.finished else events

    def _new_text(self, final: bool) -> list[Event]:
        decoded = self.processor.decode_text(self._run)
        if decoded.endswith("\N{REPLACEMENT CHARACTER}") and not final:
            return []
        piece = self.builder.add_text(decoded[len(self._decoded) :])
        self._decoded = decoded
        return [TextPiece(piece)] if piece else []

    @torch.inference_mode()
    def _mask(self, states: Tensor) -> Binary:
        """States of one group → its mask at the photograph's size."""
        images, photograph = self._prefix.images, self.builder.image
        logits = self.model.decode_masks(images, states, torch.tensor([self._image], device=states.device))
        height, width = images.resized_hw[self._image].tolist()
        size = (photograph.height, photograph.width)
        (found,) = binarize(logits, (height, width), size, self.model.peak_share)
        return found
