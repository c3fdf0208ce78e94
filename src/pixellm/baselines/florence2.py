"""Florence-2 (transformers): a referring expression → polygons, as text → one mask."""

from pathlib import Path

import torch
from PIL import Image
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from pixellm.baselines.phrases import PhraseMask, PhraseSegmenter
from pixellm.imaging import masks
from pixellm.utils.model_files import readable
from pixellm.utils.weights import without_progress_bars

TASK = "<REFERRING_EXPRESSION_SEGMENTATION>"
MAX_NEW_TOKENS = 1024  # of the published examples
BEAMS = 3
MIN_POINTS = 3  # the corners of a polygon


class Florence2Segmenter(PhraseSegmenter):
    """A `Segmenter` of referring expressions.

    It has one mask for an expression, the union of its polygons, and no scores. Each expression encodes the image anew.

    Args:
        model: a Florence-2; it is put into eval mode.
        processor: its processor.
    """

    def __init__(self, model: Florence2ForConditionalGeneration, processor: Florence2Processor) -> None:
        super().__init__()
        self.model, self.processor = model.eval(), processor
        self._encoded: Image.Image | None = None

    @classmethod
    def load(
        cls, directory: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Florence2Segmenter":
        """Load a directory in transformers' own format (florence-community/Florence-2-base, not microsoft/…).

        Raises:
            ValueError: files that can't be read.
        """
        with readable(directory, "a Florence-2"), without_progress_bars():
            model = Florence2ForConditionalGeneration.from_pretrained(directory, dtype=dtype)
            return cls(model.to(device), Florence2Processor.from_pretrained(directory))

    def encode(self, image: Image.Image) -> None:
        """Keep an image: expression and image are encoded together."""
        self._encoded = image.convert("RGB")

    def segment(self, phrase: str) -> list[PhraseMask]:
        """Return the union of the polygons that are written for an expression, or none."""
        inputs = self.processor(text=f"{TASK}{phrase}", images=self._encoded, return_tensors="pt")
        written = self.model.generate(
            input_ids=inputs["input_ids"].to(self.model.device),
            attention_mask=inputs["attention_mask"].to(self.model.device),
            pixel_values=inputs["pixel_values"].to(self.model.device, self.model.dtype),
            max_new_tokens=MAX_NEW_TOKENS,
            num_beams=BEAMS,
            do_sample=False,
        )
        assert self._encoded is not None
        rle = self.read(self.processor.batch_decode(written, skip_special_tokens=False)[0], self._encoded.size)
        return [] if rle is None else [PhraseMask(rle, None)]

    def read(self, text: str, size: tuple[int, int]) -> masks.Rle | None:
        """Return the union of the polygons in a generated text, of an image of (width, height); None without any."""
        width, height = size
        parsed = self.processor.post_process_generation(text=text, task=TASK, image_size=size)[TASK]["polygons"]
        polygons = [polygon for instance in parsed for polygon in instance if len(polygon) >= 2 * MIN_POINTS]
        if not polygons:
            return None
        drawn = masks.to_rles([[float(value) for value in polygon] for polygon in polygons], height, width)
        return masks.as_text(masks.union([drawn], height, width))
