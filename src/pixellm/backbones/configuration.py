"""Configuration of a PixelLM on a vision-language model of transformers."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from pixellm.backbones.families import adapter_for
from pixellm.backbones.masks import layer_types
from pixellm.utils.model_files import expect_sizes

OWN_SIZES = ("num_scales", "tokens_per_scale", "decoder_dim", "decoder_depth", "decoder_heads", "decoder_mlp_dim")


class BackboneConfig(PreTrainedConfig):
    """The base's configuration and the sizes of what PixelLM adds; see `PixelLMConfig` for the fields of both.

    Args:
        base_config: configuration of an `AutoModelForImageTextToText` whose family has an adapter.
        num_scales: see `PixelLMConfig`.
        tokens_per_scale: see there.
        codebook_ids: the L·N vocabulary ids, scale-major.
        vision_layers: one entry of the vision tower's hidden states per scale, deepest first; None: spread over it.
        mask_grid: g, side in cells of the square that the pixel decoder gets; None: the adapter's.
        pixel_feature_size: width of the decoder-side projector (None: the language model's).
        projector_ratio: hidden width of that projector, as a multiple of its width.
        decoder_dim: see `PixelLMConfig`.
        decoder_depth: see there.
        decoder_heads: see there.
        decoder_mlp_dim: see there.
        num_mask_tokens: see there.
        token_penalty: repetition penalty of the base's own generation settings, where who asks names none.
    """

    model_type = "pixellm_backbone"
    sub_configs = {"base_config": AutoConfig}  # noqa: RUF012  # pyright: ignore[reportAssignmentType]
    has_no_defaults_at_init = True
    # The paper's, see `PixelLMConfig`: the other values reproduce released weights of the paper's own base.
    compat = "paper"
    learned_fusion = own_state = train_neck = True

    def __init__(
        self,
        base_config: PreTrainedConfig | dict | None = None,
        num_scales: int = 2,
        tokens_per_scale: int = 3,
        codebook_ids: tuple[int, ...] | None = None,
        vision_layers: tuple[int, ...] | None = None,
        mask_grid: int | None = None,
        pixel_feature_size: int | None = None,
        projector_ratio: float = 2.0,
        decoder_dim: int = 256,
        decoder_depth: int = 2,
        decoder_heads: int = 8,
        decoder_mlp_dim: int = 2048,
        num_mask_tokens: int = 1,
        token_penalty: float = 1.0,
        **kwargs,
    ) -> None:
        if base_config is None:
            raise ValueError("base_config: expected the configuration of a vision-language model, got none.")
        if isinstance(base_config, dict):
            adapter_for(str(base_config.get("model_type")))  # before transformers tries others
            base_config = AutoConfig.for_model(**base_config)
        self.base_config = base_config
        layer_types(self.text_config)
        adapter = adapter_for(base_config.model_type)
        self.num_scales, self.tokens_per_scale = num_scales, tokens_per_scale
        self.decoder_dim, self.decoder_depth, self.decoder_heads = decoder_dim, decoder_depth, decoder_heads
        self.decoder_mlp_dim, self.num_mask_tokens = decoder_mlp_dim, num_mask_tokens
        expect_sizes(self, required=(*OWN_SIZES, "num_mask_tokens"))
        count, vocabulary = num_scales * tokens_per_scale, self.text_config.vocab_size
        self.codebook_ids = list(codebook_ids or range(vocabulary - count, vocabulary))
        depth = adapter.num_layers(base_config)
        self.vision_layers = list(vision_layers or spread_layers(depth, num_scales))
        self.mask_grid = mask_grid or adapter.default_grid(base_config)
        expect_sizes({"llm_grid": self.mask_grid})
        self.token_penalty = token_penalty
        self.pixel_feature_size, self.projector_ratio = pixel_feature_size, projector_ratio
        self._validate(count, vocabulary, depth)
        super().__init__(**kwargs)

    def _validate(self, count: int, vocabulary: int, depth: int) -> None:
        if len(set(self.codebook_ids)) != count or not all(0 <= number < vocabulary for number in self.codebook_ids):
            raise ValueError(
                f"codebook_ids: expected {count} different ids in 0 … {vocabulary - 1}, got {self.codebook_ids}."
            )
        wrong = [layer for layer in self.vision_layers if not -depth - 1 <= layer <= depth]
        if wrong or len(self.vision_layers) != self.num_scales:
            raise ValueError(
                f"vision_layers: expected {self.num_scales} of the vision tower's {depth + 1} hidden states, "
                f"{-depth - 1} to {depth}, got {self.vision_layers}. Name one for each scale."
            )

    @property
    def text_config(self) -> Any:
        """Configuration of the base's language model."""
        return self.base_config.get_text_config()

    @property
    def decoder_grids(self) -> list[int]:
        """See `PixelLMConfig.decoder_grids`: a tower has one stride, so finer scales are upsampled twofold."""
        return [self.mask_grid if scale == 0 else 2 * self.mask_grid for scale in range(self.num_scales)]

    @property
    def uniform_grids(self) -> bool:
        """See `PixelLMConfig.uniform_grids`."""
        return True


def spread_layers(depth: int, scales: int) -> list[int]:
    """Layers from the last but one, as the paper's, evenly down the tower, as negative indexes, deepest first."""
    return [max(-2 - scale * depth // scales, -depth - 1) for scale in range(scales)]
