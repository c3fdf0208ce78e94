"""Published sizes of PixelLM: 7B and 13B (LLaVA's LLaMA, CLIP-ViT-L/14-336 run at 448 pixels)."""

from transformers import LlamaConfig

from pixellm.model.configuration import PixelLMConfig, PixelLMVisionConfig

# openai/clip-vit-large-patch14-336
CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
}


def pixellm_7b() -> PixelLMConfig:
    """LLaVA-Lightning-7B-v1-1: LLaMA-7B, `<im_patch>`, `<im_start>`, `<im_end>` at 32000–32002, then the codebook."""
    text = LlamaConfig(
        vocab_size=32009,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        pad_token_id=0,
    )
    return _pixellm(text, first_codebook_id=32003)


def pixellm_13b() -> PixelLMConfig:
    """LLaVA-LLaMA-2-13B: the codebook at 32000–32005, then `<im_start>`, `<im_end>`."""
    text = LlamaConfig(
        vocab_size=32008,
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=40,
        num_attention_heads=40,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        pad_token_id=0,
    )
    return _pixellm(text, first_codebook_id=32000)


def _pixellm(text: LlamaConfig, first_codebook_id: int) -> PixelLMConfig:
    return PixelLMConfig(
        vision_config=PixelLMVisionConfig(kind="clip", image_size=448, clip=CLIP_LARGE),
        text_config=text,
        codebook_ids=tuple(range(first_codebook_id, first_codebook_id + 6)),
    )


PRESETS = {"pixellm-7b": pixellm_7b, "pixellm-13b": pixellm_13b}
