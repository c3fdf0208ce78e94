"""Ask the SEEM-style baseline: load → set_image → ask, or ground.

It writes nothing: a question is taken as one phrase, and gets the one mask that is most like it. Who knows the names of
the things, gives those to `ground`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from pixellm.baselines.seem.modeling import SeemForGrounding
from pixellm.baselines.seem.pixel_decoder import ImageFeatures
from pixellm.baselines.seem.processing import SeemProcessor
from pixellm.imaging.images import ImageSource, load_image
from pixellm.imaging.postprocess import Binary, binarize
from pixellm.types import Answer, Done, Event, Target, TextPiece


class SeemPredictor:
    """Finds what questions or phrases mean in a photograph, which is encoded once.

    Args:
        model: it is put into eval mode.
        processor: its processor.
    """

    def __init__(self, model: SeemForGrounding, processor: SeemProcessor) -> None:
        self.model, self.processor = model.eval(), processor
        self._photograph: tuple[Image.Image, ImageFeatures] | None = None

    @classmethod
    def load(
        cls, directory: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> "SeemPredictor":
        """Load a model from its directory."""
        model = SeemForGrounding.from_pretrained(directory, dtype=dtype)
        return cls(model.to(device), SeemProcessor.from_pretrained(directory))

    @torch.inference_mode()
    def set_image(self, image: ImageSource) -> None:
        """Encode a photograph: a path, `example:NAME`, a PIL image, or a NumPy array (H, W[, C]).

        Raises:
            ValueError: nothing that can be read as an image.
        """
        photograph = load_image(image)
        inputs = self.processor.images([photograph])
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        self._photograph = (photograph, self.model.encode_images(pixels, inputs["resized_hw"].to(pixels.device)))

    @torch.inference_mode()
    def ground(self, phrases: Sequence[str]) -> list[Binary]:
        """One mask for each phrase, at the photograph's size, each as if it were given alone.

        Raises:
            ValueError: no photograph yet, or an empty phrase.
        """
        photograph, features = self._current()
        if not phrases:
            return []
        ids, valid = (tensor.to(self.model.device) for tensor in self.processor.phrases(phrases))
        logits = self.model.ground(features, ids, valid, torch.zeros(len(ids), dtype=torch.long, device=ids.device))
        height, width = features.resized_hw[0].tolist()
        return list(binarize(logits, (height, width), (photograph.height, photograph.width)))

    def ask(self, question: str) -> Answer:
        """The one mask that is most like a question; the answer's text is the question."""
        return self.ask_many([question])[0]

    def ask_many(self, questions: Sequence[str]) -> list[Answer]:
        """Several questions on the same photograph at once, each as if it were asked alone."""
        photograph, _ = self._current()
        if not all(question.strip() for question in questions):
            raise ValueError("expected a question, got an empty text.")
        answers = []
        for question, (rle, score) in zip(questions, self.ground(questions), strict=True):
            phrase = question.strip()
            target = Target(phrase, (0, len(phrase)), rle, score)
            answers.append(Answer(question, phrase, (target,), (photograph.height, photograph.width), photograph))
        return answers

    def stream(self, question: str) -> Iterator[Event]:
        """`TextPiece`, `Target`, `Done`, all at once."""
        answer = self.ask(question)
        yield TextPiece(answer.text)
        yield from answer.targets
        yield Done(answer)

    def _current(self) -> tuple[Image.Image, ImageFeatures]:
        if self._photograph is None:
            raise ValueError("expected an image before the first question. Call set_image first.")
        return self._photograph
