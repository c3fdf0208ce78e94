"""`pixellm init`: a PixelLM made of a vision-language model of transformers."""

from pathlib import Path
from typing import Annotated

import typer

from pixellm.cli.common import out_console


def init(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="Directory or Hub id of a vision-language model of transformers.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Model directory to write; new or empty.")],
    scales: Annotated[int, typer.Option(min=1, help="Scales of image features, each with codebook tokens.")] = 2,
    tokens: Annotated[int, typer.Option(min=1, help="Codebook tokens per scale.")] = 3,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Hidden states of the vision tower, one a scale, deepest first, as -2,-14; spread if none is given.",
        ),
    ] = None,
    grid: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side in cells of the square that the pixel decoder reads; that of the family if none is named."
        ),
    ] = None,
    decoder_dim: Annotated[int, typer.Option(min=8, help="Width of the pixel decoder, a multiple of 8.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the new weights.")] = 0,
) -> None:
    """Make a PixelLM of a vision-language model: its weights, codebook tokens, and an untrained pixel decoder.

    Before training, OUT answers as BASE does, without masks.
    """
    from pixellm.backbones.create import NewParts, create
    from pixellm.utils.cache import progress

    parts = NewParts(scales, tokens, _numbers(layers), grid, decoder_dim)
    with progress(f"making {out} of {base}"):
        create(base, out, parts, seed=seed)
    out_console.print(f"{out}: answers as {base} does; its masks have to be trained")


def _numbers(layers: str | None) -> tuple[int, ...] | None:
    try:
        return None if layers is None else tuple(int(number) for number in layers.split(","))
    except ValueError:
        raise ValueError(f"--layers: expected whole numbers with commas between, as -2,-14, got {layers!r}.") from None
