"""Types that the packages exchange: Sample → Batch → Output → Answer.

Shapes:  B images · T tokens of a row · M masks of an image · G targets of a batch · H, W original size
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from pixellm.imaging import masks
from pixellm.imaging.images import ImageSource, check_pixels
from pixellm.imaging.masks import Rle
from pixellm.imaging.visual_prompts import Marks, untrained
from pixellm.utils.checks import check_score, check_span, expect

if TYPE_CHECKING:
    from supervision import Detections
    from torch import Tensor  # for commands that need no model, it takes too long to import

    from pixellm.imaging.contact_sheet import Card

SEG_SLOT = "{seg}"  # stands for a mask in the text of an answer
UNNAMED = "object"  # the category of a mask that the text has no words for
_ARTICLE = re.compile(r"(?:(?:the|an?)\s+)+(?=\S)")


@dataclass(frozen=True)
class Conversation:
    """One question and its answer; the answer holds one `{seg}` for each mask, in the same order.

    `masks` is bool (M, H, W); `ignored` bool (H, W), pixels that count neither as target nor as background;
    `continues`: it continues the conversation before it and sees that.
    """

    question: str
    answer: str
    masks: np.ndarray
    ignored: np.ndarray | None = None
    continues: bool = False


@dataclass(frozen=True)
class Sample:
    """One image with its conversations."""

    image: Image.Image
    conversations: tuple[Conversation, ...]
    record_id: str = ""


@dataclass
class Batch:
    """One row for each image: a shared prefix (system text, image), then its conversations one after another.

    Args:
        pixel_values: (B, 3, S, S).
        resized_hw: (B, 2) size in pixels of each image inside the square.
        input_ids: (B, T); the image's positions hold `IMAGE_TOKEN_ID`.
        segment_ids: (B, T); 0 prefix, k ≥ 1 conversation k, -1 padding. Conversations do not see each other.
        labels: (B, T); -100 where nothing is learned.
        target_masks: for each image bool (M, H, W), in the order of the codebook groups in its row.
        ignored: for each image bool, like its target masks: pixels of each that count as nothing; None: there are none.
        context_pixel_values: (B, 3, s, s) the LLM's own view of each image, for models that have one (LISA).
    """

    pixel_values: "Tensor"
    resized_hw: "Tensor"
    input_ids: "Tensor"
    segment_ids: "Tensor"
    labels: "Tensor | None" = None
    target_masks: "list[Tensor] | None" = None
    ignored: "list[Tensor] | None" = None
    context_pixel_values: "Tensor | None" = None


@dataclass
class Output:
    """Result of a teacher-forced pass; see `PixelLMForConditionalGeneration.forward`."""

    mask_logits: "list[Tensor]"
    losses: "dict[str, Tensor]" = field(default_factory=dict)

    @property
    def loss(self) -> "Tensor | None":
        """Sum of the losses; None without any."""
        import torch

        return torch.stack(list(self.losses.values())).sum() if self.losses else None


@dataclass(frozen=True)
class Target:
    """A mask of an answer, and the words that it stands for.

    Args:
        phrase: the words; "" if there are none.
        span: (start, end) of the phrase in the answer's text, in characters.
        rle: the mask at the image's size as a COCO RLE with its counts as text, ready for JSON; it may be empty.
        score: mean probability of the mask's pixels, 0..1 (0 for an empty mask); None where a file gives none.
        presence: probability that what the phrase names is in the image, 0..1; None where the model gives none.
    """

    phrase: str
    span: tuple[int, int]
    rle: Rle
    score: float | None = None
    presence: float | None = None

    @classmethod
    def of_mask(cls, phrase: str, span: tuple[int, int], mask: np.ndarray, score: float | None = None) -> "Target":
        """Make a target of a bool (H, W) array."""
        return cls(phrase, span, masks.encode(mask), score)

    @property
    def mask(self) -> np.ndarray:
        """Bool (H, W) at the image's size, decoded each time: an answer holds RLEs, which are small."""
        return masks.decode(self.rle, *self.rle["size"])

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return masks.area(self.rle)

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Tight box (x, y, width, height) in pixels; None where the mask is empty."""
        return masks.box(self.rle) if self.area else None

    @property
    def confidence(self) -> float | None:
        """`presence` where the model gives it, else `score`: what `min_score` and the metrics of scores use."""
        return self.score if self.presence is None else self.presence

    def reaches(self, min_score: float) -> bool:
        """Return whether the confidence is at least `min_score`; a target without one only reaches 0."""
        return (self.confidence or 0.0) >= min_score

    @property
    def category(self) -> str:
        """The phrase as the name of a category: in lower case, without an article."""
        name = _ARTICLE.sub("", " ".join(self.phrase.lower().split()), count=1)
        return name.strip(" .,;:!?\"'") or UNNAMED

    def to_json(self) -> dict[str, Any]:
        """Return everything, ready for `json.dumps`; `presence` only where there is one."""
        return {
            "phrase": self.phrase,
            "span": list(self.span),
            "score": None if self.score is None else round(self.score, 4),
            **({} if self.presence is None else {"presence": round(self.presence, 4)}),
            "area": self.area,
            "box": list(self.box) if self.area else None,
            "segmentation": dict(self.rle),
        }

    @classmethod
    def from_json(cls, row: Any, text: str, original_hw: tuple[int, int]) -> "Target":
        """Read `span`, `score`, `presence` and `segmentation` of a target in an answer's text; the rest follows.

        Raises:
            ValueError: a field is missing or malformed.
        """
        expect(row, dict, "a JSON object")
        if missing := sorted({"span", "segmentation"} - row.keys()):
            raise ValueError(f"expected the fields span and segmentation, got none called {', '.join(missing)}")
        start, end = check_span(row["span"], text)
        rle = masks.read_rle(row["segmentation"], *original_hw)
        score, presence = check_score(row.get("score")), check_score(row.get("presence"), "a presence score")
        return cls(text[start:end], (start, end), rle, score, presence)


@dataclass(frozen=True)
class Answer:
    """Text, and one target for each object that it names, in order.

    Args:
        question: as it was asked; "" if nobody kept it.
        text: the answer's words.
        targets: in the order of the text.
        original_hw: (height, width) of the image and of all masks; (0, 0) where a file without masks does not say.
        image: the image itself, where it is at hand.
        image_path: file of the image, or example:NAME.
        id: of the question in a file or benchmark.
        token_ids: tokens that were generated.
    """

    question: str
    text: str
    targets: tuple[Target, ...]
    original_hw: tuple[int, int]
    image: Image.Image | None = None
    image_path: str = ""
    id: str = ""
    token_ids: tuple[int, ...] = ()

    def above(self, min_score: float) -> "Answer":
        """Return the answer without the targets whose `confidence` is below `min_score` (0..1; 0: all stay).

        The text, and the spans of the targets that stay, are as they were.

        Raises:
            ValueError: a target has neither a score nor a presence score.
        """
        if not min_score:
            return self
        if any(target.confidence is None for target in self.targets):
            raise ValueError(
                f"{self.id or self.question or 'an answer'}: expected a score for every target, which min_score "
                f"{min_score:g} is compared with, got none. Add scores, or leave min_score out."
            )
        return replace(self, targets=tuple(target for target in self.targets if target.reaches(min_score)))

    def overlay(self) -> Image.Image:
        """Draw every mask in its colour on the image."""
        from pixellm.imaging.overlay import draw

        return draw(self._pixels(), self._rles, self._phrases)

    def card(self, note: str, good: bool | None = None) -> "Card":
        """Return this answer as a card of `pixellm.imaging.contact_sheet`."""
        from pixellm.imaging.contact_sheet import Card

        spans = [target.span for target in self.targets]
        return Card(self._pixels(), self.question, self.text, self._phrases, spans, self._rles, note, good)

    def to_detections(self) -> "Detections":
        """Return all targets as `supervision.Detections`, see `pixellm.imaging.overlay.detections`."""
        from pixellm.imaging.overlay import detections

        return detections(self._rles, self._phrases, [target.confidence for target in self.targets])

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: the overlay, and the text with each phrase in the colour of its mask."""
        from pixellm.imaging.overlay import html

        spans = [target.span for target in self.targets]
        return html(self.question, self.text, self._pixels(), self._rles, self._phrases, spans)

    @property
    def _rles(self) -> list[Rle]:
        return [target.rle for target in self.targets]

    @property
    def _phrases(self) -> list[str]:
        return [target.phrase for target in self.targets]

    def _pixels(self) -> Image.Image:
        if self.image is None:
            raise ValueError("expected an answer with its image, got one without. Load it and set `image`.")
        return self.image

    def to_json(self) -> dict[str, Any]:
        """Return everything but pixels and tokens, ready for `json.dumps`; `id` and `image` only where they are known.

        This is the format of all files of answers (JSON lines) and of the server's API.
        """
        return {
            **({"id": self.id} if self.id else {}),
            **({"image": self.image_path} if self.image_path else {}),
            "question": self.question,
            "text": self.text,
            "height": self.original_hw[0],
            "width": self.original_hw[1],
            "targets": [target.to_json() for target in self.targets],
        }

    @classmethod
    def from_json(cls, row: Any) -> "Answer":
        """Read what `to_json` returns; `id`, `image` and `question` may be missing.

        Raises:
            ValueError: a field is missing or malformed.
        """
        expect(row, dict, "a JSON object")
        if missing := sorted({"text", "height", "width", "targets"} - row.keys()):
            raise ValueError(
                f"expected the fields text, height, width and targets, got none called {', '.join(missing)}"
            )
        height, width = (expect(row[side], int, f"the {side} in pixels") for side in ("height", "width"))
        if (height, width) != (0, 0):  # of an answer without masks, in a file that doesn't say
            check_pixels(height, width)
        text, targets = expect(row["text"], str, "a text"), []
        for index, target in enumerate(expect(row["targets"], list, "a list of targets")):
            try:
                targets.append(Target.from_json(target, text, (height, width)))
            except ValueError as error:
                raise ValueError(f"target {index}: {error}") from None
        question, image, answer_id = (
            expect(row.get(name) or "", str, what)
            for name, what in (("question", "a question"), ("image", "an image's path"), ("id", "an id"))
        )
        return cls(question, text, tuple(targets), (height, width), image_path=image, id=answer_id)


@dataclass(frozen=True)
class TextPiece:
    """Streaming: a further piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class Done:
    """Streaming: the answer is complete."""

    answer: Answer


Event = TextPiece | Target | Done
Refinable = TypeVar("Refinable", Target, Answer)


class Segmenter(Protocol):
    """A system that answers questions about an image with text and masks: PixelLM and the baselines.

    A system that can no more than one question at a time inherits the rest from here.
    """

    teacher_forcing: bool = False  # `segment_given` works
    min_score: float = 0.0  # 0..1: targets with a lower confidence are left out of answers, see `Answer.above`

    def set_image(self, image: ImageSource) -> None:
        """Encode the image that the next questions are about."""
        ...

    def ask(self, question: str) -> Answer:
        """Answer a question."""
        ...

    def ask_many(self, questions: Sequence[str]) -> list[Answer]:
        """Answer several questions on the image."""
        return [self.ask(question) for question in questions]

    def ask_about(self, images: Sequence[ImageSource], questions: Sequence[Sequence[str]]) -> list[list[Answer]]:
        """Answer each image's questions; `set_image` may or may not have to be called again afterwards."""
        answers = []
        for image, texts in zip(images, questions, strict=True):
            self.set_image(image)
            answers.append(self.ask_many(texts))
        return answers

    def segment_given(self, questions: Sequence[str], answers: Sequence[str]) -> list[Answer]:
        """Segment answers that are not generated, each with a `{seg}` where a mask belongs (teacher forcing).

        Raises:
            ValueError: the system can't, see `teacher_forcing`.
        """
        raise ValueError(f"expected a model that can be teacher-forced, got {type(self).__name__}. Ask PixelLM.")

    @property
    def takes_prompts(self) -> bool:
        """Return whether the system can `refine` targets."""
        return False

    def refine(
        self,
        target: Refinable,
        index: int | None = None,
        *,
        points: Sequence[Sequence[float]] = (),
        box: Sequence[float] | None = None,
        strokes: Sequence[tuple[Sequence[Sequence[float]], bool]] = (),
    ) -> Refinable:
        """Correct one target on the image of `set_image`; text and other targets of an answer stay.

        A target that was refined already keeps its earlier marks; a new box replaces the earlier one.

        Args:
            target: the target, or its answer.
            index: of the target in the answer.
            points: see `Marks`.
            box: see there.
            strokes: see there.

        Raises:
            ValueError: no image yet, no mark or a malformed one, a target of another image size, no such target, or a
                system that can't, see `takes_prompts`.
        """
        marks = Marks(points, box, strokes)
        if isinstance(target, Target):
            return self.refine_target(target, marks)
        if index is None or not 0 <= index < len(target.targets):
            raise ValueError(f"expected the index of one of the answer's {len(target.targets)} targets, got {index}.")
        refined = self.refine_target(target.targets[index], marks)
        return replace(target, targets=(*target.targets[:index], refined, *target.targets[index + 1 :]))

    def refine_target(self, target: Target, marks: Marks) -> Target:
        """Correct one target; errors as in `refine`."""
        raise untrained()

    def stream(self, question: str) -> Iterator[Event]:
        """Answer piece by piece: `TextPiece`, then a `Target` as soon as its mask is there, at the end `Done`."""
        answer = self.ask(question)
        yield TextPiece(answer.text)
        yield from answer.targets
        yield Done(answer)
