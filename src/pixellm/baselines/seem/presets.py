"""Published sizes of X-Decoder and SEEM, as nearly as timm's FocalNets allow (their Focal-T has more convolutions), and
one for experiments.
"""

from transformers import LlamaConfig

from pixellm.baselines.seem.configuration import SeemConfig, focal_backbone
from pixellm.checkpoints.presets import pixellm_mini


def seem_focal_large() -> SeemConfig:
    """FocalNet-L (four levels), width 512, 101 queries, 9 decoder layers, CLIP-like text encoder."""
    return SeemConfig(vision_config=focal_backbone("focalnet_large_fl4"))


def seem_focal_tiny() -> SeemConfig:
    """The same with FocalNet-T."""
    return SeemConfig(vision_config=focal_backbone("focalnet_tiny_lrf"))


def seem_mini() -> SeemConfig:
    """For experiments: the encoder of pixellm-mini without its names, at 320 pixels, and few layers of a small LLM."""
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


PRESETS = {"seem-focal-large": seem_focal_large, "seem-focal-tiny": seem_focal_tiny, "seem-mini": seem_mini}
