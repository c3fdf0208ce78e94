"""Ask an exported model, without torch: set_image → ask."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pixellm.imaging.masks import Rle
from pixellm.imaging.postprocess import binarize
from pixellm.imaging.prompt_region import PromptedRegion, Region, cropped, put_back, region_of
from pixellm.imaging.visual_prompts import Prompts, untrained
from pixellm.inference.base_predictor import BasePredictor
from pixellm.runtime.generation import EncodedPrefix, RuntimeDecoding, encode_prefix
from pixellm.runtime.session import Graphs


class RuntimePredictor(BasePredictor):
    """Answers questions about images like `pixellm.Predictor`, by the graphs of an exported model.

    Args:
        graphs: of the model.
        processor: its prompts and image settings.
        system, sampling, min_score: see `BasePredictor`.
        max_prompt_tokens: see there; None: the language model's whole context.

    Raises:
        ValueError: `min_score` is not in 0..1.
    """

    def __init__(
        self,
        graphs: Graphs,
        processor: Any,
        system: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        max_prompt_tokens: int | None = None,
        min_score: float = 0.0,
    ) -> None:
        super().__init__(processor, max_prompt_tokens or graphs.manifest.max_positions, system, sampling, min_score)
        self.graphs = graphs

    @property
    def default_sampling(self) -> Mapping[str, Any]:
        return self.graphs.manifest.default_sampling

    def encode(self, images: Sequence[Image.Image]) -> EncodedPrefix:
        """Encode images and the prompt's prefix, which all questions on them share."""
        pixels, sizes = self.processor.images(images)
        return encode_prefix(self.graphs, pixels, sizes, self.processor.prefix_ids)

    def decoding(self, joint: bool = True) -> RuntimeDecoding:
        """Return an empty batch; see `RuntimeDecoding`."""
        return RuntimeDecoding(self.graphs, self.processor.eos_ids, joint)

    def decode_mask(
        self, encoded: EncodedPrefix, row: int, states: np.ndarray, image: Image.Image
    ) -> tuple[Rle, float, float | None]:
        """See `BasePredictor.decode_mask`."""
        tensors = encoded.images[row]
        logits, presence = self.graphs.masks(states, tensors)
        height, width = tensors["resized_hw"][0].tolist()
        (mask,) = binarize(logits[None], (height, width), (image.height, image.width), self.graphs.manifest.peak_share)
        return mask.rle, mask.score, presence

    @property
    def takes_prompts(self) -> bool:
        """See `BasePredictor.takes_prompts`."""
        return bool(self.graphs.manifest.refine_inputs)

    def correct_mask(
        self, encoded: EncodedPrefix, row: int, image: Image.Image, mask: np.ndarray, prompts: Prompts
    ) -> tuple[np.ndarray, float]:
        """See `BasePredictor.correct_mask`."""
        if not self.takes_prompts:
            raise untrained()
        region = region_of(mask, prompts)
        if region is None:  # an empty mask stays so where nothing but background is marked
            return mask, 0.0
        logits = self.region_logits(encoded, row, image, mask, prompts, region)
        return put_back(logits, region, (image.height, image.width))

    def region_logits(
        self, encoded: EncodedPrefix, row: int, image: Image.Image, mask: np.ndarray, prompts: Prompts, region: Region
    ) -> np.ndarray:
        """Return the logits (r, r) of a region's corrected mask; arguments as in `correct_mask`."""
        tensors, size = encoded.images[row], self.processor.letterbox.image_size
        maps = [tensors[name] for name in self.graphs.manifest.refine_inputs]
        maps = cropped(maps, 0, tensors["resized_hw"][0].tolist(), size)
        pixels = np.array(image.convert("RGB")).transpose(2, 0, 1)
        found = PromptedRegion.read(pixels, mask, prompts, region, [map_.shape[1:] for map_ in maps])
        return self.graphs.refine(found, maps)
