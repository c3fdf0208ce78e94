"""Published sizes of X-Decoder and SEEM, as nearly as timm's FocalNets allow: their Focal-T has more convolutions."""

from pixellm.baselines.seem.configuration import SeemConfig, focal_backbone


def seem_focal_large() -> SeemConfig:
    """FocalNet-L (four levels), width 512, 101 queries, 9 decoder layers, CLIP-like text encoder."""
    return SeemConfig(vision_config=focal_backbone("focalnet_large_fl4"))


def seem_focal_tiny() -> SeemConfig:
    """The same with FocalNet-T."""
    return SeemConfig(vision_config=focal_backbone("focalnet_tiny_lrf"))


PRESETS = {"seem-focal-large": seem_focal_large, "seem-focal-tiny": seem_focal_tiny}
