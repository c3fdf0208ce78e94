"""CVAT's interaction function: points on and off an object, and a box around it → its mask.

cvat-cli function create-native pixellm-clicks --function-module pixellm.integrations.cvat_interaction
cvat-cli function run-agent FUNCTION --function-module pixellm.integrations.cvat_interaction
"""

import cvat_sdk.auto_annotation as cvataa  # pyright: ignore[reportMissingImports]
import cvat_sdk.models as models  # pyright: ignore[reportMissingImports]
from cvat_sdk.masks import encode_mask  # pyright: ignore[reportMissingImports]
from PIL import Image

from pixellm.hub.models import MINI
from pixellm.imaging import masks
from pixellm.imaging.visual_prompts import Marks
from pixellm.integrations.remote import connect
from pixellm.types import Segmenter, Target


class CvatInteraction:
    """Interaction function for `cvat_sdk.auto_annotation`; the image of the last call stays encoded.

    Args:
        segmenter: what corrects masks; see `Segmenter.takes_prompts`.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._image: Image.Image | None = None
        self.spec = cvataa.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def detect(
        self,
        context: "cvataa.InteractionFunctionContext",
        pp_image: Image.Image,
        prompts: "cvataa.InteractionPrompts",
    ) -> "list[cvataa.InteractionResultShape]":
        """Return the mask of the marked object; nothing for an empty one."""
        if pp_image is not self._image:
            self._segmenter.set_image(pp_image)
            self._image = pp_image
        target = Target("", (0, 0), masks.as_text(masks.empty(pp_image.height, pp_image.width)))
        for step in _marks(prompts).in_turn():
            target = self._segmenter.refine(target, points=step.points, box=step.box)
        if not target.area:
            return []
        score = models.AttributeValRequest(
            spec_id=int(cvataa.InteractionResultAttributes.CONFIDENCE), value=f"{target.score or 0.0:.4f}"
        )
        return [cvataa.InteractionResultShape(type="mask", points=encode_mask(target.mask), attributes=[score])]


def _marks(prompts: "cvataa.InteractionPrompts") -> Marks:
    points = [(*point, label) for label, side in ((1, prompts.pos_points), (0, prompts.neg_points)) for point in side]
    if prompts.bounding_box is None:
        return Marks(points)
    (left, top), (right, bottom) = prompts.bounding_box
    return Marks(points, (left, top, right - left, bottom - top))


def create(model: str = MINI, device: str = "cpu") -> CvatInteraction:
    """Return the function; cvat-cli gives the parameters by `-p NAME=TYPE:VALUE`.

    Args:
        model: name of a model that is loaded here, or address of a `pixellm serve` (its key: PIXELLM_API_KEY).
        device: of a model that is loaded here, cpu or cuda.

    Raises:
        ValueError: no such model, or one that was not trained with visual prompts.
    """
    segmenter = connect(model, device=device)
    if not segmenter.takes_prompts:
        raise ValueError(f"expected a model that was trained with visual prompts, got {model}. Use {MINI}.")
    return CvatInteraction(segmenter)
