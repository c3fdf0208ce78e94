"""pixellm-mini as shipped, and baselines over its encoder for experiments on a CPU."""

from transformers import LlamaConfig

from pixellm.baselines.seem.configuration import SeemConfig
from pixellm.mini.configuration import MiniConfig
from pixellm.mini.lisa import MiniLisaConfig
from pixellm.mini.parts import PRETRAINED


def pixellm_mini() -> MiniConfig:
    """Return the configuration of SmolLM2-135M-Instruct with EfficientNet-Lite2 and NanoDet."""
    return MiniConfig.from_pretrained(PRETRAINED)


def lisa_mini() -> MiniLisaConfig:
    """Return LISA without a SAM: SAM's mask decoder over the encoder of pixellm-mini."""
    settings = pixellm_mini().to_dict()
    for key in ("model_type", "num_scales", "tokens_per_scale", "codebook_ids", "own_state", "learned_fusion"):
        settings.pop(key)
    decoder = {
        "hidden_size": settings["decoder_dim"],
        "num_attention_heads": settings["decoder_heads"],
        "mlp_dim": settings["decoder_mlp_dim"],
        "iou_head_hidden_dim": settings["decoder_dim"],
    }
    # SAM's decoder takes neither class prompts nor detections.
    without = {"num_candidates": 0, "vision_config": settings["vision_config"] | {"detector_classes": []}}
    return MiniLisaConfig(sam_decoder_config=decoder, **(settings | without))


def seem_mini() -> SeemConfig:
    """Return a SEEM-style model: the backbone of pixellm-mini with its pyramid, and few layers of a small LLM."""
    mini = pixellm_mini()
    vision = mini.vision_config.to_dict()
    for key in ("vocabulary", "classifier_dropout", "detector_classes", "num_detections"):
        vision.pop(key)
    return SeemConfig(
        vision_config=vision | {"image_size": 320, "drop_path": 0.0},
        text_config=LlamaConfig.from_dict(mini.text_config.to_dict() | {"num_hidden_layers": 4}),
        width=128,
        ffn_dim=512,
        encoder_layers=1,
        decoder_layers=4,
        num_queries=32,
        num_points=1024,
    )


PRESETS = {"pixellm-mini": pixellm_mini, "lisa-mini": lisa_mini, "seem-mini": seem_mini}
