"""The layout of released LISA checkpoints: LLaVA's names, and SAM's own ones below `model.visual_model`."""

import re
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken, LlamaTokenizer, SamVisionConfig

from pixellm.baselines.lisa.configuration import LisaConfig
from pixellm.baselines.lisa.modeling import LisaForConditionalGeneration
from pixellm.baselines.lisa.processing import LisaImageProcessor
from pixellm.checkpoints.layout import Layout
from pixellm.checkpoints.pixellm_layout import RENAMED, clip_config, codebook_tokens, text_config
from pixellm.model.templates import IMAGE_MARKERS

_SAM = r"model\.visual_model\."
_ENCODER, _DECODER = rf"{_SAM}image_encoder\.", rf"{_SAM}mask_decoder\."
_INTO, _MASKS = "sam_encoder.", "pixel_decoder.mask_decoder."
# What PixelLM shares with LISA (language model, codebook), then SAM's original names → those of transformers.
LISA_RENAMED = [
    *(rule for rule in RENAMED if rule[0].startswith((r"model\.(embed_tokens", "lm_head", r"model\.text_hidden_fcs"))),
    (r"model\.mm_projector\.(.+)", r"llm_projector.0.\1"),
    (rf"{_ENCODER}pos_embed", rf"{_INTO}pos_embed"),
    (rf"{_ENCODER}patch_embed\.proj\.(.+)", rf"{_INTO}patch_embed.projection.\1"),
    (rf"{_ENCODER}blocks\.(\d+)\.norm(\d)\.(.+)", rf"{_INTO}layers.\1.layer_norm\2.\3"),
    (rf"{_ENCODER}blocks\.(.+)", rf"{_INTO}layers.\1"),
    (rf"{_ENCODER}neck\.0\.(.+)", rf"{_INTO}neck.conv1.\1"),
    (rf"{_ENCODER}neck\.1\.(.+)", rf"{_INTO}neck.layer_norm1.\1"),
    (rf"{_ENCODER}neck\.2\.(.+)", rf"{_INTO}neck.conv2.\1"),
    (rf"{_ENCODER}neck\.3\.(.+)", rf"{_INTO}neck.layer_norm2.\1"),
    (rf"{_SAM}prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix", "pixel_decoder.frequencies"),
    (rf"{_SAM}prompt_encoder\.no_mask_embed\.weight", "pixel_decoder.no_mask_embed"),
    (rf"{_DECODER}transformer\.(.+)\.norm(\d)\.(.+)", rf"{_MASKS}transformer.\1.layer_norm\2.\3"),
    (rf"{_DECODER}transformer\.norm_final_attn\.(.+)", rf"{_MASKS}transformer.layer_norm_final_attn.\1"),
    (rf"{_DECODER}(transformer\..+|iou_token\..+|mask_tokens\..+)", rf"{_MASKS}\1"),
    (rf"{_DECODER}output_upscaling\.0\.(.+)", rf"{_MASKS}upscale_conv1.\1"),
    (rf"{_DECODER}output_upscaling\.1\.(.+)", rf"{_MASKS}upscale_layer_norm.\1"),
    (rf"{_DECODER}output_upscaling\.3\.(.+)", rf"{_MASKS}upscale_conv2.\1"),
    (rf"{_DECODER}(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.0\.(.+)", rf"{_MASKS}\1.proj_in.\2"),
    (rf"{_DECODER}(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.1\.(.+)", rf"{_MASKS}\1.layers.0.\2"),
    (rf"{_DECODER}(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.2\.(.+)", rf"{_MASKS}\1.proj_out.\2"),
]
# Of SAM's prompt encoder what reads points, boxes and masks: a prompt of LISA is none of these.
LISA_DROPPED = re.compile(
    r".*rotary_emb\.inv_freq|model\.vision_tower\..+|"
    rf"{_SAM}prompt_encoder\.(point_embeddings|not_a_point_embed|mask_downscaling)\..+"
)
# Those whose shapes tell the sizes of SAM's image encoder.
_SIZES = [
    f"model.visual_model.image_encoder.{name}.weight" for name in ("patch_embed.proj", "blocks.0.mlp.lin1", "neck.0")
]
CLIP_SIZE, SAM_SIZE = 224, 1024  # pixels; the released code has no others


def _config(
    settings: dict[str, Any], clip: dict[str, Any], tokenizer: LlamaTokenizer, state: dict[str, Tensor]
) -> LisaConfig:
    tokens = codebook_tokens(tokenizer)
    if len(tokens) != 1:
        raise ValueError(f"expected one [SEG] in the tokenizer of a LISA checkpoint, got {tokens}.")
    vision = clip_config(clip, CLIP_SIZE, (settings.get("mm_vision_select_layer", -2),))
    grid = CLIP_SIZE // vision.clip_config.patch_size
    decoder = "model.visual_model.mask_decoder."
    needed = [f"{decoder}{name}.weight" for name in ("mask_tokens", "iou_prediction_head.layers.0")]
    needed += [f"{decoder}transformer.layers.0.mlp.lin1.weight", "model.embed_tokens.weight", *_SIZES]
    if missing := [key for key in needed if key not in state]:
        raise ValueError(
            f"expected the weights of LISA's SAM and language model, {missing[0]} is not there. Is it whole?"
        )
    return LisaConfig(
        sam_vision_config=_sam_vision(state),
        sam_decoder_config={
            "hidden_size": settings.get("out_dim", 256),
            "num_hidden_layers": _depth(state, f"{decoder}transformer.layers."),
            "mlp_dim": len(state[f"{decoder}transformer.layers.0.mlp.lin1.weight"]),
            "num_multimask_outputs": len(state[f"{decoder}mask_tokens.weight"]) - 1,
            "iou_head_hidden_dim": len(state[f"{decoder}iou_prediction_head.layers.0.weight"]),
        },
        vision_config=vision,
        text_config=text_config(settings, state),
        codebook_ids=tokenizer.convert_tokens_to_ids(tokens),
        llm_grid=grid,
        dtype=str(state["model.embed_tokens.weight"].dtype).removeprefix("torch."),
    )


def _extend(tokenizer: LlamaTokenizer, rows: int) -> None:
    """[SEG] is the last row, behind LLaVA's markers and whatever else there is; or it stands before the two markers.

    The first is the order of LISA-7B, whose base model has the markers; the second that of LISA-13B.
    """
    missing = rows - len(tokenizer)
    added = tokenizer.get_added_vocab()
    if missing == 1 + len(IMAGE_MARKERS) and not {"<im_patch>", *IMAGE_MARKERS} & added.keys():
        new = ["[SEG]", *IMAGE_MARKERS]
    else:
        new = [token for token in ("<im_patch>", *IMAGE_MARKERS) if token not in added][: missing - 1]
        new += [f"<unused{number}>" for number in range(missing - 1 - len(new))] + ["[SEG]"]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in new])


def _sam_vision(state: dict[str, Tensor]) -> SamVisionConfig:
    """Sizes of SAM's image encoder, of which config.json says nothing: read off the weights."""
    encoder = "model.visual_model.image_encoder."
    patches, mlp, neck = (state[key] for key in _SIZES)
    width, patch = patches.shape[0], patches.shape[-1]
    depth = _depth(state, f"{encoder}blocks.")
    # Tables of relative positions hold 2 · side - 1 rows, of the heads' width.
    tables = [state[f"{encoder}blocks.{layer}.attn.rel_pos_h"] for layer in range(depth)]
    sides = [(len(table) + 1) // 2 for table in tables]
    return SamVisionConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // tables[0].shape[1],
        mlp_dim=len(mlp),
        output_channels=len(neck),
        image_size=SAM_SIZE,
        patch_size=patch,
        window_size=min(sides),
        global_attn_indexes=[layer for layer, side in enumerate(sides) if side == SAM_SIZE // patch],
    )


def _depth(state: dict[str, Tensor], start: str) -> int:
    return len({key.removeprefix(start).split(".")[0] for key in state if key.startswith(start)})


def _image_processor(config: LisaConfig) -> LisaImageProcessor:
    return LisaImageProcessor(config.sam_vision_config.image_size, config.vision_config.image_size)


def _constants(config: LisaConfig) -> dict[str, Tensor]:
    """The weight of the only token."""
    return {"codebook.token_weights": torch.ones(1, 1)}


LISA = Layout(
    "LISA",
    "model.visual_model.",
    _extend,
    LISA_RENAMED,
    LISA_DROPPED,
    _config,
    _image_processor,
    _constants,
    LisaForConditionalGeneration,
)
