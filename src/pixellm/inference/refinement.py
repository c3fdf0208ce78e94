"""Targets corrected by visual prompts, and the memory of which prompts led to which mask.

Shapes:  H, W image height and width
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from pixellm.imaging import masks
from pixellm.imaging.visual_prompts import Marks, Prompts
from pixellm.types import Target

Correct = Callable[[np.ndarray, Prompts], tuple[np.ndarray, float]]


class Refinement:
    """Refines targets of one image; a refined target keeps the prompts that it came from.

    Prompts are remembered by the mask that they gave, so that a target may go through JSON in between.

    Args:
        image: the image.
        correct: corrects a mask, bool (H, W), by prompts; see `BasePredictor.correct_mask`.
    """

    def __init__(self, image: Image.Image, correct: Correct) -> None:
        self.image, self.correct = image, correct
        self._earlier: dict[str, Prompts] = {}

    def refine(self, target: Target, marks: Marks) -> Target:
        """Return the target with a new mask and score; phrase, span and presence stay.

        Raises:
            ValueError: no mark or a malformed one, a target of another image size, or a model without trained prompts.
        """
        hw = self.image.height, self.image.width
        if tuple(target.rle["size"]) != hw:
            raise ValueError(
                f"expected a target of the image of set_image, whose masks are {hw[0]}×{hw[1]} pixels (height × "
                f"width), got one of {target.rle['size']}. Call set_image with the target's image."
            )
        prompts = Prompts.read(marks.points, marks.box, marks.strokes, hw)
        if not len(prompts):
            raise ValueError("expected points, a box or strokes, got nothing that could change the target.")
        prompts = self._earlier.get(_key(target.rle), Prompts()).followed_by(prompts)
        mask, score = self.correct(target.mask, prompts)
        rle = masks.encode(mask)
        self._earlier[_key(rle)] = prompts
        return replace(target, rle=rle, score=score)


def _key(rle: masks.Rle) -> str:
    return str(masks.read_rle(rle)["counts"])
