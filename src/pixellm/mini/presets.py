"""Small sizes for experiments: the embedded default, and LISA and SEEM over its vision encoder and language model."""

from transformers import LlamaConfig

from pixellm.baselines.lisa import LisaConfig
from pixellm.baselines.seem.configuration import SeemConfig
from pixellm.mini.parts import PRETRAINED
from pixellm.model import PixelLMConfig


def pixellm_mini() -> PixelLMConfig:
    """SmolLM2-135M-Instruct and EfficientNet-Lite2, as shipped; recipes/mini.yaml trains it."""
    return PixelLMConfig.from_pretrained(PRETRAINED)


def lisa_mini() -> LisaConfig:
    """LISA without a SAM: its mask decoder over the encoder of pixellm-mini."""
    shared = pixellm_mini().to_dict()
    for own in ("model_type", "num_scales", "tokens_per_scale", "codebook_ids", "own_state", "learned_fusion"):
        shared.pop(own)
    decoder = {
        "hidden_size": shared["decoder_dim"],
        "num_attention_heads": shared["decoder_heads"],
        "mlp_dim": shared["decoder_mlp_dim"],
        "iou_head_hidden_dim": shared["decoder_dim"],
    }
    # SAM's decoder takes no prior of names.
    return LisaConfig(sam_decoder_config=decoder, **(shared | {"overlap_weight": 1.0, "name_prior": False}))


def seem_mini() -> SeemConfig:
    """SEEM-style, with the encoder of pixellm-mini without its names, at 320 pixels, and few layers of its LLM."""
    mini = pixellm_mini()
    vision = mini.vision_config.to_dict() | {"image_size": 320, "vocabulary": (), "drop_path": 0.0}
    text = mini.text_config.to_dict() | {"num_hidden_layers": 4}
    return SeemConfig(
        vision_config=vision,
        text_config=LlamaConfig.from_dict(text),
        width=128,
        ffn_dim=512,
        encoder_layers=1,
        decoder_layers=4,
        num_queries=32,
        num_points=1024,
    )


PRESETS = {"pixellm-mini": pixellm_mini, "lisa-mini": lisa_mini, "seem-mini": seem_mini}
