"""CVAT's detection function: every label is a question, its targets are masks or polygons.

    cvat-cli task auto-annotate 7 --function-module pixellm.integrations.cvat -p labels=str:cat,dog

CVAT's protocol has no text prompt: a label's name is the question, or what stands behind `=` in `labels`.
"""

from collections.abc import Iterator

import cvat_sdk.auto_annotation as cvataa  # pyright: ignore[reportMissingImports]
import cvat_sdk.models as models  # pyright: ignore[reportMissingImports]
from cvat_sdk.masks import encode_mask  # pyright: ignore[reportMissingImports]
from PIL import Image

from pixellm.export.outlines import polygons
from pixellm.hub.models import MINI
from pixellm.integrations.remote import connect, question_about, read_prompt
from pixellm.types import Segmenter, Target


class CvatFunction:
    """Detection function for `cvat_sdk.auto_annotation`.

    Args:
        segmenter: what answers.
        labels: each label's name with its question.
        tolerance: pixels that polygons may be off; 0: none.
    """

    def __init__(self, segmenter: Segmenter, labels: dict[str, str], tolerance: float) -> None:
        self._segmenter, self._labels, self._tolerance = segmenter, labels, tolerance
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(name, number, type="mask") for number, name in enumerate(labels)]
        )

    def detect(
        self, context: "cvataa.DetectionFunctionContext", image: Image.Image
    ) -> "list[models.LabeledShapeRequest]":
        """Return the targets of every label in a frame whose confidence reaches the threshold."""
        self._segmenter.set_image(image)
        answers = self._segmenter.ask_many(list(self._labels.values()))
        return [
            shape
            for number, answer in enumerate(answers)
            for target in answer.above(context.conf_threshold or 0.0).targets
            if target.area
            for shape in self._shapes(number, target, context.conv_mask_to_poly)
        ]

    def _shapes(self, number: int, target: Target, as_polygons: bool) -> "Iterator[models.LabeledShapeRequest]":
        scored = {} if target.confidence is None else {"score": float(target.confidence)}
        if as_polygons:  # one for each part of the mask
            for ring in polygons(target.mask, tolerance=self._tolerance):
                yield cvataa.polygon(number, ring.ravel().astype(float).tolist(), **scored)
        else:
            yield cvataa.mask(number, encode_mask(target.mask), **scored)


def create(
    labels: str, model: str = MINI, min_score: float = 0.0, tolerance: float = 0.5, device: str = "cpu"
) -> CvatFunction:
    """Return the function; cvat-cli gives the parameters by `-p NAME=TYPE:VALUE`.

    Args:
        labels: names of labels of the task between commas: "cat,dog"; with words of its own: "cat=the black cat".
        model: name of a model that is loaded here, or address of a `pixellm serve` (its key: PIXELLM_API_KEY).
        min_score: 0..1, targets with a lower confidence are left out; cvat-cli's --conf-threshold comes on top.
        tolerance: see `CvatFunction`.
        device: of a model that is loaded here, cpu or cuda.

    Raises:
        ValueError: no labels, one without words, one twice, no such model, or a wrong `min_score`.
    """
    return CvatFunction(connect(model, min_score, device), parse_labels(labels), tolerance)


def parse_labels(labels: str) -> dict[str, str]:
    """Return the question of each label; a ValueError for none, or one that has no words or comes twice."""
    questions: dict[str, str] = {}
    for entry in labels.split(","):
        name, has_words, words = (part.strip() for part in entry.partition("="))
        asked = [row.question for row in read_prompt(words)] if has_words else [question_about(name)]
        if not name or len(asked) != 1 or name in questions:
            raise ValueError(f"expected labels between commas, such as cat,dog=the black dog, got {labels!r}.")
        questions[name] = asked[0]
    return questions
