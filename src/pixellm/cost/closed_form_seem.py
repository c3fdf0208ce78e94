"""FLOPs of the SEEM-style baseline by formula, all but its backbone: see `pixellm.cost.closed_form`."""

from collections.abc import Sequence
from dataclasses import dataclass

from pixellm.baselines.seem import SeemConfig
from pixellm.cost.closed_form import attention, convolution, linear


@dataclass(frozen=True)
class SeemClosedForm:
    """Of each part as in `pixellm.cost.seem`; the decoder's keys and values of the image come once for each call."""

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
        pixel_decoder=pixel_decoder(config, channels),
        phrase=phrase + linear(tokens, text.hidden_size, width),
        masks_per_call=per_call,
        masks_per_target=per_target + (config.decoder_layers + 1) * prediction,
    )


def pixel_decoder(config: SeemConfig, channels: Sequence[int]) -> int:
    """Encoder on the coarsest map, pyramid, and the map that masks are read off."""
    width, positions = config.width, [grid**2 for grid in config.vision_config.grid_sizes]
    total = config.encoder_layers * layer(positions[0], width, config.ffn_dim)
    for count, inputs in zip(positions, channels, strict=True):
        total += convolution(count, 1, inputs, width) + convolution(count, 3, width, width)
    return total + convolution(positions[-1], 3, width, width)


def layer(tokens: int, width: int, inner: int) -> int:
    """Self-attention and feed-forward of a transformer layer."""
    return 4 * linear(tokens, width, width) + attention(tokens, tokens, width) + 2 * linear(tokens, width, inner)
