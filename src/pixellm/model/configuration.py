"""Configuration of PixelLM: every size of the model, and each switch between the paper and the released weights."""

from typing import Any, Literal, Protocol

from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, PreTrainedConfig

from pixellm.utils import limits
from pixellm.utils.model_files import expect_sizes

Compat = Literal["paper", "released"]
OWN_SIZES = ("llm_grid", "decoder_dim", "decoder_depth", "decoder_heads", "decoder_mlp_dim", "num_mask_tokens")


class HeadConfig(Protocol):
    """Fields that codebook and pixel decoder read of a configuration, whatever the encoder and the language model are.

    See `PixelLMConfig` for the fields.
    """

    num_scales: int
    tokens_per_scale: int
    decoder_dim: int
    decoder_depth: int
    decoder_heads: int
    decoder_mlp_dim: int
    num_mask_tokens: int
    learned_fusion: bool
    train_neck: bool

    @property
    def text_config(self) -> Any:
        """Configuration of the language model."""
        ...

    @property
    def uniform_grids(self) -> bool:
        """See `PixelLMConfig.uniform_grids`."""
        ...

    @property
    def decoder_grids(self) -> list[int]:
        """See `PixelLMConfig.decoder_grids`."""
        ...


class PixelLMVisionConfig(PreTrainedConfig):
    """Vision encoder: a CLIP-ViT of transformers, or any timm backbone that gives feature maps.

    Args:
        kind: "clip" or "timm".
        image_size: side of the square input in pixels; for CLIP any multiple of its patch.
        clip: arguments of `CLIPVisionConfig` (kind "clip").
        hidden_layers: CLIP: one entry of `hidden_states` per scale, deepest first (negative counts from the end).
        backbone: timm model name (kind "timm").
        reductions: timm: stride in pixels of each scale, coarse to fine.
        hidden_size: timm: channels of the feature pyramid (for CLIP its own width is used); 0: none, the maps as they
            are, for a decoder that has a pyramid of its own.
        drop_path: timm, in training: share of residual branches that are dropped at the last block, growing from 0.
    """

    model_type = "pixellm_vision"
    base_config_key = "vision_config"

    def __init__(
        self,
        kind: Literal["clip", "timm"] = "clip",
        image_size: int = 448,
        clip: dict[str, Any] | None = None,
        hidden_layers: tuple[int, ...] = (-2, -11),
        backbone: str = "tf_efficientnet_lite2",
        reductions: tuple[int, ...] = (32, 16, 8),
        hidden_size: int = 128,
        drop_path: float = 0.0,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self.image_size = image_size
        self.clip = clip or {}
        self.hidden_layers = list(hidden_layers)
        self.backbone = backbone
        self.reductions = list(reductions)
        self.drop_path = drop_path
        expect_sizes({"image_size": image_size, "hidden_size": hidden_size or None}, "vision_config.")
        if kind == "clip":
            expect_sizes(self.clip, "vision_config.clip.")
            patch = self.clip_config.patch_size
            if image_size % patch:
                raise ValueError(
                    f"image_size: expected a multiple of CLIP's patch of {patch} pixels, got {image_size}. "
                    f"Use {image_size // patch * patch or patch}."
                )
            depth = self.clip_config.num_hidden_layers
            if absent := [layer for layer in self.hidden_layers if not -depth - 1 <= layer <= depth]:
                raise ValueError(
                    f"hidden_layers: expected entries of CLIP's {depth + 1} hidden states, got {absent}. "
                    f"Use {-depth - 1} to {depth}."
                )
            hidden_size = self.clip_config.hidden_size
        elif kind == "timm":
            if any(coarse < fine for coarse, fine in zip(self.reductions, self.reductions[1:], strict=False)):
                raise ValueError(f"reductions: expected strides from coarse to fine, got {self.reductions}.")
            if image_size % max(self.reductions):
                raise ValueError(
                    f"image_size: expected a multiple of the coarsest stride {max(self.reductions)}, got {image_size}."
                )
        else:
            raise ValueError(f"kind: expected 'clip' or 'timm', got {kind!r}.")
        self.hidden_size = hidden_size

    @property
    def clip_config(self) -> CLIPVisionConfig:
        return CLIPVisionConfig(**{**self.clip, "image_size": self.image_size})

    @property
    def grid_sizes(self) -> list[int]:
        """Side of the feature grid of each scale, coarse to fine."""
        if self.kind == "clip":
            return [self.image_size // self.clip_config.patch_size] * len(self.hidden_layers)
        return [self.image_size // reduction for reduction in self.reductions]


class PixelLMConfig(PreTrainedConfig):
    """All of PixelLM (arXiv 2312.02228).

    Args:
        vision_config: see `PixelLMVisionConfig`.
        text_config: any causal LM configuration of transformers (a dict needs `model_type`) whose base model takes
            position ids and a 4-D attention mask, and whose logits are its output embeddings' (no soft cap, no scale).
        num_scales: L, scales of image features = parts of the codebook; the finest ones of the vision encoder's, where
            it gives more (the language model reads the coarsest).
        tokens_per_scale: N, codebook tokens for each scale.
        codebook_ids: the L·N vocabulary ids, scale-major.
        llm_grid: side of the square of image tokens that the language model reads.
        projector_ratio: hidden width of both vision projectors, as a multiple of the language model's width.
        pixel_feature_size: width that the decoder-side projector gives (None: the language model's width).
        decoder_dim: C, width of the pixel decoder.
        decoder_depth, decoder_heads, decoder_mlp_dim: size of each two-way transformer.
        num_mask_tokens: mask tokens of the pixel decoder; only the first is read (the released weights have 4).
        compat: "paper", or "released" to reproduce the released weights; sets the defaults of the switches below,
            each of which is a row of docs/parity.md.
        learned_fusion: token and scale weights are parameters (else constants 1/(L·N) and 1/L).
        own_state: a codebook token is read from its own state (else from the state before, which predicts it).
        train_neck: the neck and the prompt embeddings train (else they stay as they are).
    """

    model_type = "pixellm"
    sub_configs = {"vision_config": PixelLMVisionConfig, "text_config": AutoConfig}  # noqa: RUF012  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        vision_config: PixelLMVisionConfig | dict | None = None,
        text_config: PreTrainedConfig | dict | None = None,
        num_scales: int = 2,
        tokens_per_scale: int = 3,
        codebook_ids: tuple[int, ...] | None = None,
        llm_grid: int = 16,
        projector_ratio: float = 2.0,
        pixel_feature_size: int | None = None,
        decoder_dim: int = 256,
        decoder_depth: int = 2,
        decoder_heads: int = 8,
        decoder_mlp_dim: int = 2048,
        num_mask_tokens: int = 4,
        compat: Compat = "paper",
        learned_fusion: bool | None = None,
        own_state: bool | None = None,
        train_neck: bool | None = None,
        **kwargs,
    ) -> None:
        if vision_config is None or isinstance(vision_config, dict):
            fields = {k: v for k, v in (vision_config or {}).items() if k != "model_type"}
            vision_config = self.sub_configs["vision_config"](**fields)
        if text_config is None:
            text_config = LlamaConfig()
        elif isinstance(text_config, dict):
            expect_sizes(text_config, "text_config.")
            text_config = AutoConfig.for_model(**text_config)
        expect_sizes(text_config, "text_config.")  # under transformers' common names, which not every kind writes
        self.vision_config, self.text_config = vision_config, text_config
        counts = {"num_scales": num_scales, "tokens_per_scale": tokens_per_scale}
        expect_sizes(counts, required=counts)
        self.num_scales, self.tokens_per_scale = num_scales, tokens_per_scale
        count = num_scales * tokens_per_scale
        self.codebook_ids = list(codebook_ids or range(text_config.vocab_size - count, text_config.vocab_size))
        self.llm_grid = llm_grid
        self.projector_ratio = projector_ratio
        self.pixel_feature_size = pixel_feature_size
        self.decoder_dim = decoder_dim
        self.decoder_depth, self.decoder_heads, self.decoder_mlp_dim = decoder_depth, decoder_heads, decoder_mlp_dim
        self.num_mask_tokens = num_mask_tokens
        self.compat = compat
        paper = compat == "paper"
        self.learned_fusion = paper if learned_fusion is None else learned_fusion
        self.own_state = paper if own_state is None else own_state
        self.train_neck = paper if train_neck is None else train_neck
        self._validate_sizes(count)
        super().__init__(**kwargs)

    def _validate_sizes(self, count: int) -> None:
        expect_sizes(self, required=OWN_SIZES)
        if (
            not isinstance(self.projector_ratio, int | float)
            or not 0 <= self.projector_ratio <= limits.MAX_PROJECTOR_RATIO
        ):
            raise ValueError(
                f"projector_ratio: expected a number in 0 … {limits.MAX_PROJECTOR_RATIO}, got {self.projector_ratio}."
            )
        if self.compat not in ("paper", "released"):
            raise ValueError(f"compat: expected 'paper' or 'released', got {self.compat!r}.")
        if not self.vision_config.hidden_size:
            raise ValueError("vision_config.hidden_size: expected the width of a feature pyramid, got 0.")
        if len(self.codebook_ids) != count or len(set(self.codebook_ids)) != count:
            raise ValueError(f"codebook_ids: expected {count} different ids, got {self.codebook_ids}.")
        vocabulary = self.text_config.vocab_size
        if any(type(number) is not int or not 0 <= number < vocabulary for number in self.codebook_ids):
            raise ValueError(f"codebook_ids: expected ids in 0 … {vocabulary - 1}, got {self.codebook_ids}.")
        if len(self.vision_config.grid_sizes) < self.num_scales:
            raise ValueError(
                f"expected a vision feature for each of {self.num_scales} scales, got "
                f"{len(self.vision_config.grid_sizes)}. Name as many in vision_config.hidden_layers (clip) or "
                "reductions (timm)."
            )

    @property
    def num_image_tokens(self) -> int:
        """Tokens that one image takes in the LLM."""
        return self.llm_grid**2

    @property
    def uniform_grids(self) -> bool:
        """True if the maps of all scales are of one size (a ViT)."""
        return len(set(self.vision_config.grid_sizes)) == 1

    @property
    def decoder_grids(self) -> list[int]:
        """Side of the grid on which the pixel decoder works at each scale.

        A pyramid is used as it is; features of one size (a ViT) are upsampled twofold for every scale but the first.
        """
        grids = self.vision_config.grid_sizes[-self.num_scales :]
        if len(set(grids)) > 1:
            return grids
        return [grid if scale == 0 else 2 * grid for scale, grid in enumerate(grids)]
