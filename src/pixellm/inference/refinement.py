"""Targets corrected by visual prompts, and the memory of which prompts led to which mask.

Shapes:  H, W image height and width
"""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from pixellm.imaging import masks
from pixellm.model.modeling import PixelLMForConditionalGeneration
from pixellm.model.prompts import Prompts
from pixellm.model.states import EncodedImages
from pixellm.types import Target


class Refinement:
    """Refines targets of one image; a refined target keeps the prompts that it came from.

    Prompts are remembered by the mask that they gave, so that a target may go through JSON in between.

    Args:
        model: in eval mode.
        image: the image.
        images: the image, encoded.
        row: row of the image in `images`.
    """

    def __init__(
        self, model: PixelLMForConditionalGeneration, image: Image.Image, images: EncodedImages, row: int = 0
    ) -> None:
        self.model, self.image, self.images, self.row = model, image, images, row
        self._earlier: dict[str, Prompts] = {}

    @torch.inference_mode()
    def refine(self, target: Target, prompts: Prompts) -> Target:
        """Return the target with a new mask and score; phrase, span and presence stay.

        Raises:
            ValueError: no prompts, a target of an image of another size, or a model without trained prompts.
        """
        hw = self.image.height, self.image.width
        if tuple(target.rle["size"]) != hw:
            raise ValueError(
                f"expected a target of the image of set_image, whose masks are {hw[0]}×{hw[1]} pixels (height × "
                f"width), got one of {target.rle['size']}. Call set_image with the target's image."
            )
        if not len(prompts):
            raise ValueError("expected points, a box or strokes, got nothing that could change the target.")
        prompts = self._earlier.get(_key(target.rle), Prompts()).followed_by(prompts)
        pixels = torch.from_numpy(np.array(self.image.convert("RGB"))).permute(2, 0, 1)
        mask, score = self.model.refine_mask(self.images, self.row, pixels, torch.from_numpy(target.mask), prompts)
        rle = masks.encode(mask.cpu().numpy())
        self._earlier[_key(rle)] = prompts
        return replace(target, rle=rle, score=score)


def _key(rle: masks.Rle) -> str:
    return str(masks.read_rle(rle)["counts"])
