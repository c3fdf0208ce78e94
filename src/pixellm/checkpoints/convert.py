"""Released checkpoints → ours: names, tokenizer, settings, and the constants that were never stored.

Reads `pytorch_model*.bin` or safetensors of the released layout, or the single file that DeepSpeed's merge writes (LoRA
not yet merged). Pickles are opened with `weights_only=True`; no model is built, so memory stays at the mapped files.
"""

import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AddedToken, LlamaConfig, LlamaTokenizer

from pixellm.checkpoints.conversion_report import Report, describe_faults
from pixellm.checkpoints.lora import merge_lora
from pixellm.model.codebook import fusion_weight
from pixellm.model.configuration import PixelLMConfig, PixelLMVisionConfig
from pixellm.model.modeling import PixelLMForConditionalGeneration
from pixellm.model.processing import PixelLMImageProcessor, PixelLMProcessor, add_codebook_tokens
from pixellm.model.templates import IMAGE_MARKERS, VICUNA
from pixellm.utils.files import atomic_directory, expect_empty
from pixellm.utils.weights import read_json, read_weights, save_state

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
RELEASED_LORA_ALPHA = 16


@dataclass(frozen=True)
class Layout:
    """How a kind of checkpoint is laid out, and what it becomes.

    Args:
        name: of its model, for messages.
        mark: what names of weights begin with in no other layout.
        extend: adds to a base model's tokenizer, where a checkpoint came without its own, the tokens that the rows
            (their number) of the embedding table are for.
        renamed: released name → ours; the first pattern that matches wins.
        dropped: what is stored but never read.
        config: settings of the checkpoint and of CLIP, tokenizer and state → our configuration.
        image_processor: of that configuration.
        constants: our keys that are no weights of the released model, and their values.
        model: what is built from the configuration.
    """

    name: str
    mark: str
    extend: Callable[[LlamaTokenizer, int], None]
    renamed: list[tuple[str, str]]
    dropped: re.Pattern
    config: "Callable[[dict[str, Any], dict[str, Any], LlamaTokenizer, dict[str, Tensor]], PixelLMConfig]"
    image_processor: Callable[[PixelLMConfig], PixelLMImageProcessor]
    constants: Callable[[PixelLMConfig], dict[str, Tensor]]
    model: type[PixelLMForConditionalGeneration]


def convert(released: Path, out: Path, vision: Path, layouts: Sequence[Layout] = ()) -> Report:
    """Convert a released checkpoint.

    Args:
        released: directory with `config.json`, tokenizer and weights in the released layout.
        out: directory to write; must not exist or be empty. It appears complete or not at all.
        vision: directory of the CLIP vision encoder in Hugging Face format.
        layouts: those that it may have, besides PixelLM's.

    Raises:
        ValueError: an unreadable source, or keys that are missing or of the wrong shape. Unknown ones are reported.
    """
    expect_empty(out)
    settings = read_json(released / "config.json")
    state = _strip_peft(read_weights(released))
    layout = next((one for one in layouts if any(key.startswith(one.mark) for key in state)), PIXELLM)
    tokenizer = _tokenizer(released, state, layout)
    clip_settings = read_json(vision / "config.json")
    config = layout.config(settings, clip_settings, tokenizer, state)
    report = Report()
    expected = _expected_shapes(layout.model, config)
    renamed = _rename(state, layout, expected, report)
    constants = layout.constants(config)
    report.constants = list(constants)
    ours = renamed | clip_weights(read_weights(vision), config, expected, report) | constants
    _compare(config, expected, ours, report)
    if report.missing or report.mismatched:
        raise ValueError(f"{released}: {describe_faults(report, layout.name)}")
    with atomic_directory(out) as directory:
        config.architectures = [layout.model.__name__]
        config.save_pretrained(directory)
        _processor(config, tokenizer, layout.image_processor(config)).save_pretrained(directory)
        save_state(ours, directory)
    return report


def check(out: Path, layouts: Sequence[Layout] = ()) -> Report:
    """Re-open a converted directory and compare its keys with the model that its config describes."""
    kind = read_json(out / "config.json").get("model_type")
    model = next((one for one in layouts if one.model.config_class.model_type == kind), PIXELLM).model
    report = Report()
    state = read_weights(out)
    config = model.config_class.from_pretrained(out)
    _compare(config, _expected_shapes(model, config), state, report)
    report.used = {key: key for key in state if key not in report.unknown and key not in report.mismatched}
    PixelLMProcessor.from_pretrained(out)
    return report


def _tokenizer(released: Path, state: dict[str, Tensor], layout: Layout) -> LlamaTokenizer:
    if not (released / "tokenizer.model").exists():
        raise ValueError(f"expected a tokenizer.model in {released}, found none. Is this the checkpoint's directory?")
    tokenizer = LlamaTokenizer.from_pretrained(released)
    rows = len(state.get("model.embed_tokens.weight", ()))
    if not _codebook_of(tokenizer) and rows > len(tokenizer):
        layout.extend(tokenizer, rows)  # training saves weights alone; beside them lies the base model's tokenizer
    return tokenizer


def _extend(tokenizer: LlamaTokenizer, rows: int) -> None:
    """The codebook, then the image markers where the base model lacks them."""
    markers = [token for token in IMAGE_MARKERS if token not in tokenizer.get_added_vocab()]
    add_codebook_tokens(tokenizer, rows - len(tokenizer) - len(markers))
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in markers])


def _codebook_of(tokenizer: LlamaTokenizer) -> list[str]:
    added = tokenizer.get_added_vocab()
    return sorted((t for t in added if re.fullmatch(r"\[SEG\d*\]", t)), key=added.__getitem__)


def codebook_tokens(tokenizer: LlamaTokenizer) -> list[str]:
    tokens = _codebook_of(tokenizer)
    if not tokens:
        raise ValueError(
            "expected codebook tokens [SEG0], [SEG1], … in the tokenizer, or more rows of embed_tokens than it has "
            f"tokens ({len(tokenizer)}), got neither. Give the tokenizer that the checkpoint was trained with."
        )
    return tokens


def text_config(settings: dict[str, Any], state: dict[str, Tensor]) -> LlamaConfig:
    text_keys = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_act",
        "max_position_embeddings",
        "initializer_range",
        "rms_norm_eps",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "tie_word_embeddings",
        "rope_theta",
        "rope_scaling",
    ]
    text = LlamaConfig(**{key: settings[key] for key in text_keys if settings.get(key) is not None})
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
    depth = {
        int(m.group(1))
        for m in (re.match(r"model\.mask_decoder\.transformer\.0\.layers\.(\d+)\.", k) for k in state)
        if m
    }
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
        overlap_weight=1.0,  # the released code has its refinement loss commented out (docs/parity.md)
        compat="released",
        dtype=str(state.get("model.embed_tokens.weight", mask_tokens).dtype).removeprefix("torch."),
    )


def clip_config(clip: dict[str, Any], image_size: int, layers: tuple[int, ...]) -> PixelLMVisionConfig:
    """A CLIP of the settings in `clip` (of the whole model, or of its vision encoder), to be run at `image_size`."""
    settings = clip.get("vision_config", clip)
    keys = "hidden_size intermediate_size num_hidden_layers num_attention_heads patch_size hidden_act layer_norm_eps"
    sizes = {key: settings[key] for key in keys.split() if key in settings}
    return PixelLMVisionConfig(kind="clip", image_size=image_size, clip=sizes, hidden_layers=layers)


def _processor(
    config: PixelLMConfig, tokenizer: LlamaTokenizer, image_processor: PixelLMImageProcessor
) -> PixelLMProcessor:
    more = [token for token in ("<im_patch>",) if token in tokenizer.get_added_vocab()]
    return PixelLMProcessor(
        image_processor,
        tokenizer,
        codebook_tokens=codebook_tokens(tokenizer),
        num_image_tokens=config.num_image_tokens,
        **{**VICUNA, "control_tokens": [*VICUNA["control_tokens"], *more]},
    )


def _strip_peft(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo peft's wrapping of a merged DeepSpeed file, LoRA merged."""
    stripped = {re.sub(r"^(base_model\.model\.)?", "", key).replace(".base_layer.", "."): v for key, v in state.items()}
    stripped = {
        re.sub(r"\.modules_to_save\.default\.", ".", k): v for k, v in stripped.items() if ".original_module." not in k
    }
    return merge_lora(stripped, RELEASED_LORA_ALPHA)


def _image_processor(config: PixelLMConfig) -> PixelLMImageProcessor:
    # ImageNet statistics, not CLIP's: the released weights were trained with them (docs/parity.md#normalisation).
    return PixelLMImageProcessor(image_size=config.vision_config.image_size)


def _rename(state: dict[str, Tensor], layout: Layout, expected: Container[str], report: Report) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = next((m.expand(new) for old, new in layout.renamed if (m := re.fullmatch(old, key))), None)
        if layout.dropped.fullmatch(key) or (name is not None and name not in expected):
            report.dropped.append(key)
        elif name is None:
            report.unknown.append(key)
        else:
            report.used[key] = name
            ours[name] = tensor
    return ours


def clip_weights(
    state: dict[str, Tensor], config: PixelLMConfig, expected: Container[str], report: Report
) -> dict[str, Tensor]:
    """The weights of a CLIP vision encoder under those of our names that are `expected`, its position table resized."""
    ours: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = "vision_encoder.clip." + key.removeprefix("vision_model.")
        if name not in expected:
            report.dropped.append(key)
            continue
        if name.endswith("position_embedding.weight"):
            side = config.vision_config.image_size // config.vision_config.clip_config.patch_size
            tensor = resize_positions(tensor, side, getattr(config, "shifted_positions", False))
        report.used[key] = name
        ours[name] = tensor
    return ours


def resize_positions(table: Tensor, side: int, shifted: bool) -> Tensor:
    """Resize CLIP's position table (1 + n², D), class token first, to a side × side grid.

    With `shifted` the last row is taken for the class token, as the released code does (docs/parity.md#positions);
    otherwise patches are interpolated bicubically, as transformers does.
    """
    kept, patches = (table[-1:], table[:-1]) if shifted else (table[:1], table[1:])
    old = int(len(patches) ** 0.5)
    if not shifted and old == side:
        return table
    mode = "bilinear" if shifted else "bicubic"
    square = patches.float().T.reshape(1, -1, old, old)
    resized = F.interpolate(square, (side, side), mode=mode, align_corners=False).flatten(2)[0].T
    return torch.cat([resized, kept.float()] if shifted else [kept.float(), resized])


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


def _expected_shapes(model: type[PixelLMForConditionalGeneration], config: PixelLMConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        built = model(config)
    return {key: tuple(tensor.shape) for key, tensor in built.state_dict().items()}


def _compare(
    config: PixelLMConfig, expected: dict[str, tuple[int, ...]], state: dict[str, Tensor], report: Report
) -> None:
    tied = {"language_model.lm_head.weight"} if config.text_config.tie_word_embeddings else set()
    report.missing = [key for key in expected if key not in state and key not in tied]
    report.unknown += [key for key in state if key not in expected]
    report.mismatched = {
        key: (expected[key], tuple(tensor.shape))
        for key, tensor in state.items()
        if key in expected and expected[key] != tuple(tensor.shape)
    }
