"""FLOPs by formulas from the configuration, to check counts against.

Written from the architectures, independently of the code that runs. A multiply-add counts two FLOPs. The SEEM-style
model has formulas for all but its backbone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import CLIPVisionConfig, PreTrainedConfig, SamVisionConfig
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig

from pixellm.baselines.seem import SeemConfig
from pixellm.mini.candidates import PLACE_FEATURES
from pixellm.mini.configuration import MiniConfig
from pixellm.mini.mask_head import CLASS_WIDTH, SIDE
from pixellm.mini.nanodet import FINE_WIDTH, STRIDES, WIDTH
from pixellm.model import PixelLMConfig


@dataclass(frozen=True)
class ClosedForm:
    """FLOPs of each part, as in `pixellm.cost.language`; None if there is no such part or formula (CNN backbones)."""

    vision: int | None
    sam: int | None
    llm_projector: int
    decoder_features: int
    per_token: int
    per_pair: int
    head: int
    masks_per_call: int
    masks_per_target: int


def closed_form(config: PixelLMConfig) -> ClosedForm:
    text, sam = config.text_config, getattr(config, "sam_vision_config", None)
    vision = None
    if config.vision_config.kind == "clip":
        clip_config = config.vision_config.clip_config
        depth = max(layer % (clip_config.num_hidden_layers + 1) for layer in config.vision_config.hidden_layers)
        vision = clip(clip_config, depth)
    per_token, per_pair = language_layers(text)
    per_call, per_target = masks(config)
    return ClosedForm(
        vision=vision,
        sam=None if sam is None else sam_encoder(sam),
        llm_projector=candidates(config) or _projector(config, config.num_image_tokens, text.hidden_size),
        decoder_features=0 if sam is not None else decoder_features(config),
        per_token=per_token,
        per_pair=per_pair,
        head=linear(1, text.hidden_size, text.vocab_size),
        masks_per_call=per_call,
        masks_per_target=per_target,
    )


def linear(tokens: int, inputs: int, outputs: int) -> int:
    return 2 * tokens * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    """Scores and weighted sum over all heads, whose widths sum to `width`."""
    return 4 * queries * keys * width


def convolution(positions: int, kernel: int, inputs: int, outputs: int) -> int:
    """Positions are those of the output; of a transposed convolution whose stride is its kernel, of the input."""
    return 2 * positions * kernel**2 * inputs * outputs


def clip(config: CLIPVisionConfig, depth: int) -> int:
    """CLIP-ViT up to its layer `depth`."""
    width, patches = config.hidden_size, (config.image_size // config.patch_size) ** 2
    tokens = patches + 1
    layer = 4 * linear(tokens, width, width) + attention(tokens, tokens, width)
    layer += 2 * linear(tokens, width, config.intermediate_size)
    return convolution(patches, config.patch_size, 3, width) + depth * layer


def sam_encoder(config: SamVisionConfig) -> int:
    """SAM's ViT: windows over a padded grid, all positions in a few layers, decomposed relative positions in each."""
    width, grid = config.hidden_size, config.image_size // config.patch_size
    window = config.window_size
    padded = -(-grid // window) * window
    total = convolution(grid**2, config.patch_size, config.num_channels, width)
    for layer in range(config.num_hidden_layers):
        everywhere = layer in config.global_attn_indexes
        side, positions = (grid, grid**2) if everywhere else (window, padded**2)
        total += 4 * linear(positions, width, width) + attention(positions, side**2, width)
        total += 2 * 2 * positions * side * width if config.use_rel_pos else 0
        total += 2 * linear(grid**2, width, config.mlp_dim)
    channels = config.output_channels
    return total + convolution(grid**2, 1, width, channels) + convolution(grid**2, 3, channels, channels)


def language_layers(config: PreTrainedConfig) -> tuple[int, int]:
    """LLaMA's layers: FLOPs for each token, and for each pair of a token and one that it attends to."""
    width, heads = config.hidden_size, config.num_attention_heads
    of_head = getattr(config, "head_dim", None) or width // heads
    queries, keys = heads * of_head, config.num_key_value_heads * of_head
    layer = linear(1, width, 2 * queries) + linear(1, width, 2 * keys) + 3 * linear(1, width, config.intermediate_size)
    return config.num_hidden_layers * layer, config.num_hidden_layers * attention(1, 1, queries)


def decoder_features(config: PixelLMConfig) -> int:
    """Projector, neck and enlargement of each scale, and names mixed in (which the LLM's tokens get, too)."""
    dim, width = config.decoder_dim, config.pixel_feature_size or config.text_config.hidden_size
    grids = config.vision_config.grid_sizes[-config.num_scales :]
    total = 0
    for scale, grid in enumerate(grids):
        total += _projector(config, grid**2, width)
        total += convolution(grid**2, 1, width, dim) + convolution(grid**2, 3, dim, dim)
        if scale and len(set(config.vision_config.grid_sizes)) == 1:
            total += convolution(grid**2, 2, dim, dim)
    if isinstance(config, MiniConfig) and (names := len(config.vision_config.vocabulary)):
        words = config.text_config.hidden_size
        total += sum(linear(names, words, dim) + linear(grid**2, names, dim) for grid in grids)
    if isinstance(config, MiniConfig) and config.vision_config.detector_classes:
        vision = config.vision_config
        maps = [(vision.image_size // stride, FINE_WIDTH if stride == 4 else WIDTH) for stride in (4, *STRIDES)]
        maps += [(grid, vision.hidden_size) for grid in vision.grid_sizes]
        total += sum(linear(side**2, channels, config.mask_width) for side, channels in maps)
    return total


def _projector(config: PixelLMConfig, tokens: int, width: int) -> int:
    inputs, hidden = config.vision_config.hidden_size, int(config.projector_ratio * width)
    if not hidden:
        return linear(tokens, inputs, width)
    return linear(tokens, inputs, hidden) + linear(tokens, hidden, width)


def masks(config: PixelLMConfig) -> tuple[int, int]:
    """Codebook and mask decoder: FLOPs for each call, and for each target."""
    width, dim, group = config.text_config.hidden_size, config.decoder_dim, len(config.codebook_ids)
    per_target = linear(group, width, width) + linear(group, width, dim) + linear(1, group, dim)
    decoder = getattr(config, "sam_decoder_config", None)
    if decoder is not None:
        grid = config.decoder_grids[0]
        return linear(grid**2, 2, dim // 2), per_target + sam_mask_decoder(decoder, grid)
    per_call = sum(linear(grid**2, 2, dim // 2) for grid in config.decoder_grids)
    if isinstance(config, MiniConfig) and config.num_candidates:
        names = len(config.vision_config.vocabulary)
        prompts = config.num_scales * dim
        per_call += linear(names, width, prompts)
        per_target += linear(group, width, width) + linear(config.num_candidates, width, width)
        per_target += linear(config.num_candidates, 1, width) + linear(1, names, prompts)
        per_target += linear(1, names, config.vision_config.grid_sizes[-1] ** 2)
        if config.vision_config.detector_classes:
            per_target += instance_mask(config)
    return per_call, per_target + pixel_decoder(config)


def candidates(config: PixelLMConfig) -> int:
    """Places and scores of the candidates that a language model reads in place of a grid."""
    width, count = config.text_config.hidden_size, getattr(config, "num_candidates", 0)
    return linear(count, PLACE_FEATURES, width) + linear(count, width, width) + linear(count, 2, width)


def instance_mask(config: MiniConfig) -> int:
    """The mask of one detection: three convolutions, one that doubles the side, and the last."""
    width, cells = config.mask_width, SIDE**2
    inputs = width + CLASS_WIDTH + 6
    return (
        convolution(cells, 3, inputs, width)
        + 2 * convolution(cells, 3, width, width)
        + convolution(cells, 2, width, width // 2)
        + linear(4 * cells, width // 2, 1)
    )


def pixel_decoder(config: PixelLMConfig) -> int:
    """One target at all scales."""
    dim, upscaled = config.decoder_dim, config.decoder_dim // 8
    tokens = 1 + config.num_mask_tokens + 1
    total = linear((2 * config.decoder_grids[-1]) ** 2, config.num_scales, 1)
    for grid in config.decoder_grids:
        total += folded_two_way(
            tokens, grid**2, dim, config.decoder_heads, config.decoder_mlp_dim, config.decoder_depth
        )
        total += convolution(grid**2, 2, dim, upscaled)
        total += 2 * linear(1, dim, dim) + linear(1, dim, upscaled)
        total += linear((2 * grid) ** 2, upscaled, 1)
    return total


def sam_mask_decoder(config: SamMaskDecoderConfig, grid: int) -> int:
    """One prompt of one token; all four masks are computed."""
    dim, masks = config.hidden_size, config.num_multimask_outputs + 1
    total = two_way(1 + masks + 1, grid**2, dim, config.mlp_dim, config.num_hidden_layers)
    total += convolution(grid**2, 2, dim, dim // 4) + convolution((2 * grid) ** 2, 2, dim // 4, dim // 8)
    total += masks * (2 * linear(1, dim, dim) + linear(1, dim, dim // 8))
    inner, depth = config.iou_head_hidden_dim, config.iou_head_depth
    total += linear(1, dim, inner) + (depth - 2) * linear(1, inner, inner) + linear(1, inner, masks)
    return total + linear((4 * grid) ** 2, dim // 8, masks)


def folded_two_way(tokens: int, positions: int, dim: int, heads: int, mlp_dim: int, depth: int) -> int:
    """The same with projections taken over by the few tokens, see `pixellm.model.two_way.Attention`."""
    half = dim // 2
    itself = 4 * linear(tokens, dim, dim) + 2 * linear(heads * tokens, dim, tokens)
    reads = 4 * linear(tokens, dim, half) + 2 * linear(heads * tokens, dim, positions)
    is_read = reads + linear(tokens, half, 1)
    return depth * (itself + reads + is_read + 2 * linear(tokens, dim, mlp_dim)) + reads


def two_way(tokens: int, positions: int, dim: int, mlp_dim: int, depth: int) -> int:
    """SAM's two-way transformer; attention between tokens and image is half as wide."""
    half = dim // 2
    itself = 4 * linear(tokens, dim, dim) + attention(tokens, tokens, dim)
    # Four projections: two at one side, two at the other.
    across = 2 * linear(tokens, dim, half) + 2 * linear(positions, dim, half) + attention(tokens, positions, half)
    return depth * (itself + 2 * across + 2 * linear(tokens, dim, mlp_dim)) + across


@dataclass(frozen=True)
class SeemClosedForm:
    """FLOPs of each part, as in `pixellm.cost.seem`; keys and values of the image are projected once per call."""

    pixel_decoder: int
    phrase: int
    masks_per_call: int
    masks_per_target: int


def seem_closed_form(config: SeemConfig, channels: Sequence[int], tokens: int) -> SeemClosedForm:
    """Backbone maps of so many channels, coarse to fine, and phrases of so many tokens of a CLIP-like text encoder."""
    text, width = config.text_config, config.width
    phrase = text.num_hidden_layers * layer(tokens, text.hidden_size, text.intermediate_size)
    per_call = per_target = 0
    grids = config.level_grids
    for number in range(config.decoder_layers):
        positions = grids[number % len(grids)] ** 2
        per_call += 2 * linear(positions, width, width)
        per_target += 2 * linear(config.num_queries, width, width) + attention(config.num_queries, positions, width)
        per_target += layer(config.num_queries + tokens, width, config.ffn_dim)
    finest = config.vision_config.grid_sizes[-1] ** 2
    prediction = 4 * linear(config.num_queries, width, width) + linear(config.num_queries, width, finest)
    return SeemClosedForm(
        pixel_decoder=seem_pixel_decoder(config, channels),
        phrase=phrase + linear(tokens, text.hidden_size, width),
        masks_per_call=per_call,
        masks_per_target=per_target + (config.decoder_layers + 1) * prediction,
    )


def seem_pixel_decoder(config: SeemConfig, channels: Sequence[int]) -> int:
    """Encoder on the coarsest map, pyramid, and the map that masks are read off."""
    width, positions = config.width, [grid**2 for grid in config.vision_config.grid_sizes]
    total = config.encoder_layers * layer(positions[0], width, config.ffn_dim)
    for count, inputs in zip(positions, channels, strict=True):
        total += convolution(count, 1, inputs, width) + convolution(count, 3, width, width)
    return total + convolution(positions[-1], 3, width, width)


def layer(tokens: int, width: int, inner: int) -> int:
    """Self-attention and feed-forward of a transformer layer."""
    return 4 * linear(tokens, width, width) + attention(tokens, tokens, width) + 2 * linear(tokens, width, inner)
