"""`pixellm ask`, `examples` and `attention`: questions about one image."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixellm.cli.common import (
    STDOUT,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    MinScoreOption,
    Model,
    NamerOption,
    Quantization,
    QuantizeOption,
    Runtime,
    RuntimeOption,
    device_and_dtype,
    out_console,
    output_file,
    print_lines,
    reserve_stdout,
    runs_graphs,
)
from pixellm.hub.models import MINI

if TYPE_CHECKING:
    import torch

    from pixellm.types import Answer, Event, Segmenter

Image = Annotated[
    str, typer.Argument(metavar="IMAGE", help="Path of an image, or example:NAME (see `pixellm examples`).")
]


def ask(
    image: Image,
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="One or more questions, each quoted.")],
    model: Model = MINI,
    namer: NamerOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Overlay image to write, .png or .jpg. Default: NAME-answer.png, if the answer has a mask. "
            "Several questions: NAME-1.png, NAME-2.png …"
        ),
    ] = None,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", help="JSON file to write: the answer with COCO RLE masks, or a list of answers."),
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum tokens of an answer. Default: 256.")] = (
        None
    ),
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Sampling temperature. Default: 0 (greedy decoding).")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Nucleus (top-p) sampling. Default: 1 (off).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Sampling seed. Default: 0.")] = None,
    min_score: MinScoreOption = 0.0,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = Dtype.AUTO,
    quantize: QuantizeOption = None,
    runtime: RuntimeOption = Runtime.AUTO,
) -> None:
    """Answer questions about an image and draw the masks on it.

    `-` as --out or --json is standard output; the answer's text then goes to standard error.
    """
    reserve_stdout(out, json_path)
    from pixellm.cli.outputs import plan_outputs, save
    from pixellm.imaging.images import load_image

    # Check all that was typed before the model is loaded, which takes seconds or a download.
    loaded = load_image(image)
    outputs = plan_outputs(image, questions, out, json_path)
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    sampling = {name: value for name, value in options.items() if value is not None}
    needs_torch = device is Device.CUDA or dtype is not Dtype.AUTO or quantize is not None or namer is not None
    if runs_graphs(runtime, model, needs_torch):
        from pixellm.loading import load_graphs

        segmenter = load_graphs(model, sampling=sampling, min_score=min_score, wait=False)
    else:
        segmenter = _with_torch(model, namer, device_and_dtype(device, dtype), sampling, quantize, min_score)
    segmenter.set_image(loaded)
    several = len(questions) > 1
    answers = [show(question, segmenter.stream(question), several) for question in questions]
    save(answers, outputs)


def _with_torch(
    model: str,
    namer: str | None,
    where: "tuple[str, torch.dtype]",
    sampling: dict[str, Any],
    quantize: Quantization | None,
    min_score: float,
) -> "Segmenter":
    from pixellm.hub.systems import resolve_system

    directory = (
        resolve_system(model) if namer is None else model
    )  # fetched before torch is imported, which takes seconds
    from pixellm.segmenter import load_segmenter

    return load_segmenter(directory, *where, sampling, namer, quantize, min_score)


def show(question: str, events: "Iterator[Event]", several: bool) -> "Answer":
    """Print an answer while it streams, each phrase in the colour of its mask, then a line for each mask."""
    from rich.text import Text

    from pixellm.types import Done, Target, TextPiece

    if several:
        out_console.print(Text(f"\n{question}", style="bold"))
    # The colour of a phrase is known once its mask arrives: text waits for the next mask, or for the end.
    waiting, printed, count = "", 0, 0
    for event in events:
        match event:
            case TextPiece(piece):
                waiting += piece
            case Target(span=(start, end)):
                line = Text(waiting.rstrip())
                line.stylize(_style(count), max(0, start - printed), end - printed)
                out_console.print(line, end="")
                waiting, printed, count = "", printed + len(line), count + 1
            case Done(answer):
                out_console.print(Text(waiting.rstrip()))
                _show_masks(answer)
                return answer
    raise AssertionError("an answer without an end")


def _show_masks(answer: "Answer") -> None:
    from rich.text import Text

    if not answer.targets:
        out_console.print("  no mask")
    width = max((len(target.phrase) for target in answer.targets), default=0)
    for index, target in enumerate(answer.targets):
        share = target.area / math.prod(answer.original_hw)
        where = "empty mask"
        if box := target.box:
            x, y, box_width, box_height = box
            presence = "" if target.presence is None else f"presence {target.presence:.2f}   "
            where = f"{presence}score {target.score or 0:.2f}   box {box_width}×{box_height} at {x}, {y}"
        name = target.phrase or f"mask {index + 1}"
        line = Text.assemble("  ", (f" {name} ", _style(index)), " " * (width - len(target.phrase)))
        out_console.print(line.append(f"  {target.area:>9,} px {share:6.1%}   {where}"))


def _style(index: int) -> str:
    from pixellm.imaging.overlay import colour_of, ink_on

    return f"{ink_on(index)} on {colour_of(index)}"


def examples() -> None:
    """List the example images, which need no download."""
    from pixellm.imaging.examples import EXAMPLES

    for name, example in EXAMPLES.items():
        out_console.print(f"example:{name:<12} {example.caption}")


def attention(
    image: Image,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="Question, quoted.")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="Image to write, .png, .jpg or .pdf; -: PNG to stdout.")],
    model: Model = MINI,
) -> None:
    """Draw the pixel decoder's attention maps for each codebook token of each target."""
    if out != STDOUT and out.suffix.lower() not in (".png", ".jpg", ".pdf"):
        raise ValueError(f"--out: expected a .png, .jpg or .pdf, got {out}.")
    reserve_stdout(out)
    from pixellm.imaging.images import load_image

    loaded = load_image(image)
    from pixellm.eval.attention import attention_sheet, codebook_attention
    from pixellm.segmenter import load

    answer, targets = codebook_attention(load(model), loaded, question)
    with output_file(out, ".png") as path:
        attention_sheet(answer, targets, path)
    print_lines(answer.text, f"image: {out}")
