"""SAM 3 (transformers): a short noun phrase → a mask for each instance of it.

On its own it takes a question as one phrase; as the second stage it segments the phrases of a namer.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from transformers import Sam3Model, Sam3Processor

from pixellm.baselines.phrases import PhraseMask, PhraseSegmenter
from pixellm.baselines.two_stage import NamedObject
from pixellm.imaging import masks
from pixellm.utils.model_files import readable
from pixellm.utils.weights import without_progress_bars

logger = logging.getLogger(__name__)

MIN_SCORE = 0.5  # confidence_threshold of the released Sam3Processor
MASK_THRESHOLD = 0.5


class Sam3Segmenter(PhraseSegmenter):
    """A `Segmenter` of noun phrases.

    The score of an instance is SAM 3's own: its probability times that of the phrase being in the image.

    Args:
        model: a SAM 3; it is put into eval mode.
        processor: its processor.
    """

    def __init__(self, model: Sam3Model, processor: Sam3Processor) -> None:
        super().__init__()
        self.model, self.processor = model.eval(), processor
        self._features = None
        self._hw = (0, 0)

    @classmethod
    def load(
        cls, directory: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Sam3Segmenter":
        """Load a directory in transformers' format, of SAM 3 for images or for video (facebook/sam3).

        Raises:
            ValueError: files that can't be read.
        """
        with readable(directory, "a SAM 3"), without_progress_bars():
            model = Sam3Model.from_pretrained(directory, dtype=dtype)
            return cls(model.to(device), Sam3Processor.from_pretrained(directory))

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> None:
        """Encode an image once for all phrases."""
        pixels = self.processor.image_processor(image, return_tensors="pt")["pixel_values"]
        self._features = self.model.get_vision_features(pixels.to(self.model.device, self.model.dtype))
        self._hw = (image.height, image.width)

    def segment(self, phrase: str) -> list[PhraseMask]:
        """Return the instances with a score above 0.5, the highest first."""
        tokens = self._tokens(phrase)
        output = self.model(vision_embeds=self._features, **tokens)
        scores = (output.pred_logits[0].sigmoid() * output.presence_logits[0].sigmoid()).float()
        kept = [int(query) for query in scores.argsort(descending=True) if scores[query] > MIN_SCORE]
        return [PhraseMask(self._mask(output.pred_masks[0, query]), float(scores[query])) for query in kept]

    def _tokens(self, phrase: str) -> dict[str, torch.Tensor]:
        longest = self.model.config.text_config.max_position_embeddings
        settings = {"padding": "max_length", "max_length": longest, "truncation": True, "return_tensors": "pt"}
        if len(self.processor.tokenizer(phrase)["input_ids"]) > longest:
            logger.warning("SAM 3 reads %d tokens, the rest of this is cut off: %s", longest, phrase)
        tokens = self.processor.tokenizer(phrase, **settings)
        return {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}

    def _mask(self, logits: torch.Tensor) -> masks.Rle:
        """Resize the probabilities of one mask: at the image's size all together may not fit into memory."""
        shares = F.interpolate(
            logits.float().sigmoid()[None, None], size=self._hw, mode="bilinear", align_corners=False
        )
        return masks.encode((shares[0, 0] > MASK_THRESHOLD).cpu().numpy())


class Sam3Grounder:
    """A `Grounder`: the instances of each phrase, united, or the one that is pointed at.

    Args:
        segmenter: the SAM 3.
    """

    def __init__(self, segmenter: Sam3Segmenter) -> None:
        self.segmenter = segmenter
        self._size = (0, 0)  # width, height

    def set_image(self, image: Image.Image) -> None:
        self._size = image.size
        self.segmenter.set_image(image)

    def ground(self, objects: Sequence[NamedObject]) -> list[PhraseMask]:
        """Return a mask for each object.

        With a point: the instance with the highest score that has it, or the highest of all if none has. Without:
        all instances of the phrase, because a namer gives each phrase once. An empty mask where there is none.
        """
        together = self.segmenter.ground([item.phrase for item in objects if item.point is None])
        united = iter(together)
        return [next(united) if item.point is None else self._pointed(item.phrase, *item.point) for item in objects]

    def _pointed(self, phrase: str, x: float, y: float) -> PhraseMask:
        width, height = self._size
        column, row = min(int(x * width), width - 1), min(int(y * height), height - 1)
        (found,) = self.segmenter.instances([phrase])
        hit = [mask for mask in found if masks.decode(mask.rle, height, width)[row, column]]
        empty = PhraseMask(masks.as_text(masks.empty(height, width)), 0.0)
        return next(iter(hit or found), empty)
