"""Published sizes of the baselines: LISA, and SEEM as nearly as timm's FocalNets allow (their Focal-T has more
convolutions).
"""

from transformers import SamVisionConfig

from pixellm.baselines.lisa import LisaConfig
from pixellm.baselines.seem.configuration import SeemConfig, focal_backbone
from pixellm.checkpoints.presets import CLIP_LARGE, pixellm_7b, pixellm_13b
from pixellm.model import PixelLMConfig, PixelLMVisionConfig

# facebook/sam-vit-huge
SAM_HUGE = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "global_attn_indexes": [7, 15, 23, 31],
    "mlp_dim": 5120,
}


def lisa_7b() -> LisaConfig:
    """LISA-7B-v1: [SEG] is 32003, behind `<im_patch>`, `<im_start>`, `<im_end>`."""
    return _lisa(pixellm_7b(), vocab_size=32004, seg_id=32003)


def lisa_13b() -> LisaConfig:
    """LISA-13B-llama2-v1: [SEG] is 32000, `<im_start>` and `<im_end>` come after it."""
    return _lisa(pixellm_13b(), vocab_size=32003, seg_id=32000)


def _lisa(pixellm: PixelLMConfig, vocab_size: int, seg_id: int) -> LisaConfig:
    text = pixellm.text_config
    text.vocab_size = vocab_size
    return LisaConfig(
        sam_vision_config=SamVisionConfig(**SAM_HUGE),
        vision_config=PixelLMVisionConfig(kind="clip", image_size=224, clip=CLIP_LARGE, hidden_layers=(-2,)),
        text_config=text,
        codebook_ids=(seg_id,),
    )


def seem_focal_large() -> SeemConfig:
    """FocalNet-L (four levels), width 512, 101 queries, 9 decoder layers, CLIP-like text encoder."""
    return SeemConfig(vision_config=focal_backbone("focalnet_large_fl4"))


def seem_focal_tiny() -> SeemConfig:
    """The same with FocalNet-T."""
    return SeemConfig(vision_config=focal_backbone("focalnet_tiny_lrf"))


PRESETS = {
    "lisa-7b": lisa_7b,
    "lisa-13b": lisa_13b,
    "seem-focal-large": seem_focal_large,
    "seem-focal-tiny": seem_focal_tiny,
}
