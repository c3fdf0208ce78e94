"""Ask a trained model with torch: set_image → ask."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixellm.imaging.masks import Rle
from pixellm.imaging.postprocess import Binary, binarize
from pixellm.imaging.visual_prompts import Prompts
from pixellm.inference.answer_builder import AnswerBuilder
from pixellm.inference.base_predictor import BasePredictor
from pixellm.inference.generation import Decoding, Prefix, encode_prefix
from pixellm.model import PixelLMForConditionalGeneration, PixelLMProcessor
from pixellm.model.states import ForwardStates
from pixellm.types import SEG_SLOT, Answer, Conversation, Sample


class Predictor(BasePredictor):
    """Answers questions about images with text and masks; `pixellm.load` makes one from a model's name.

    Args:
        model: a PixelLM model; it is put into eval mode.
        processor: its processor.
        system, sampling, min_score: see `BasePredictor`.
        max_prompt_tokens: see there; None: the LLM's whole context.

    Raises:
        ValueError: `min_score` is not in 0..1.
    """

    teacher_forcing = True

    def __init__(
        self,
        model: PixelLMForConditionalGeneration,
        processor: PixelLMProcessor,
        system: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        max_prompt_tokens: int | None = None,
        min_score: float = 0.0,
    ) -> None:
        limit = max_prompt_tokens or model.config.text_config.max_position_embeddings
        super().__init__(processor, limit, system, sampling, min_score)
        self.model = model.eval()

    @property
    def default_sampling(self) -> Mapping[str, Any]:
        return self.model.default_sampling

    @property
    def takes_prompts(self) -> bool:
        """See `BasePredictor.takes_prompts`."""
        return self.model.takes_prompts

    def encode(self, images: Sequence[Image.Image]) -> Prefix:
        """Encode images and the prompt's prefix, which all questions on them share."""
        inputs = self.processor.images(images)
        device, dtype = self.model.device, self.model.dtype
        context = inputs.get("context_pixel_values")
        return encode_prefix(
            self.model,
            inputs["pixel_values"].to(device, dtype),
            inputs["resized_hw"].to(device),
            self.processor.prefix_ids,
            None if context is None else context.to(device, dtype),
        )

    def decoding(self, joint: bool = True) -> Decoding:
        """Return an empty batch; see `Decoding`."""
        return Decoding(self.model, self.processor.eos_ids, joint)

    @torch.inference_mode()
    def decode_mask(
        self, encoded: Prefix, row: int, states: Tensor, image: Image.Image
    ) -> tuple[Rle, float, float | None]:
        """See `BasePredictor.decode_mask`."""
        images, index = encoded.images, torch.tensor([row], device=states.device)
        logits = self.model.decode_masks(images, states, index)
        presence = self.model.presence_scores(images, states, index, logits)
        height, width = images.resized_hw[row].tolist()
        (mask,) = binarize(logits, (height, width), (image.height, image.width), self.model.peak_share)
        return mask.rle, mask.score, None if presence is None else float(presence)

    @torch.inference_mode()
    def correct_mask(
        self, encoded: Prefix, row: int, image: Image.Image, mask: np.ndarray, prompts: Prompts
    ) -> tuple[np.ndarray, float]:
        """See `BasePredictor.correct_mask`."""
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        new, score = self.model.refine_mask(encoded.images, row, pixels, torch.from_numpy(mask), prompts)
        return new.cpu().numpy(), score

    @torch.inference_mode()
    def segment_given(self, questions: Sequence[str], answers: Sequence[str]) -> list[Answer]:
        """Decode the masks of given answers, teacher-forced: one forward pass for all of them, nothing is generated.

        Targets below the predictor's `min_score` are left out.

        Args:
            questions: about the image of `set_image`.
            answers: one for each question, with a `{seg}` for each mask; the returned answers are without it.
        """
        image, _ = self._current()
        unread = [np.zeros((answer.count(SEG_SLOT), 1, 1), dtype=bool) for answer in answers]
        turns = tuple(Conversation(*turn) for turn in zip(questions, answers, unread, strict=True))
        batch = self.processor([Sample(image, turns)])
        states = self.forward_states(batch)
        (logits,) = states.mask_logits
        presence = self.model.presence_scores(states.images, states.group_states, states.groups[:, 0], logits)
        height, width = states.images.resized_hw[0].tolist()
        masks = binarize(logits, (height, width), (image.height, image.width), self.model.peak_share)
        scored = zip(masks, [None] * len(logits) if presence is None else presence.tolist(), strict=True)
        return [self._with_masks(turn, scored, image).above(self.min_score) for turn in turns]

    def forward_states(self, batch: Any) -> ForwardStates:
        """Run a teacher-forced pass over a batch of the processor, on the model's device."""
        device, dtype = self.model.device, self.model.dtype
        inputs = (batch.resized_hw.to(device), batch.input_ids.to(device), batch.segment_ids.to(device))
        context = batch.context_pixel_values
        context = None if context is None else context.to(device, dtype)
        return self.model.forward_states(batch.pixel_values.to(device, dtype), *inputs, context_pixel_values=context)

    def _with_masks(
        self, turn: Conversation, masks: Iterator[tuple[Binary, float | None]], image: Image.Image
    ) -> Answer:
        builder = AnswerBuilder(turn.question, image)
        first, *rest = turn.answer.split(SEG_SLOT)
        builder.add_text(first)
        for piece in rest:
            mask, presence = next(masks)
            builder.add_target(*mask, presence)
            builder.add_text(piece)
        return builder.finish()
