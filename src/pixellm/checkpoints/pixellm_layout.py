"""Layout of released PixelLM checkpoints: names, tokenizer, settings, and the constants that were never stored."""

import re
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken, LlamaConfig, LlamaTokenizer

from pixellm.checkpoints.layout import Layout
from pixellm.model.codebook import fusion_weight
from pixellm.model.configuration import PixelLMConfig, PixelLMVisionConfig
from pixellm.model.modeling import PixelLMForConditionalGeneration
from pixellm.model.processing import PixelLMImageProcessor, add_codebook_tokens
from pixellm.model.templates import IMAGE_MARKERS

# Released name → ours; the first pattern that matches wins.
RENAMED = [
    (r"model\.(embed_tokens|layers|norm)\.(.+)", r"language_model.model.\1.\2"),
    (r"lm_head\.weight", r"language_model.lm_head.weight"),
    (r"model\.mm_projector\.(.+)", r"llm_projector.\1"),
    (r"model\.out_mm_projector\.(.+)", r"pixel_projector.\1"),
    (r"model\.image_feature_neck\.(.+)", r"neck.\1"),
    (r"model\.text_hidden_fcs\.0\.(.+)", r"codebook.project.\1"),
    (r"model\.prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix", "pixel_decoder.coarse_frequencies"),
    (r"model\.prompt_encoder\.no_mask_embed\.weight", "pixel_decoder.no_mask_embed"),
    (r"model\.mask_decoder\.pe1\.positional_encoding_gaussian_matrix", "pixel_decoder.fine_frequencies"),
    (r"model\.mask_decoder\.(iou_token|mask_tokens|level_embed)\.weight", r"pixel_decoder.\1"),
    (r"model\.mask_decoder\.transformer\.(\d+)\.(.+)\.mlp\.lin1\.(.+)", r"pixel_decoder.transformers.\1.\2.mlp.0.\3"),
    (r"model\.mask_decoder\.transformer\.(\d+)\.(.+)\.mlp\.lin2\.(.+)", r"pixel_decoder.transformers.\1.\2.mlp.2.\3"),
    (r"model\.mask_decoder\.transformer\.(\d+)\.(.+)", r"pixel_decoder.transformers.\1.\2"),
    (r"model\.mask_decoder\.output_upscaling\.(.+)", r"pixel_decoder.upscale.\1"),
    (r"model\.mask_decoder\.upsample_2x\.(.+)", r"pixel_decoder.enlarge.\1"),
    (r"model\.mask_decoder\.output_hypernetworks_mlps\.(\d+)\.layers\.0\.(.+)", r"pixel_decoder.hypernetworks.\1.0.\2"),
    (r"model\.mask_decoder\.output_hypernetworks_mlps\.(\d+)\.layers\.1\.(.+)", r"pixel_decoder.hypernetworks.\1.2.\2"),
    (r"model\.mask_decoder\.output_hypernetworks_mlps\.(\d+)\.layers\.2\.(.+)", r"pixel_decoder.hypernetworks.\1.4.\2"),
    (r"model\.mask_decoder\.iou_prediction_head\.layers\.0\.(.+)", r"pixel_decoder.iou_head.0.\1"),
    (r"model\.mask_decoder\.iou_prediction_head\.layers\.1\.(.+)", r"pixel_decoder.iou_head.2.\1"),
    (r"model\.mask_decoder\.iou_prediction_head\.layers\.2\.(.+)", r"pixel_decoder.iou_head.4.\1"),
]
# Stored but never read by the released model; CLIP comes from its own directory.
DROPPED = re.compile(
    r".*rotary_emb\.inv_freq|model\.vision_tower\..+|"
    r"model\.prompt_encoder\.(point_embeddings|not_a_point_embed|mask_downscaling)\..+"
)
# The released loader's constants (docs/parity.md).
RELEASED_LLM_GRID = 16
RELEASED_LAYERS = (-2, -11)
SHARED_SETTINGS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
TEXT_SETTINGS = (
    *SHARED_SETTINGS,
    *("vocab_size", "num_key_value_heads", "max_position_embeddings", "initializer_range", "rms_norm_eps"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "rope_theta", "rope_scaling"),
)
VISION_SETTINGS = (*SHARED_SETTINGS, "patch_size", "layer_norm_eps")


def _extend(tokenizer: LlamaTokenizer, rows: int) -> None:
    """Add the codebook, then the image markers where the base model lacks them."""
    markers = [token for token in IMAGE_MARKERS if token not in tokenizer.get_added_vocab()]
    add_codebook_tokens(tokenizer, rows - len(tokenizer) - len(markers))
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in markers])


def codebook_of(tokenizer: LlamaTokenizer) -> list[str]:
    added = tokenizer.get_added_vocab()
    return sorted((t for t in added if re.fullmatch(r"\[SEG\d*\]", t)), key=added.__getitem__)


def codebook_tokens(tokenizer: LlamaTokenizer) -> list[str]:
    tokens = codebook_of(tokenizer)
    if not tokens:
        raise ValueError(
            "expected codebook tokens [SEG0], [SEG1], … in the tokenizer, or more rows of embed_tokens than it has "
            f"tokens ({len(tokenizer)}), got neither. Give the tokenizer that the checkpoint was trained with."
        )
    return tokens


def text_config(settings: dict[str, Any], state: dict[str, Tensor]) -> LlamaConfig:
    text = LlamaConfig(**{key: settings[key] for key in TEXT_SETTINGS if settings.get(key) is not None})
    embeddings = state.get("model.embed_tokens.weight")
    if embeddings is not None:
        # Released merges left the size before the codebook was added in config.json.
        text.vocab_size = len(embeddings)
    return text


def _config(
    settings: dict[str, Any], clip: dict[str, Any], tokenizer: LlamaTokenizer, state: dict[str, Tensor]
) -> PixelLMConfig:
    tokens = codebook_tokens(tokenizer)
    scales = settings.get("image_feature_scale_num", len(RELEASED_LAYERS))
    if not 1 <= scales <= len(RELEASED_LAYERS):
        raise ValueError(
            f"image_feature_scale_num: expected 1 to {len(RELEASED_LAYERS)}, the feature levels that the released code "
            f"has, got {scales}. What wrote this checkpoint?"
        )
    if len(tokens) % scales:
        raise ValueError(f"expected a multiple of {scales} codebook tokens (one part for each scale), got {tokens}.")
    text = text_config(settings, state)
    layers = (settings.get("mm_vision_select_layer", -2), *RELEASED_LAYERS[1:])[:scales]
    vision = clip_config(clip, settings.get("resize_vision_tower_size", 448), layers)
    mask_tokens = state.get("model.mask_decoder.mask_tokens.weight")
    lin1 = state.get("model.mask_decoder.transformer.0.layers.0.mlp.lin1.weight")
    if mask_tokens is None or lin1 is None:
        raise ValueError("expected the weights of PixelLM's mask decoder, found none. Is this a PixelLM checkpoint?")
    layer = re.compile(r"model\.mask_decoder\.transformer\.0\.layers\.(\d+)\.")
    depth = {match[1] for key in state if (match := layer.match(key))}
    return PixelLMConfig(
        vision_config=vision,
        text_config=text,
        num_scales=scales,
        tokens_per_scale=len(tokens) // scales,
        codebook_ids=tokenizer.convert_tokens_to_ids(tokens),
        llm_grid=RELEASED_LLM_GRID,
        projector_ratio=settings.get("mm_projector_hidden_dim", 2),
        decoder_dim=settings.get("out_dim", 256),
        decoder_depth=len(depth),
        decoder_mlp_dim=lin1.shape[0],
        num_mask_tokens=mask_tokens.shape[0],
        compat="released",
        dtype=str(state.get("model.embed_tokens.weight", mask_tokens).dtype).removeprefix("torch."),
    )


def clip_config(clip: dict[str, Any], image_size: int, layers: tuple[int, ...]) -> PixelLMVisionConfig:
    """Return a vision encoder with the settings of a CLIP model, or of its vision part, to be run at `image_size`."""
    settings = clip.get("vision_config", clip)
    sizes = {key: settings[key] for key in VISION_SETTINGS if key in settings}
    return PixelLMVisionConfig(kind="clip", image_size=image_size, clip=sizes, hidden_layers=layers)


def _image_processor(config: PixelLMConfig) -> PixelLMImageProcessor:
    # ImageNet statistics, not CLIP's: the released weights were trained with them (docs/parity.md#normalisation).
    return PixelLMImageProcessor(image_size=config.vision_config.image_size)


def _constants(config: PixelLMConfig) -> dict[str, Tensor]:
    """Fusion weights, which the released model holds as constants and never stored (docs/parity.md#fusion)."""
    scales = config.num_scales
    return {
        "codebook.token_weights": torch.full((scales, config.tokens_per_scale), fusion_weight(config)),
        "pixel_decoder.scale_weights": torch.full((scales,), 1 / scales),
    }


PIXELLM = Layout(
    "PixelLM",
    "model.mask_decoder.",
    _extend,
    RENAMED,
    DROPPED,
    _config,
    _image_processor,
    _constants,
    PixelLMForConditionalGeneration,
)
