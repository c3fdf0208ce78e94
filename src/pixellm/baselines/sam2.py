"""SAM 2 (transformers) as the second stage: a point on each object → its mask.

With `VisionServer` before it, the modern cascade: a strong vision-language model names and points, SAM 2 segments.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import Sam2Model, Sam2Processor

from pixellm.baselines.two_stage import NamedObject
from pixellm.imaging import masks
from pixellm.imaging.postprocess import Binary
from pixellm.utils.weights import without_progress_bars


class Sam2Grounder:
    """A `Grounder` that needs points.

    Args:
        model: a SAM 2; it is put into eval mode.
        processor: its processor.
    """

    def __init__(self, model: Sam2Model, processor: Sam2Processor) -> None:
        self.model, self.processor = model.eval(), processor
        self._embeddings: list[torch.Tensor] = []
        self._size = (0, 0)  # width, height

    @classmethod
    def load(cls, name: str | Path, device: str | torch.device = "cpu") -> "Sam2Grounder":
        """Load a directory in transformers' format, or a Hub id as facebook/sam2.1-hiera-large."""
        with without_progress_bars():
            model = Sam2Model.from_pretrained(name)
        return cls(model.to(device), Sam2Processor.from_pretrained(name))

    @torch.inference_mode()
    def set_image(self, image: Image.Image) -> None:
        """Encode an image."""
        self._size = image.size
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        self._embeddings = self.model.get_image_embeddings(pixels.to(self.model.device))

    @torch.inference_mode()
    def ground(self, objects: Sequence[NamedObject]) -> list[Binary]:
        """Return, for each point, the mask of SAM 2's three with the highest predicted IoU, which is its score.

        Raises:
            ValueError: an object has no point.
        """
        if any(item.point is None for item in objects):
            raise ValueError("expected a point on each object for SAM 2, got names alone. Use a namer that points.")
        width, height = self._size
        points = [[[item.point[0] * width, item.point[1] * height]] for item in objects if item.point]
        inputs = self.processor(
            input_points=[points], input_labels=[[[1]] * len(points)], original_sizes=[[height, width]]
        )
        output = self.model(
            image_embeddings=self._embeddings,
            input_points=torch.as_tensor(inputs["input_points"], device=self.model.device, dtype=torch.float32),
            input_labels=torch.as_tensor(inputs["input_labels"], device=self.model.device),
        )
        binaries = []
        for logits, scores in zip(output.pred_masks[0].cpu(), output.iou_scores[0], strict=True):
            best = int(scores.argmax())
            # One at a time: at the image's size all masks together may not fit into memory.
            (mask,) = self.processor.post_process_masks([logits[best][None, None]], [[height, width]])
            binaries.append(Binary(masks.encode(mask[0, 0].numpy()), float(scores[best].clamp(0, 1))))
        return binaries
