"""PixelLM on a vision-language model as a kind of model that is trained, from what `pixellm init` made."""

import re
from collections.abc import Mapping
from typing import Any

from PIL import Image
from transformers import PreTrainedModel

from pixellm.backbones.configuration import BackboneConfig
from pixellm.backbones.modeling import BackboneForConditionalGeneration
from pixellm.backbones.predictor import BackbonePredictor
from pixellm.backbones.processing import BackboneProcessor
from pixellm.train.model_kind import Parts, Tuning
from pixellm.train.pixellm_kind import TUNING_RATES, PixelLMKind
from pixellm.train.recipe import AdapterConfig
from pixellm.types import Segmenter

NEW_PARTS = ("codebook", "pixel_decoder", "pixel_projector", "neck")
TYPICAL_SIZE = (640, 480)  # pixels of an image (COCO's), whose tokens stand for those of others


class BackboneKind(PixelLMKind):
    """See `ModelKind`; the vision tower and its projector stay frozen unless a recipe names them in `trained`."""

    config_class = BackboneConfig  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]
    processor_class = BackboneProcessor
    shardable = False  # the tower of some families runs a second time for some images: processes would wait for others

    def describe(self, preset: Any, parts: Parts) -> tuple[Any, Any]:
        raise ValueError(
            "initialise: expected a model that `pixellm init` made, got parts. Name its directory as model."
        )

    def load_parts(self, model: Any, parts: Parts) -> None:
        raise ValueError(
            "initialise: expected a model that `pixellm init` made, got parts. Name its directory as model."
        )

    def trained_parts(self, config: Any) -> tuple[str, ...]:
        return NEW_PARTS

    def tuning(self, config: Any) -> Tuning:
        return Tuning(NEW_PARTS, TUNING_RATES, max_length=None)  # an image alone may take thousands of tokens

    def text_module(self, model: BackboneForConditionalGeneration) -> PreTrainedModel:  # pyright: ignore[reportIncompatibleMethodOverride]
        return model.backbone

    def adapter_targets(self, model: Any, adapters: AdapterConfig) -> str:
        """Match layers of the language model only: vision towers have some of the same names."""
        base = model.backbone
        (path,) = (name for name, module in base.named_modules() if module is model.text_model)
        return rf"{re.escape(path)}\..*\.({'|'.join(map(re.escape, adapters.targets))})"

    def num_prefix_tokens(self, processor: BackboneProcessor) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return len(processor.image_inputs(Image.new("RGB", TYPICAL_SIZE)).prefix_ids)

    def segmenter(self, model: Any, processor: Any, max_new_tokens: int) -> Segmenter:
        sampling: Mapping[str, Any] = {"max_new_tokens": max_new_tokens}
        return BackbonePredictor(model, processor, sampling=sampling)
