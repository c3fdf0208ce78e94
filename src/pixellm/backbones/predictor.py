"""Ask a PixelLM on a vision-language model: as `pixellm.predictor`, with the base's own processor."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from pixellm.backbones.modeling import BackboneBatch, BackboneForConditionalGeneration, ImageInputs, stack_images
from pixellm.backbones.processing import BackboneProcessor
from pixellm.inference.generation import Prefix
from pixellm.model.states import ForwardStates
from pixellm.predictor import Predictor
from pixellm.types import Answer
from pixellm.utils.checks import check_text


class BackbonePredictor(Predictor):
    """See `Predictor`; `max_prompt_tokens` are those beside the image, of which the base's processor may make many."""

    model: BackboneForConditionalGeneration
    processor: BackboneProcessor  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        model: BackboneForConditionalGeneration,
        processor: BackboneProcessor,
        system: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        max_prompt_tokens: int | None = None,
        min_score: float = 0.0,
    ) -> None:
        super().__init__(model, processor, system, sampling, max_prompt_tokens, min_score)  # pyright: ignore[reportArgumentType]

    def encode(self, images: Sequence[Image.Image]) -> Prefix:
        """See `Predictor.encode`; one image after the other, so that each is as it would be alone."""
        inputs = [self.processor.image_inputs(image).to(self.model.device) for image in images]
        return encode_prefix(self.model, inputs, self.processor.text_ids)

    def prompt_ids(self, question: str, history: Sequence[Answer] = ()) -> list[int]:
        """See `BackboneProcessor.prompt_ids`; a ValueError if nothing is asked, or the prompt is too long."""
        ids = self.processor.prompt_ids(check_text(question), history)
        context = self.model.config.text_config.max_position_embeddings
        room = min(self.max_prompt_tokens, context - (0 if self._image is None else self.prefix_tokens(self._image[1])))
        if len(ids) > room:
            raise ValueError(
                f"expected at most {room} tokens of earlier turns and question beside the image, got {len(ids)}. "
                "Shorten the question, or leave out earlier turns."
            )
        return ids

    def prefix_tokens(self, encoded: Prefix) -> int:
        """See `Predictor.prefix_tokens`; it depends on the image's size."""
        return encoded.valid.shape[1]

    def forward_states(self, batch: BackboneBatch) -> ForwardStates:
        """See `Predictor.forward_states`."""
        device = self.model.device
        images = [image.to(device) for image in batch.images]
        return self.model.forward_states(images, batch.input_ids.to(device), batch.segment_ids.to(device))


@torch.inference_mode()
def encode_prefix(
    model: BackboneForConditionalGeneration, inputs: Sequence[ImageInputs], text_ids: Sequence[int]
) -> Prefix:
    """Encode B images, each with its prompt's prefix, for `generation.generate`.

    Args:
        model: in eval mode.
        inputs: B images on the model's device.
        text_ids: ids before the image, see `BackboneProcessor.text_ids`.
    """
    images = [model.encode_image(image) for image in inputs]
    caches = [model.new_cache() for _ in inputs]
    begins = [
        int(model.read_prefix(*row).max()) + 1  # M-RoPE goes on from the largest of an image's positions
        for row in zip(inputs, images, caches, strict=True)
    ]
    lengths = torch.tensor([len(image.prefix_ids) for image in inputs], device=model.device)
    valid = torch.arange(int(lengths.max()), device=model.device) < lengths[:, None]
    position = torch.tensor(begins, device=model.device)
    return Prefix(stack_images(images), type(caches[0]).concatenated(caches), valid, list(text_ids), position)
