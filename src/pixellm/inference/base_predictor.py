"""Questions about images, whatever runs the model: set_image → ask.

An image is encoded once; all questions on it share its features and the KV cache of its prefix.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from PIL import Image

from pixellm.imaging.images import ImageSource, load_image
from pixellm.imaging.masks import Rle
from pixellm.imaging.visual_prompts import Marks, Prompts, untrained
from pixellm.inference.answer_builder import AnswerBuilder
from pixellm.inference.refinement import Refinement
from pixellm.prompts import IMAGE_TOKEN_ID
from pixellm.sampling import Sampling
from pixellm.types import Answer, Done, Event, Segmenter, Target, TextPiece
from pixellm.utils.checks import check_min_score, check_text


@dataclass(frozen=True)
class Step:
    """One step of a row: a text token, or a complete codebook group with its (L·N, D) states; maybe the last one."""

    row: int
    ids: tuple[int, ...]
    states: Any = None
    finished: bool = False


class Encoded(Protocol):
    """Encoded images with the KV cache of the prompt's prefix."""

    @property
    def nbytes(self) -> int: ...


class DecodingBatch(Protocol):
    """Rows that are decoded together; they may join and leave between any two steps."""

    def __len__(self) -> int:
        """Return the number of rows that are not finished."""
        ...

    def join(
        self,
        indices: Sequence[int],
        prefix: Any,
        image_index: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
    ) -> None:
        """Add R rows, whose steps have the given `indices`, with the ids that follow the prefix of their image."""
        ...

    def drop(self, indices: Container[int]) -> None:
        """Remove rows that need not be finished."""
        ...

    def step(self) -> Iterator[Step]:
        """Run one forward pass for all rows; the iterator has to be exhausted."""
        ...


class _Query(NamedTuple):
    """A question, its image, and the image's row in the encoded prefix."""

    question: str
    image: Image.Image
    row: int
    history: tuple[Answer, ...] = ()


class BasePredictor(Segmenter, ABC):
    """Answers questions about images with text and masks.

    A subclass runs a model: it implements `default_sampling`, `encode`, `decoding` and `decode_mask`; for models that
    correct masks `takes_prompts` and `correct_mask`, too.

    Args:
        processor: of the model.
        max_prompt_tokens: image, system prompt, earlier turns and question together.
        system: system prompt in place of the checkpoint's own; plain text.
        sampling: settings of `Sampling` where who asks does not say.
        min_score: 0..1, targets with a lower confidence (see `Target`) are left out of answers where who asks does not
            say; 0: none are.

    Raises:
        ValueError: `min_score` is not in 0..1.
    """

    def __init__(
        self,
        processor: Any,
        max_prompt_tokens: int,
        system: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        min_score: float = 0.0,
    ) -> None:
        self.processor = copy.copy(processor)
        self.max_prompt_tokens = max_prompt_tokens
        self.sampling = dict(sampling or {})
        self.min_score = check_min_score(min_score)
        if system is not None:
            self.processor.system = system
        self._image: tuple[Image.Image, Any] | None = None
        self._refinement: Refinement | None = None  # of this image

    @property
    @abstractmethod
    def default_sampling(self) -> Mapping[str, Any]:
        """Fields of `Sampling` that the model needs where the caller gives none."""

    @abstractmethod
    def encode(self, images: Sequence[Image.Image]) -> Any:
        """Encode images and the prompt's prefix, which all questions on them share."""

    @abstractmethod
    def decoding(self, joint: bool = True) -> DecodingBatch:
        """Return an empty batch.

        Args:
            joint: all rows are one matrix, which is fastest; their last bits then depend on how many there are.
        """

    @abstractmethod
    def decode_mask(self, encoded: Any, row: int, states: Any, image: Image.Image) -> tuple[Rle, float, float | None]:
        """Decode the states of a group to its mask at the image's size, its score, and its presence score."""

    @property
    def takes_prompts(self) -> bool:
        """Return whether the model can `refine` targets."""
        return False

    def correct_mask(
        self, encoded: Any, row: int, image: Image.Image, mask: np.ndarray, prompts: Prompts
    ) -> tuple[np.ndarray, float]:
        """Correct a mask, bool (H, W), by at least one prompt; return the new one and its score.

        Raises:
            ValueError: the model was not trained with prompts.
        """
        raise untrained()

    def refine_target(self, target: Target, marks: Marks) -> Target:
        image, encoded = self._current()
        if self._refinement is None:
            self._refinement = Refinement(image, partial(self.correct_mask, encoded, 0, image))
        return self._refinement.refine(target, marks)

    def refine_encoded(self, encoded: Any, image: Image.Image, target: Target, marks: Marks) -> Target:
        """Correct a target on the one image of `encoded`; see `refine`, but earlier marks don't count."""
        return Refinement(image, partial(self.correct_mask, encoded, 0, image)).refine(target, marks)

    def with_prompt(self, system: str | None, max_prompt_tokens: int | None) -> Self:
        """Return the same model with another system prompt and limit; None keeps the own one."""
        other = copy.copy(self)
        other.processor, other._image, other._refinement = copy.copy(self.processor), None, None
        other.max_prompt_tokens = max_prompt_tokens or self.max_prompt_tokens
        if system is not None:
            other.processor.system = system
        return other

    def set_image(self, image: ImageSource) -> None:
        """Encode an image: a path, `example:NAME`, a PIL image, or a NumPy array (H, W[, C]).

        The prompts of targets that were refined are forgotten.

        Raises:
            ValueError: nothing that can be read as an image.
        """
        loaded = load_image(image)
        self._image, self._refinement = (loaded, self.encode([loaded])), None

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
            sampling: see `pixellm.sampling.Sampling`.

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

    def stream(
        self, question: str, history: Sequence[Answer] = (), min_score: float | None = None, **sampling
    ) -> Iterator[Event]:
        """Answer piece by piece: `TextPiece`, then a `Target` as soon as its mask is there, at the end `Done`.

        A target below `min_score` is neither yielded nor in the answer; see `ask`.
        """
        image, prefix = self._current()
        for _, event in self._events(prefix, [_Query(question, image, 0, tuple(history))], min_score, sampling):
            yield event

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

    def prefix_tokens(self, encoded: Any) -> int:
        """Return the number of tokens before the question, those of the image included; `encoded` is of one image."""
        return len(self.processor.prefix_ids)

    def settings(self, **sampling) -> Sampling:
        """Merge sampling settings: the caller's, then this predictor's, then the model's defaults."""
        return Sampling(**{**self.default_sampling, **self.sampling, **sampling})

    def _current(self) -> tuple[Image.Image, Any]:
        if self._image is None:
            raise ValueError("expected an image before the first question. Call set_image first.")
        return self._image

    def _answers(self, prefix: Any, queries: Sequence[_Query], min_score: float | None, sampling: dict) -> list[Answer]:
        answers: dict[int, Answer] = {}
        for row, event in self._events(prefix, queries, min_score, sampling):
            if isinstance(event, Done):
                answers[row] = event.answer
        return [answers[row] for row in range(len(queries))]

    def _events(
        self, prefix: Any, queries: Sequence[_Query], min_score: float | None, sampling: dict
    ) -> Iterator[tuple[int, Event]]:
        """Yield the events of all rows, each with its row."""
        least = check_min_score(self.min_score if min_score is None else min_score)
        prompts = [self.prompt_ids(query.question, query.history) for query in queries]
        rows = [AnswerDecoder(self, query.question, query.image, prefix, query.row, least) for query in queries]
        images = [query.row for query in queries]
        decoding = self.decoding()
        decoding.join(range(len(prompts)), prefix, images, prompts, self.settings(**sampling))
        while decoding:
            for step in decoding.step():
                yield from ((step.row, event) for event in rows[step.row].events(step))


def earlier_ids(ids: Sequence[int], pending: int, count: int) -> list[int]:
    """Return the last `count` ids of a row before its last `pending` ones, padded on the left."""
    earlier = list(ids[: len(ids) - pending][-count:]) if count else []
    return [IMAGE_TOKEN_ID] * (count - len(earlier)) + earlier


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
        predictor: BasePredictor,
        question: str,
        image: Image.Image,
        prefix: Any,
        row: int = 0,
        min_score: float = 0.0,
    ) -> None:
        self._predictor, self.min_score = predictor, min_score
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
            image = self.builder.image
            mask = self._predictor.decode_mask(self._prefix, self._image_row, step.states, image)
            target = self.builder.add_target(*mask)
            events = [*text, target] if target.reaches(self.min_score) else text
            self._run, self._decoded = [], ""
        return [*events, Done(self.builder.finish().above(self.min_score))] if step.finished else events

    def _new_text(self, final: bool) -> list[Event]:
        decoded = self._predictor.processor.decode_text(self._run)
        if decoded.endswith("\N{REPLACEMENT CHARACTER}") and not final:
            return []
        piece = self.builder.add_text(decoded[len(self._decoded) :])
        self._decoded = decoded
        return [TextPiece(piece)] if piece else []
