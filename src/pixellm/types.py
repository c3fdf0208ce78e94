"""What the parts hand to one another: Sample → Batch → Output → Answer.

Shapes:  B images · T tokens of a row · M masks of an image · G targets of a batch · H, W original size
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from supervision import Detections
    from torch import Tensor  # for commands that need no model, it takes too long to import

SEG_SLOT = "{seg}"  # stands for a mask in the text of an answer


@dataclass(frozen=True)
class Conversation:
    """One question and its answer; the answer holds one `{seg}` for each mask, in the same order.

    `masks` is bool (M, H, W); `names` the index of each in a dense classifier's vocabulary, see `Batch.target_names`;
    `ignored` bool (H, W), pixels that count neither as target nor as background; `continues`: it goes on from the
    conversation before it and sees that.
    """

    question: str
    answer: str
    masks: np.ndarray
    names: tuple[int, ...] = ()
    ignored: np.ndarray | None = None
    continues: bool = False


@dataclass(frozen=True)
class Sample:
    """One photograph with its conversations; `class_target` and `class_weight` are (V, g, g) for a dense classifier."""

    image: Image.Image
    conversations: tuple[Conversation, ...]
    record_id: str = ""
    class_target: np.ndarray | None = None
    class_weight: np.ndarray | None = None


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
        class_target, class_weight: (B, V, g, g) for a dense classifier.
        target_names: (ΣM,) vocabulary index of each target, the vocabulary's size for another name, -100 where nothing
            is to be learned of it; None: as the text says.
        context_pixel_values: (B, 3, s, s) view of its own for the language model, for models that have one (LISA).
    """

    pixel_values: "Tensor"
    resized_hw: "Tensor"
    input_ids: "Tensor"
    segment_ids: "Tensor"
    labels: "Tensor | None" = None
    target_masks: "list[Tensor] | None" = None
    ignored: "list[Tensor] | None" = None
    class_target: "Tensor | None" = None
    class_weight: "Tensor | None" = None
    target_names: "Tensor | None" = None
    context_pixel_values: "Tensor | None" = None


@dataclass(frozen=True)
class LossCounts:
    """Over how many of each a step's losses are averaged: a step may be spread over batches and processes.

    Args:
        tokens: labels of the text.
        masks: targets.
        names: targets whose name in the vocabulary is learned.
        images: rows.
    """

    tokens: int
    masks: int
    names: int
    images: int


@dataclass
class Output:
    """What the model gives for a batch; see `PixelLMForConditionalGeneration.forward`."""

    loss: "Tensor | None"
    losses: "dict[str, Tensor]"
    mask_logits: "list[Tensor]"
    scale_logits: "list[Tensor]" = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """One thing that an answer names.

    Args:
        phrase: the words for it.
        span: their (start, end) in the answer's text, in characters.
        rle: the mask as a COCO RLE at the photograph's size, its counts text, ready for JSON.
        score: mean probability of the mask's pixels, 0..1 (0 for an empty mask).
    """

    phrase: str
    span: tuple[int, int]
    rle: dict[str, Any]
    score: float

    @classmethod
    def of_mask(cls, phrase: str, span: tuple[int, int], mask: np.ndarray, score: float) -> "Target":
        """With a mask that is a bool (H, W) array."""
        from pixellm.imaging.masks import encode

        return cls(phrase, span, encode(mask), score)

    @property
    def mask(self) -> np.ndarray:
        """Bool (H, W) at the photograph's size, decoded each time: an answer holds RLEs, which are small."""
        from pixellm.imaging.masks import decode

        height, width = self.rle["size"]
        return decode(self.rle, height, width)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        from pixellm.imaging.masks import area

        return area(self.rle)

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Tight box (x, y, width, height) in pixels; None where the mask is empty."""
        from pixellm.imaging.masks import box

        return box(self.rle) if self.area else None

    def to_json(self) -> dict[str, Any]:
        """Ready for `json.dumps`; the mask is a COCO RLE."""
        box = self.box
        return {
            "phrase": self.phrase,
            "span": list(self.span),
            "score": round(self.score, 4),
            "area": self.area,
            "box": list(box) if box else None,
            "segmentation": dict(self.rle),
        }


@dataclass(frozen=True)
class Answer:
    """Text, and one target for each thing that it names, in order."""

    question: str
    text: str
    targets: tuple[Target, ...]
    image: Image.Image
    token_ids: tuple[int, ...] = ()

    def overlay(self) -> Image.Image:
        """The photograph with every mask in its colour."""
        from pixellm.imaging.overlay import draw

        return draw(self)

    def to_detections(self) -> "Detections":
        """All targets as `supervision.Detections`, see `pixellm.imaging.overlay.detections`."""
        from pixellm.imaging.overlay import detections

        return detections(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture, and the text with each phrase in the colour of its mask."""
        from pixellm.imaging.overlay import html

        return html(self)

    def to_json(self) -> dict[str, Any]:
        """Everything but the pixels, ready for `json.dumps`; masks are COCO RLEs."""
        return {
            "question": self.question,
            "text": self.text,
            "height": self.image.height,
            "width": self.image.width,
            "targets": [target.to_json() for target in self.targets],
        }


@dataclass(frozen=True)
class TextPiece:
    """Streaming: a further piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class Done:
    """Streaming: the answer is complete."""

    answer: Answer


Event = TextPiece | Target | Done


class Segmenter(Protocol):
    """Whatever answers a question about a photograph with text and masks: PixelLM and the baselines."""

    def set_image(self, image: str | Image.Image | np.ndarray) -> None: ...

    def ask(self, question: str) -> Answer: ...

    def ask_many(self, questions: Sequence[str]) -> list[Answer]: ...

    def stream(self, question: str) -> Iterator[Event]: ...
