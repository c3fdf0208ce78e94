"""ComfyUI nodes: images and a prompt → text and masks; a mask and points → a corrected mask → training data.

In `custom_nodes/pixellm.py` of ComfyUI:

    from pixellm.integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

Shapes:  B images · H, W image height and width · N targets of all images
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixellm.data.corrections import Correction
from pixellm.hub.models import MINI
from pixellm.imaging.masks import Rle, encode
from pixellm.integrations.remote import RemoteSegmenter, connect, read_prompt
from pixellm.types import Answer, Segmenter, Target


@lru_cache(maxsize=1)
def _segmenter(model: str, device: str) -> Segmenter:
    """Return the model of the last run: a workflow that is run again does not load it again."""
    return connect(model, device=device)


class PixelLMAsk:
    """Node that answers a prompt about each image; its class attributes are ComfyUI's interface."""

    CATEGORY = "PixelLM"
    FUNCTION = "ask"
    RETURN_TYPES = ("STRING", "MASK", "MASK")
    RETURN_NAMES = ("text", "mask", "masks")
    DESCRIPTION = "Answers a question about an image with text and a mask for each object that the text names."
    OUTPUT_TOOLTIPS = (
        "The answers, a line for each image and question.",
        "For each image the union of its masks.",
        "The mask of each target; one empty mask if there is none.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  ComfyUI's name
        """Describe the inputs."""
        prompt = {"multiline": True, "default": "cat", "tooltip": "Phrases between commas, or a question."}
        model = {"default": MINI, "tooltip": "Name of a model, or address of a `pixellm serve`: http://HOST:PORT."}
        score = {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": "Least presence score of a mask."}
        return {
            "required": {
                "image": ("IMAGE",),
                "prompt": ("STRING", prompt),
                "model": ("STRING", model),
                "min_score": ("FLOAT", score),
                "device": (["cpu", "cuda"],),
            }
        }

    def ask(self, image: Tensor, prompt: str, model: str, min_score: float, device: str) -> tuple[str, Tensor, Tensor]:
        """Answer a prompt about each image.

        Args:
            image: float (B, H, W, C) in 0..1.
            prompt: see `pixellm.integrations.remote.read_prompt`.
            model: name of a model, or address of a server.
            min_score: 0..1, targets with a lower confidence are left out.
            device: of a model that is loaded here.

        Returns:
            the answers, a line each; float (B, H, W) in 0, 1, the union of each image's masks; float (N, H, W), the
            masks, or one that is empty.

        Raises:
            ValueError: an empty prompt, or no such model or server.
        """
        questions = [row.question for row in read_prompt(prompt)]
        if not questions:
            raise ValueError("expected a prompt, got an empty text. Name an object, or ask a question.")
        segmenter = _segmenter(model, device)
        answers: list[Answer] = []
        unions, masks = [], []
        for pixels in _pixels(image):
            segmenter.set_image(pixels)
            given = [answer.above(min_score) for answer in segmenter.ask_many(questions)]
            found = [target.mask for answer in given for target in answer.targets]
            unions.append(np.any(found, axis=0) if found else np.zeros(pixels.shape[:2], dtype=bool))
            answers, masks = answers + given, masks + found
        text = "\n".join(answer.text for answer in answers)
        return text, _tensor(unions), _tensor(masks or [np.zeros_like(unions[0])])


class PixelLMRefine:
    """Node that corrects a mask by points or a box; its class attributes are ComfyUI's interface."""

    CATEGORY = "PixelLM"
    FUNCTION = "refine"
    RETURN_TYPES = ("MASK",)
    RETURN_NAMES = ("mask",)
    DESCRIPTION = "Corrects the mask of one object by points on and off it, or a box around it."
    OUTPUT_TOOLTIPS = ("The corrected mask of each image.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  ComfyUI's name
        """Describe the inputs."""
        points = {"multiline": True, "default": "", "tooltip": "x, y, label in pixels, a line each; 1: of the object."}
        box = {"default": "", "tooltip": "x, y, width, height in pixels around the object; empty: none."}
        model = {"default": MINI, "tooltip": "Name of a model, or address of a `pixellm serve`: http://HOST:PORT."}
        return {
            "required": {
                "image": ("IMAGE",),
                "points": ("STRING", points),
                "box": ("STRING", box),
                "model": ("STRING", model),
                "device": (["cpu", "cuda"],),
            },
            "optional": {"mask": ("MASK", {"tooltip": "The mask before; none: start from nothing."})},
        }

    def refine(
        self, image: Tensor, points: str, box: str, model: str, device: str, mask: Tensor | None = None
    ) -> tuple[Tensor]:
        """Correct the mask of each image by the same points and box.

        Args:
            image: float (B, H, W, C) in 0..1.
            points: x, y and label (1: of the object, 0: not) of each, on lines of their own.
            box: x, y, width and height; "": none.
            model: name of a model, or address of a server.
            device: of a model that is loaded here.
            mask: float (B, H, W) in 0..1, or one for all images; above 0.5 it is set.

        Returns:
            float (B, H, W) in 0, 1.

        Raises:
            ValueError: malformed points or box, neither of them, a mask of another size, or no such model or server.
        """
        clicks = [_numbers(line, 3) for line in points.splitlines() if line.strip()]
        around = _numbers(box, 4) if box.strip() else None
        segmenter = _segmenter(model, device)
        size = tuple(image.shape[1:3])
        before = torch.zeros(1, *size) if mask is None else mask
        refined = []
        for pixels, earlier in zip(image, before.expand(len(image), *before.shape[-2:]), strict=True):
            segmenter.set_image(_pixels(pixels))
            target = Target.of_mask("", (0, 0), (earlier > 0.5).cpu().numpy())
            refined.append(segmenter.refine(target, points=clicks, box=around).mask)
        return (_tensor(refined),)


class PixelLMSaveCorrection:
    """Node that sends accepted masks to a server as training data; its class attributes are ComfyUI's interface."""

    CATEGORY = "PixelLM"
    FUNCTION = "save"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("ids",)
    OUTPUT_NODE = True  # ComfyUI runs it although nothing follows
    DESCRIPTION = "Keeps a corrected mask as training data, on a `pixellm serve --corrections DIR`."
    OUTPUT_TOOLTIPS = ("The id of each kept correction, a line for each image.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  ComfyUI's name
        """Describe the inputs."""
        mask = {"tooltip": "The mask as it should be. An empty one says: the image does not show the object."}
        server = {"default": "http://127.0.0.1:8000", "tooltip": "Address of a `pixellm serve --corrections DIR`."}
        return {
            "required": {
                "image": ("IMAGE",),
                "mask": ("MASK", mask),
                "phrase": ("STRING", {"default": "", "tooltip": "Words of the object, such as: red cup."}),
                "server": ("STRING", server),
            },
            "optional": {"before": ("MASK", {"tooltip": "The mask that the model gave."})},
        }

    def save(self, image: Tensor, mask: Tensor, phrase: str, server: str, before: Tensor | None = None) -> tuple[str]:
        """Send the mask of each image; a later one of the same image and phrase replaces it.

        Args:
            image: float (B, H, W, C) in 0..1.
            mask: float (B, H, W) in 0..1, or one for all images; above 0.5 it is set.
            phrase: words of the object.
            server: address of a server that keeps corrections; its key is that of PIXELLM_API_KEY.
            before: as `mask`.

        Returns:
            the id of each kept correction, a line each.

        Raises:
            ValueError: a phrase without words, a mask of another size than the image, or the server's error.
        """
        segmenter = RemoteSegmenter(server)
        after = _each(mask, image)
        earlier = [None] * len(image) if before is None else _each(before, image)
        corrections = [Correction(phrase, *pair, tool="comfyui") for pair in zip(after, earlier, strict=True)]
        for correction in corrections:  # all are checked before the first is sent
            correction.check_size(*image.shape[1:3])
        ids = []
        for pixels, correction in zip(image, corrections, strict=True):
            segmenter.set_image(_pixels(pixels))
            ids.append(segmenter.send_correction(correction)["id"])
        return ("\n".join(ids),)


def _each(mask: Tensor, images: Tensor) -> list[Rle]:
    """Return the mask of each image, of as many masks or one."""
    return [encode((row > 0.5).cpu().numpy()) for row in mask.expand(len(images), *mask.shape[-2:])]


def _pixels(image: Tensor) -> np.ndarray:
    return image.clamp(0, 1).float().cpu().numpy()


def _numbers(text: str, count: int) -> list[float]:
    """Read numbers between commas or spaces; a ValueError for any other text."""
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        what = "a point x, y, label" if count == 3 else "a box x, y, width, height"
        raise ValueError(f"expected {what} in numbers, got {text.strip()!r}.")
    return numbers


def _tensor(masks: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(masks).astype(np.float32))


NODE_CLASS_MAPPINGS = {
    "PixelLMAsk": PixelLMAsk,
    "PixelLMRefine": PixelLMRefine,
    "PixelLMSaveCorrection": PixelLMSaveCorrection,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "PixelLMAsk": "PixelLM: ask",
    "PixelLMRefine": "PixelLM: refine",
    "PixelLMSaveCorrection": "PixelLM: save correction",
}
