"""Settings of the SEEM-style baseline: by default the sizes that X-Decoder and SEEM were published with."""

from typing import Any

from transformers import AutoConfig, CLIPTextConfig, PreTrainedConfig

from pixellm.model import PixelLMVisionConfig

NUM_LEVELS = 3  # maps that the queries read in turn, the coarsest ones


class SeemConfig(PreTrainedConfig):
    """All of the SEEM-style baseline (X-Decoder, arXiv 2212.11270; SEEM, arXiv 2304.06718).

    Args:
        vision_config: see `PixelLMVisionConfig`; by default FocalNet-L with maps at four strides, as it gives them.
        text_config: text encoder: a `CLIPTextConfig`, or a causal LM's, whose base model is used (a dict needs
            `model_type`). The state of a phrase's last token stands for the phrase.
        width: C of pixel decoder, queries and phrases.
        num_heads, ffn_dim: of every transformer layer.
        encoder_layers: of the pixel decoder, on the coarsest map.
        decoder_layers: of the queries.
        num_queries: object queries, and as many grounding copies.
        max_tokens: of a phrase; the rest of a longer one is left out.
        ce_weight, bce_weight, dice_weight: of the losses; the published recipe has 0.4 for the choice of the query,
            doubled for phrases.
        class_cost, bce_cost, dice_cost: weights of the costs that queries are matched with targets by.
        num_points: points of a mask at which costs and losses are computed.
    """

    model_type = "pixellm-seem"
    sub_configs = {"vision_config": PixelLMVisionConfig, "text_config": AutoConfig}  # noqa: RUF012  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        vision_config: PixelLMVisionConfig | dict | None = None,
        text_config: PreTrainedConfig | dict | None = None,
        width: int = 512,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        encoder_layers: int = 6,
        decoder_layers: int = 9,
        num_queries: int = 101,
        max_tokens: int = 77,
        ce_weight: float = 0.8,
        bce_weight: float = 1.0,
        dice_weight: float = 1.0,
        class_cost: float = 2.0,
        bce_cost: float = 5.0,
        dice_cost: float = 5.0,
        num_points: int = 12544,
        **kwargs: Any,
    ) -> None:
        if vision_config is None:
            vision_config = focal_backbone("focalnet_large_fl4")
        elif isinstance(vision_config, dict):
            vision_config = PixelLMVisionConfig(**{k: v for k, v in vision_config.items() if k != "model_type"})
        if text_config is None:
            text_config = CLIPTextConfig(layer_norm_eps=1e-12)
        elif isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.vision_config, self.text_config = vision_config, text_config
        self.width, self.num_heads, self.ffn_dim = width, num_heads, ffn_dim
        self.encoder_layers, self.decoder_layers = encoder_layers, decoder_layers
        self.num_queries, self.max_tokens = num_queries, max_tokens
        self.ce_weight, self.bce_weight, self.dice_weight = ce_weight, bce_weight, dice_weight
        self.class_cost, self.bce_cost, self.dice_cost = class_cost, bce_cost, dice_cost
        self.num_points = num_points
        self._validate_sizes()
        super().__init__(**kwargs)

    def _validate_sizes(self) -> None:
        for name in ("decoder_layers", "num_queries", "max_tokens", "num_points", "num_heads", "ffn_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        if self.encoder_layers < 0:
            raise ValueError(f"encoder_layers: expected 0 or more, got {self.encoder_layers}.")
        if self.width < 4 or self.width % 4 or self.width % self.num_heads:
            raise ValueError(
                f"width: expected a multiple of 4 and of the {self.num_heads} heads, got {self.width}. Change one of "
                "them."
            )
        room = getattr(self.text_config, "max_position_embeddings", None)
        if room is not None and self.max_tokens > room:
            raise ValueError(
                f"max_tokens: expected at most the {room} positions of the text encoder, got {self.max_tokens}."
            )

    @property
    def level_grids(self) -> list[int]:
        """Side of each map that the queries read, coarse to fine."""
        return self.vision_config.grid_sizes[:NUM_LEVELS]


def focal_backbone(name: str, image_size: int = 1024) -> PixelLMVisionConfig:
    """A FocalNet of timm by name, its maps of stride 4 to 32 as they are."""
    return PixelLMVisionConfig(
        kind="timm", image_size=image_size, backbone=name, reductions=(32, 16, 8, 4), hidden_size=0
    )
