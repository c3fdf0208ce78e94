"""Known sizes of PixelLM and of the baselines."""

from transformers import SamVisionConfig

from pixellm.baselines.lisa import LisaConfig
from pixellm.baselines.seem.presets import PRESETS as SEEM_PRESETS
from pixellm.checkpoints.presets import CLIP_LARGE, pixellm_7b, pixellm_13b, pixellm_mini
from pixellm.checkpoints.presets import PRESETS as PIXELLM_PRESETS
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


def lisa_mini() -> LisaConfig:
    """For experiments without a SAM: its mask decoder over the encoder of pixellm-mini."""
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


LISA_PRESETS = {"lisa-7b": lisa_7b, "lisa-13b": lisa_13b, "lisa-mini": lisa_mini}
PRESETS = PIXELLM_PRESETS | LISA_PRESETS | SEEM_PRESETS
