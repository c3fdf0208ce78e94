"""Configuration of pixellm-mini: PixelLM that reads what a detector and a dense classifier found."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from pixellm.model import PixelLMConfig, PixelLMVisionConfig
from pixellm.utils.model_files import expect_sizes

MAX_CANDIDATES = 256


class MiniVisionConfig(PixelLMVisionConfig):
    """A timm backbone with a feature pyramid and a dense classifier, and beside it a detector.

    Args:
        vocabulary: categories that the classifier scores at the finest scale.
        classifier_dropout: in training, share of the deepest channels that the classifier does without.
        detector_classes: categories of the detector, in its order, all of them in the vocabulary; none: no detector.
        num_detections: objects of an image that the detector gives at most.
        kwargs: fields of `PixelLMVisionConfig`.
    """

    model_type = "pixellm_mini_vision"

    def __init__(
        self,
        vocabulary: tuple[str, ...] = (),
        classifier_dropout: float = 0.0,
        detector_classes: tuple[str, ...] = (),
        num_detections: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"kind": "timm"} | kwargs)
        self.vocabulary, self.classifier_dropout = list(vocabulary), classifier_dropout
        self.detector_classes, self.num_detections = list(detector_classes), num_detections
        expect_sizes({"num_detections": num_detections}, "vision_config.", required=("num_detections",))
        if absent := sorted(set(detector_classes) - set(vocabulary)):
            raise ValueError(f"detector_classes: expected categories of the vocabulary, got {absent[:3]}.")
        if self.kind != "timm" or not self.hidden_size:
            raise ValueError(
                f"expected a timm backbone with a feature pyramid, which the classifier reads, got kind {self.kind!r} "
                f"and hidden_size {self.hidden_size}."
            )

    @property
    def detector_columns(self) -> list[int]:
        """Place of each of the detector's categories in the vocabulary."""
        return [self.vocabulary.index(name) for name in self.detector_classes]


class MiniConfig(PixelLMConfig):
    """Everything about pixellm-mini.

    Args:
        vision_config: see `MiniVisionConfig`.
        text_config: see `PixelLMConfig`.
        vocabulary_ids: for each category, and after those for further names that texts mention but no category has, the
            token ids of every form (plural, synonyms); the first form of a category represents it.
        num_candidates: K objects and regions of an image that the language model reads, in place of the image's grid,
            and that codebook states point at; 0: it reads the grid, and codebook states alone prompt the pixel decoder.
        peak_share: a pixel is also in a mask where its probability exceeds this share (0..1) of the mask's maximum.
        default_sampling: fields of `Sampling` where the caller gives none; lists of a small LLM may not end without
            `no_repeat_ngram_size`.
        embedding_skip: codebook and pointer read each state plus this times the token embedding at its position.
        mask_width: channels of the head that segments detections.
        refine_width: channels of the head that corrects masks by visual prompts; 0: there is none, as without a
            detector.
        kwargs: fields of `PixelLMConfig`.
    """

    model_type = "pixellm_mini"
    sub_configs = {"vision_config": MiniVisionConfig, "text_config": AutoConfig}  # noqa: RUF012  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        vision_config: MiniVisionConfig | dict | None = None,
        text_config: PreTrainedConfig | dict | None = None,
        vocabulary_ids: list[list[list[int]]] | None = None,
        num_candidates: int = 0,
        peak_share: float | None = None,
        default_sampling: dict[str, Any] | None = None,
        embedding_skip: float = 0.0,
        mask_width: int = 96,
        refine_width: int = 0,
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("num_tags", 0) or kwargs.pop("class_prior", False):
            raise ValueError(
                "expected a model that reads candidates, got one of an earlier pixellm that reads tags. Train it "
                "again, or use the version that wrote it."
            )
        self.vocabulary_ids, self.num_candidates = vocabulary_ids or [], num_candidates
        self.peak_share, self.default_sampling = peak_share, dict(default_sampling or {})
        self.embedding_skip, self.mask_width, self.refine_width = embedding_skip, mask_width, refine_width
        super().__init__(vision_config, text_config, **kwargs)
        expect_sizes({"mask_width": mask_width}, required=("mask_width",))
        if type(num_candidates) is not int or not 0 <= num_candidates <= MAX_CANDIDATES:
            raise ValueError(f"num_candidates: expected 0 to {MAX_CANDIDATES}, got {num_candidates!r:.40}.")
        if refine_width % 32 or refine_width < 0:
            raise ValueError(f"refine_width: expected a multiple of 32, or 0, got {refine_width}.")
        if not self.vision_config.detector_classes:
            self.refine_width = 0  # it reads the detector's maps
        if peak_share is not None and not 0 < peak_share <= 1:
            raise ValueError(f"peak_share: expected a share > 0 and ≤ 1, or none, got {peak_share}.")

    @property
    def num_image_tokens(self) -> int:
        """Tokens that one image takes in the LLM: its candidates, or its grid."""
        return self.num_candidates or super().num_image_tokens
