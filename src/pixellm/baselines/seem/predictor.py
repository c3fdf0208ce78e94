"""Predictor of the SEEM-style baseline: load → set_image → ask, or ground.

It generates no text: a question is taken as one phrase and gets the mask that is most similar to it. `ground` takes the
phrases of known objects.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from pixellm.baselines.seem.modeling import SeemForGrounding
from pixellm.baselines.seem.pixel_decoder import ImageFeatures
from pixellm.baselines.seem.processing import SeemProcessor
from pixellm.imaging.images import ImageSource, load_image
from pixellm.imaging.postprocess import Binary, binarize
from pixellm.types import Answer, Segmenter, Target


class SeemPredictor(Segmenter):
    """`Segmenter` that grounds questions or phrases in an image, which is encoded once.

    Args:
        model: it is put into eval mode.
        processor: its processor.
    """

    def __init__(self, model: SeemForGrounding, processor: SeemProcessor) -> None:
        self.model, self.processor = model.eval(), processor
        self._image: tuple[Image.Image, ImageFeatures] | None = None

    @classmethod
    def load(
        cls, directory: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> "SeemPredictor":
        """Load a model from its directory."""
        model = SeemForGrounding.from_pretrained(directory, dtype=dtype)
        return cls(model.to(device), SeemProcessor.from_pretrained(directory))

    @torch.inference_mode()
    def set_image(self, image: ImageSource) -> None:
        """Encode an image: a path, `example:NAME`, a PIL image, or a NumPy array (H, W[, C]).

        Raises:
            ValueError: nothing that can be read as an image.
        """
        loaded = load_image(image)
        inputs = self.processor.images([loaded])
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        self._image = (loaded, self.model.encode_images(pixels, inputs["resized_hw"].to(pixels.device)))

    @torch.inference_mode()
    def ground(self, phrases: Sequence[str]) -> list[Binary]:
        """Return a mask for each phrase, at the image's size; results do not depend on the other phrases.

        Raises:
            ValueError: no image yet, or an empty phrase.
        """
        image, features = self._current()
        if not phrases:
            return []
        ids, valid = (tensor.to(self.model.device) for tensor in self.processor.phrases(phrases))
        logits = self.model.ground(features, ids, valid, torch.zeros(len(ids), dtype=torch.long, device=ids.device))
        height, width = features.resized_hw[0].tolist()
        return list(binarize(logits, (height, width), (image.height, image.width)))

    def ask(self, question: str) -> Answer:
        """Return the mask that is most similar to a question; the answer's text is the question."""
        return self.ask_many([question])[0]

    def ask_many(self, questions: Sequence[str]) -> list[Answer]:
        """Answer several questions on the same image at once; answers do not depend on the other questions."""
        image, _ = self._current()
        if not all(question.strip() for question in questions):
            raise ValueError("expected a question, got an empty text.")
        answers = []
        for question, mask in zip(questions, self.ground(questions), strict=True):
            phrase = question.strip()
            target = Target(phrase, (0, len(phrase)), *mask)
            answer = Answer(question, phrase, (target,), (image.height, image.width), image)
            answers.append(answer.above(self.min_score))
        return answers

    def _current(self) -> tuple[Image.Image, ImageFeatures]:
        if self._image is None:
            raise ValueError("expected an image before the first question. Call set_image first.")
        return self._image
