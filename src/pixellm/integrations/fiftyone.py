"""FiftyOne model: images of a data set, phrases or a question of each sample → detections with masks.

    dataset.apply_model(pixellm_model(prompt="cup, spoon"), label_field="pixellm")

Shapes:  H, W image height and width
"""

from collections.abc import Sequence
from typing import Any

import fiftyone as fo  # pyright: ignore[reportMissingImports]
import fiftyone.core.models as fom  # pyright: ignore[reportMissingImports]
import numpy as np

from pixellm.hub.models import MINI
from pixellm.integrations.remote import PromptQuestion, connect, read_prompt
from pixellm.types import Answer, Segmenter, Target

PROMPT_FIELD = "prompt_field"  # how FiftyOne's own models call the field of a sample that holds its prompt


class PixelLMModel(fom.SamplesMixin, fom.Model):
    """Segmenter as FiftyOne's model of images.

    Args:
        segmenter: what answers.
        prompt: what is asked about every image, see `pixellm.integrations.remote.read_prompt`; "": only samples' own.
    """

    config = None  # FiftyOne itself leaves out labels below `confidence_thresh`, and those of other `classes`

    def __init__(self, segmenter: Segmenter, prompt: str = "") -> None:
        super().__init__()
        self._segmenter, self._questions = segmenter, read_prompt(prompt)
        self._fields: dict[str, str] = {}

    @property
    def media_type(self) -> str:
        return "image"

    @property
    def ragged_batches(self) -> bool:
        return False  # images of any sizes may be in one batch

    @property
    def transforms(self) -> None:
        return None

    @property
    def preprocess(self) -> bool:
        return False

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        """Do nothing: the segmenter takes images as they are."""

    @property
    def needs_fields(self) -> dict[str, str]:
        """Field of the samples that holds their prompt, by the name `prompt_field`; optional."""
        return self._fields

    @needs_fields.setter
    def needs_fields(self, fields: dict[str, str]) -> None:
        self._fields = dict(fields)

    def predict(self, arg: np.ndarray, sample: Any = None) -> "fo.Detections":
        """Return the targets of an image.

        Args:
            arg: uint8 (H, W, 3), RGB.
            sample: its own prompt comes before that of the model.

        Raises:
            ValueError: neither has a prompt, or the image can't be answered.
        """
        questions = self._questions_for(sample)
        self._segmenter.set_image(np.asarray(arg))
        answers = self._segmenter.ask_many([question for question, _ in questions])
        found = [
            to_detection(target, row.phrase or target.category)
            for row, answer in zip(questions, answers, strict=True)
            for target in answer.targets
            if target.area
        ]
        return fo.Detections(detections=found, text=_text(answers))

    def predict_all(self, args: Sequence[np.ndarray], samples: Sequence[Any] | None = None) -> "list[fo.Detections]":
        """Return the targets of each image."""
        return [
            self.predict(image, sample)
            for image, sample in zip(args, samples if samples is not None else [None] * len(args), strict=True)
        ]

    def _questions_for(self, sample: Any) -> list[PromptQuestion]:
        field = self._fields.get(PROMPT_FIELD)
        own = sample[field] if sample is not None and field else None
        questions = read_prompt(str(own)) if own else self._questions
        if not questions:
            raise ValueError(
                "expected a prompt, got none. Give the model one, or name the field of the samples that holds theirs: "
                "apply_model(…, prompt_field=…)."
            )
        return questions


def to_detection(target: Target, label: str) -> "fo.Detection":
    """Return a target that has a pixel: box in shares of the image, mask within the box, presence score, phrase."""
    assert target.box is not None
    x, y, width, height = target.box
    mask = target.mask
    rows, columns = mask.shape
    return fo.Detection(
        label=label,
        bounding_box=[x / columns, y / rows, width / columns, height / rows],
        mask=np.ascontiguousarray(mask[y : y + height, x : x + width]),
        confidence=target.confidence,
        phrase=target.phrase,
    )


def _text(answers: Sequence[Answer]) -> str:
    return "\n".join(answer.text for answer in answers)


def pixellm_model(prompt: str = "", model: str = MINI, min_score: float = 0.0, device: str = "cpu") -> PixelLMModel:
    """Return a model for `dataset.apply_model`.

    Args:
        prompt: phrases between commas, or a question; "": samples have their own.
        model: name of a model that is loaded here, or address of a `pixellm serve` (its key: PIXELLM_API_KEY).
        min_score: 0..1, targets with a lower confidence are left out.
        device: of a model that is loaded here.

    Raises:
        ValueError: no such model or server, or a wrong `min_score`.
    """
    return PixelLMModel(connect(model, min_score, device), prompt)
