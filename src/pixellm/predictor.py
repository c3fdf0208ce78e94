"""Ask a trained model: set_image → ask.

An image is encoded once; all questions on it share its features and the KV cache of its prefix.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixellm.imaging.images import ImageSource, load_image
from pixellm.imaging.postprocess import Binary, binarize
from pixellm.inference.answer_builder import AnswerBuilder
from pixellm.inference.generation import Prefix, Sampling, Step, encode_prefix, generate
from pixellm.inference.refinement import Refinement
from pixellm.model import PixelLMForConditionalGeneration, PixelLMProcessor
from pixellm.model.modeling import ForwardStates
from pixellm.model.prompts import Prompts
from pixellm.types import SEG_SLOT, Answer, Conversation, Done, Event, Sample, Target, TextPiece
from pixellm.utils.checks import check_min_score, check_text


class _Query(NamedTuple):
    """A question, its image, and the image's row in the encoded prefix."""

    question: str
    image: Image.Image
    row: int
    history: tuple[Answer, ...] = ()


class Predictor:
    """Answers questions about images with text and masks; `pixellm.load` makes one from a model's name.

    Args:
        model: a PixelLM model; it is put into eval mode.
        processor: its processor.
        system: system prompt in place of the checkpoint's own; plain text.
        sampling: settings of `pixellm.inference.generation.Sampling` where who asks does not say.
        max_prompt_tokens: image, system prompt, earlier turns and question together; None: the LLM's whole context.
        min_score: 0..1, targets with a lower confidence (see `Target`) are left out of answers where who asks does not
            say; 0: none are.

    Raises:
        ValueError: `min_score` is not in 0..1.
    """

    teacher_forcing = True

    def __init__(
        self,
        model: PixelLMForConditionalGeneration,
        processor: PixelLMProcessor,
        system: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        max_prompt_tokens: int | None = None,
        min_score: float = 0.0,
    ) -> None:
        self.model, self.processor = model.eval(), copy.copy(processor)
        self.max_prompt_tokens = max_prompt_tokens or model.config.text_config.max_position_embeddings
        self.sampling = dict(sampling or {})
        self.min_score = check_min_score(min_score)
        if system is not None:
            self.processor.system = system
        self._image: tuple[Image.Image, Prefix] | None = None
        self._refinement: Refinement | None = None  # of that image

    def set_image(self, image: ImageSource) -> None:
        """Encode an image: a path, `example:NAME`, a PIL image, or a NumPy array (H, W[, C]).

        Raises:
            ValueError: nothing that can be read as an image.
        """
        loaded = load_image(image)
        self._image = (loaded, self.encode([loaded]))
        self._refinement = Refinement(self.model, loaded, self._image[1].images)

    def __call__(self, image: ImageSource, question: str, min_score: float | None = None, **sampling) -> Answer:
        """Encode an image and answer a question on it; see `set_image` and `ask`."""
        self.set_image(image)
        return self.ask(question, min_score=min_score, **sampling)

    def ask(self, question: str, history: Sequence[Answer] = (), min_score: float | None = None, **sampling) -> Answer:
        """Answer a question on the image of `set_image`.

        Args:
            question: any text; control tokens in it are plain text.
            history: earlier answers on it that this question goes on from, the oldest first.
            min_score: 0..1, targets with a lower confidence are left out of the answer, whose text stays as it is;
                None: the predictor's own.
            sampling: see `pixellm.inference.generation.Sampling`.

        Raises:
            ValueError: no image yet, an empty question or one that is too long, or a wrong `min_score` or setting.
        """
        image, prefix = self._current()
        return self._answers(prefix, [_Query(question, image, 0, tuple(history))], min_score, sampling)[0]

    def ask_many(self, questions: Sequence[str], min_score: float | None = None, **sampling) -> list[Answer]:
        """Answer several questions on the same image at once; each answer equals that of `ask`."""
        image, prefix = self._current()
        if not questions:
            return []
        return self._answers(prefix, [_Query(question, image, 0) for question in questions], min_score, sampling)

    def ask_batch(
        self, images: Sequence[ImageSource], questions: Sequence[str], min_score: float | None = None, **sampling
    ) -> list[Answer]:
        """Answer one question on each image, all at once; the image of `set_image` stays as it is."""
        if len(images) != len(questions):
            raise ValueError(
                f"expected one question for each image, got {len(images)} images and {len(questions)} questions. "
                "For several questions on one image use ask_many."
            )
        single = [[question] for question in questions]
        return [answer for (answer,) in self.ask_about(images, single, min_score, **sampling)]

    def ask_about(
        self,
        images: Sequence[ImageSource],
        questions: Sequence[Sequence[str]],
        min_score: float | None = None,
        **sampling,
    ) -> list[list[Answer]]:
        """Answer each image's questions, all at once; the image of `set_image` stays as it is."""
        loaded = [load_image(image) for image in images]
        queries = [
            _Query(question, image, row)
            for row, (image, texts) in enumerate(zip(loaded, questions, strict=True))
            for question in texts
        ]
        if not queries:
            return [[] for _ in images]
        answers = iter(self._answers(self.encode(loaded), queries, min_score, sampling))
        return [[next(answers) for _ in texts] for texts in questions]

    @torch.inference_mode()
    def segment_given(self, questions: Sequence[str], answers: Sequence[str]) -> list[Answer]:
        """Decode the masks of given answers, teacher-forced: one forward pass for all of them, nothing is generated.

        Targets below the predictor's `min_score` are left out.

        Args:
            questions: about the image of `set_image`.
            answers: one for each question, with a `{seg}` for each mask; the returned answers are without it.
        """
        image, _ = self._current()
        unread = [np.zeros((answer.count(SEG_SLOT), 1, 1), dtype=bool) for answer in answers]
        turns = tuple(Conversation(*turn) for turn in zip(questions, answers, unread, strict=True))
        batch = self.processor([Sample(image, turns)])
        states = self.forward_states(batch)
        (logits,) = states.mask_logits
        presence = self.model.presence_scores(states.images, states.group_states, states.groups[:, 0], logits)
        height, width = states.images.resized_hw[0].tolist()
        masks = binarize(logits, (height, width), (image.height, image.width), self.model.peak_share)
        scored = zip(masks, [None] * len(logits) if presence is None else presence.tolist(), strict=True)
        return [self._with_masks(turn, scored, image).above(self.min_score) for turn in turns]

    def forward_states(self, batch: Any) -> ForwardStates:
        """Run a teacher-forced pass over a batch of the processor, on the model's device."""
        device, dtype = self.model.device, self.model.dtype
        inputs = (batch.resized_hw.to(device), batch.input_ids.to(device), batch.segment_ids.to(device))
        context = batch.context_pixel_values
        context = None if context is None else context.to(device, dtype)
        return self.model.forward_states(batch.pixel_values.to(device, dtype), *inputs, context_pixel_values=context)

    def _with_masks(
        self, turn: Conversation, masks: Iterator[tuple[Binary, float | None]], image: Image.Image
    ) -> Answer:
        builder = AnswerBuilder(turn.question, image)
        first, *rest = turn.answer.split(SEG_SLOT)
        builder.add_text(first)
        for piece in rest:
            mask, presence = next(masks)
            builder.add_target(*mask, presence)
            builder.add_text(piece)
        return builder.finish()

    def stream(
        self, question: str, history: Sequence[Answer] = (), min_score: float | None = None, **sampling
    ) -> Iterator[Event]:
        """Answer piece by piece: `TextPiece`, then a `Target` as soon as its mask is there, at the end `Done`.

        A target below `min_score` is neither yielded nor in the answer; see `ask`.
        """
        image, prefix = self._current()
        for _, event in self._events(prefix, [_Query(question, image, 0, tuple(history))], min_score, sampling):
            yield event

    @property
    def takes_prompts(self) -> bool:
        """Return whether the model can `refine` targets."""
        return self.model.takes_prompts

    @overload
    def refine(
        self,
        target: Target,
        index: None = None,
        *,
        points: Sequence[Sequence[float]] = (),
        box: Sequence[float] | None = None,
        strokes: Sequence[tuple[Sequence[Sequence[float]], bool]] = (),
    ) -> Target: ...

    @overload
    def refine(
        self,
        target: Answer,
        index: int,
        *,
        points: Sequence[Sequence[float]] = (),
        box: Sequence[float] | None = None,
        strokes: Sequence[tuple[Sequence[Sequence[float]], bool]] = (),
    ) -> Answer: ...

    def refine(
        self,
        target: Target | Answer,
        index: int | None = None,
        *,
        points: Sequence[Sequence[float]] = (),
        box: Sequence[float] | None = None,
        strokes: Sequence[tuple[Sequence[Sequence[float]], bool]] = (),
    ) -> Target | Answer:
        """Correct one target on the image of `set_image`; text and other targets of an answer stay as they are.

        Prompts are in pixels of the image, x to the right and y down. A target that was refined already keeps its
        earlier prompts; a new box replaces the earlier one.

        Args:
            target: the target, or its answer.
            index: of the target in the answer.
            points: (x, y, positive) of each: 1 for a pixel of the object, 0 for one that is not.
            box: (x, y, width, height) around the object, as `Target.box`.
            strokes: the points (x, y) of each line, and whether it lies on the object.

        Returns:
            The target with another mask and score; of an answer, the answer with that target.

        Raises:
            ValueError: no image yet, no prompt or a malformed one, a target of another image size, no such target, or
                a model that was not trained with prompts.
        """
        image, _ = self._current()
        assert self._refinement is not None
        prompts = Prompts.read(points, box, strokes, (image.height, image.width))
        if isinstance(target, Target):
            return self._refinement.refine(target, prompts)
        if index is None or not 0 <= index < len(target.targets):
            raise ValueError(f"expected the index of one of the answer's {len(target.targets)} targets, got {index}.")
        refined = self._refinement.refine(target.targets[index], prompts)
        return replace(target, targets=(*target.targets[:index], refined, *target.targets[index + 1 :]))

    def prompt_ids(self, question: str, history: Sequence[Answer] = ()) -> list[int]:
        """See `PixelLMProcessor.prompt_ids`; a ValueError if nothing is asked, or the prompt is too long."""
        ids = self.processor.prompt_ids(check_text(question), history)
        tokens = len(self.processor.prefix_ids) + len(ids)
        if tokens > self.max_prompt_tokens:
            raise ValueError(
                f"expected at most {self.max_prompt_tokens} tokens of image, earlier turns and question, got {tokens}. "
                "Shorten the question, or leave out earlier turns."
            )
        return ids

    def settings(self, **sampling) -> Sampling:
        """Merge sampling settings: the caller's, then this predictor's, then the model's defaults."""
        return Sampling(**{**self.model.default_sampling, **self.sampling, **sampling})

    def _current(self) -> tuple[Image.Image, Prefix]:
        if self._image is None:
            raise ValueError("expected an image before the first question. Call set_image first.")
        return self._image

    def encode(self, images: Sequence[Image.Image]) -> Prefix:
        """Encode images and the prompt's prefix, which all questions on them share."""
        inputs = self.processor.images(images)
        device, dtype = self.model.device, self.model.dtype
        context = inputs.get("context_pixel_values")
        return encode_prefix(
            self.model,
            inputs["pixel_values"].to(device, dtype),
            inputs["resized_hw"].to(device),
            self.processor.prefix_ids,
            None if context is None else context.to(device, dtype),
        )

    def _answers(
        self, prefix: Prefix, queries: Sequence[_Query], min_score: float | None, sampling: dict
    ) -> list[Answer]:
        answers: dict[int, Answer] = {}
        for row, event in self._events(prefix, queries, min_score, sampling):
            if isinstance(event, Done):
                answers[row] = event.answer
        return [answers[row] for row in range(len(queries))]

    def _events(
        self, prefix: Prefix, queries: Sequence[_Query], min_score: float | None, sampling: dict
    ) -> Iterator[tuple[int, Event]]:
        """Yield the events of all rows, each with its row."""
        least = check_min_score(self.min_score if min_score is None else min_score)
        prompts = [self.prompt_ids(query.question, query.history) for query in queries]
        rows = [AnswerDecoder(self, query.question, query.image, prefix, query.row, least) for query in queries]
        images = [query.row for query in queries]
        settings = self.settings(**sampling)
        for step in generate(self.model, prefix, images, prompts, self.processor.eos_ids, settings):
            yield from ((step.row, event) for event in rows[step.row].events(step))


class AnswerDecoder:
    """Converts the steps of one row to events.

    Text is decoded again with every token of its run, so that split characters join.

    Args:
        predictor: whose model makes the steps.
        question: the question.
        image: its image.
        prefix: the encoded prefix that holds the image.
        row: row of the image in the prefix.
        min_score: 0..1, targets with a lower confidence make no event and are not in the answer.
    """

    def __init__(
        self,
        predictor: Predictor,
        question: str,
        image: Image.Image,
        prefix: Prefix,
        row: int = 0,
        min_score: float = 0.0,
    ) -> None:
        self.model, self.processor, self.min_score = predictor.model, predictor.processor, min_score
        self.builder = AnswerBuilder(question, image)
        self._prefix, self._image_row = prefix, row
        self._run: list[int] = []
        self._decoded = ""

    def events(self, step: Step) -> list[Event]:
        """Return the events that a step adds to the answer."""
        self.builder.token_ids.extend(step.ids)
        if step.states is None:
            self._run.extend(step.ids)
            events = self._new_text(final=step.finished)
        else:
            text = self._new_text(final=True)
            mask, presence = self._mask(step.states)
            target = self.builder.add_target(*mask, presence)
            events = [*text, target] if target.reaches(self.min_score) else text
            self._run, self._decoded = [], ""
        return [*events, Done(self.builder.finish().above(self.min_score))] if step.finished else events

    def _new_text(self, final: bool) -> list[Event]:
        decoded = self.processor.decode_text(self._run)
        if decoded.endswith("\N{REPLACEMENT CHARACTER}") and not final:
            return []
        piece = self.builder.add_text(decoded[len(self._decoded) :])
        self._decoded = decoded
        return [TextPiece(piece)] if piece else []

    @torch.inference_mode()
    def _mask(self, states: Tensor) -> tuple[Binary, float | None]:
        """Decode the states of one group to its mask at the image's size, and its presence score."""
        images, image = self._prefix.images, self.builder.image
        row = torch.tensor([self._image_row], device=states.device)
        logits = self.model.decode_masks(images, states, row)
        presence = self.model.presence_scores(images, states, row, logits)
        height, width = images.resized_hw[self._image_row].tolist()
        (mask,) = binarize(logits, (height, width), (image.height, image.width), self.model.peak_share)
        return mask, None if presence is None else float(presence)
