"""Command line: one subcommand, one function.

Imports of torch and transformers stay inside the functions, so that `--help` and mistakes answer at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pixellm.cli import models, muse, scoring
from pixellm.cli.batch import batch
from pixellm.cli.common import (
    Device,
    Dtype,
    Model,
    NamerOption,
    QuantizeOption,
    collect_less,
    debugging,
    device_and_dtype,
    err_console,
    hide_loading_bars,
    is_first_process,
    log_progress,
    out_console,
    print_lines,
    quieten_transformers,
)
from pixellm.cli.cost import cost
from pixellm.cli.export import export
from pixellm.cli.serve import serve
from pixellm.cli.web import web
from pixellm.hub.models import MINI

app = typer.Typer(
    help="Ask a question about a photograph; get text and one mask for each thing it names.",
    epilog="Start with: pixellm ask example:cat 'Segment the cat.'",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Data sets on disk: where they belong, and whether they can be read.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(models.app, name="models")
app.add_typer(muse.app, name="muse")
app.command("eval")(scoring.evaluate)
app.command("score")(scoring.score)
app.command("questions")(scoring.questions)
app.command()(cost)
app.command()(batch)
app.command()(export)
app.command()(serve)
app.command()(web)

INTERRUPTED = 130  # what shells report for Ctrl-C
# What pyproject.toml calls the rest of the packages that not everybody needs; all others are of `train`.
EXTRAS = {
    **dict.fromkeys(("openai", "pyarrow"), "eval"),
    **dict.fromkeys(("aiohttp", "datasketch", "ijson", "py3langid", "tenacity"), "muse"),
    **dict.fromkeys(("fastapi", "multipart", "prometheus_client", "python_multipart", "uvicorn"), "serve"),
    "ray": "ray",
    "torchao": "quant",
}


def _show_version(wanted: bool) -> None:
    if wanted:
        from pixellm import __version__

        out_console.print(f"pixellm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


@app.command()
def ask(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="A photograph: its path, or example:NAME (see `pixellm examples`).")
    ],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="One or more, each in quotes.")],
    model: Model = MINI,
    namer: NamerOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Picture to write, .png or .jpg; by default NAME-answer.png here, if there is a mask. "
            "Several questions: NAME-1.png, NAME-2.png …"
        ),
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the answer with its masks (COCO RLE); a list for several.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens; by default 256.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0, the default: the likeliest words; more: words are drawn.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Draw from the likeliest words that make up this share.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draw; by default 0.")] = None,
    device: Annotated[Device, typer.Option(help="auto: a GPU where there is one.")] = Device.AUTO,
    dtype: Annotated[Dtype, typer.Option(help="auto: bfloat16 on a GPU, else float32.")] = Dtype.AUTO,
    quantize: QuantizeOption = None,
) -> None:
    """Answer questions about a photograph, and save it with the masks drawn in."""
    quieten_transformers()
    from pixellm.cli.outputs import plan_outputs, save
    from pixellm.hub.models import resolve
    from pixellm.imaging.images import load_image

    # Everything that can be wrong with what was typed comes before the model, which takes seconds or a download.
    photograph = load_image(image)
    outputs = plan_outputs(image, questions, out, json_path)
    directory = resolve(model) if namer is None else model
    hide_loading_bars()
    from pixellm.cli.screen import show
    from pixellm.segmenter import load_segmenter

    sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    given = {name: value for name, value in sampling.items() if value is not None}
    segmenter = load_segmenter(directory, *device_and_dtype(device, dtype), given, namer, quantize)
    segmenter.set_image(photograph)
    several = len(questions) > 1
    answers = [show(out_console, q, segmenter.stream(q), several) for q in questions]
    save(answers, outputs, out_console)


@app.command()
def examples() -> None:
    """List the example photographs, which need no download."""
    from pixellm.imaging.examples import EXAMPLES

    for name, example in EXAMPLES.items():
        out_console.print(f"example:{name:<12} {example.caption}")


@app.command()
def convert(
    released: Annotated[
        Path,
        typer.Argument(
            metavar="RELEASED_DIR", exists=True, file_okay=False, help="A checkpoint in the released layout."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to write; new or empty.")],
    vision: Annotated[
        Path,
        typer.Option(
            exists=True, file_okay=False, help="Directory of its CLIP vision encoder, in Hugging Face format."
        ),
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Re-open the result and compare its keys; if OUT is there, do only that.")
    ] = False,
) -> None:
    """Turn a released PixelLM or LISA checkpoint into a model directory."""
    quieten_transformers()
    from pixellm.baselines.lisa.convert import LISA
    from pixellm.checkpoints import convert as converter
    from pixellm.checkpoints.conversion_report import report_lines
    from pixellm.utils.cache import progress

    if check and (out / "config.json").is_file():
        out_console.print(f"{out} is there already and was not converted again")
    else:
        with progress(f"converting {released}"):
            report = converter.convert(released, out, vision, [LISA])
        print_lines(f"{out}:", *report_lines(report))
    if check:
        with progress(f"checking {out}"):
            report = converter.check(out, [LISA])
        print_lines("check: " + ("complete" if report.complete else "faulty"), *report_lines(report))
        raise typer.Exit(0 if report.complete else 1)


@app.command()
def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE]", exists=True, dir_okay=False, help="A YAML file like recipes/mini.yaml."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Instead of a recipe: your own questions and masks, a JSONL file."),
    ] = None,
    model: Annotated[str, typer.Option(help="With --data: the model to train further.")] = MINI,
    out: Annotated[
        Path | None, typer.Option("--out", "--output", help="Directory of the run; by default runs/NAME.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="With --data: how many; by default as many as fit it.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="With a recipe: in place of its own.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart/--resume", help="Begin anew, or go on from the last checkpoint.")
    ] = False,
) -> None:
    """Train a model as a recipe says, or fine-tune one on your own data."""
    if (recipe is None) == (data is None):
        raise ValueError("expected a recipe or --data, one of them. See `pixellm train --help`.")
    if data is not None and seed is not None:
        raise ValueError("--seed: expected a recipe with it, got --data. Write a recipe, see docs/training.md.")
    log_progress()
    quieten_transformers()
    from pixellm.train.run import fine_tune, run

    if data is not None:
        result = fine_tune(data, model, out or Path("runs") / data.stem, steps, restart)
    else:
        result = run(recipe, out, restart, seed)
    if is_first_process():
        out_console.print(f"trained: {result}")


@data.command("layout")
def data_layout(
    root: Annotated[Path, typer.Option(file_okay=False, help="The folder that holds all data sets.")] = Path("dataset"),
) -> None:
    """Print the folders that the published data sets are expected in, and which parts are missing."""
    from rich.tree import Tree

    from pixellm.data.catalogue import layout

    parts = layout(root)
    tree = Tree(str(root))
    folders = {"": tree}
    for part in parts:
        *above, name = part.path.split("/")
        for depth in range(1, len(above) + 1):
            path = "/".join(above[:depth])
            if path not in folders:
                folders[path] = folders["/".join(above[: depth - 1])].add(f"{above[depth - 1]}/")
        others = f"; or {', '.join(part.others)}" if part.others else ""
        state = "" if part.present else "MISSING · "
        folders["/".join(above)].add(f"{name}  {state}{', '.join(part.sets)}{others}")
    out_console.print(tree, width=None if out_console.is_terminal else 200)
    for name in sorted({name for part in parts for name in part.sets}):
        absent = sum(name in part.sets and not part.present for part in parts)
        out_console.print(f"{name:<20} {'complete' if not absent else f'{absent} parts missing'}")


@data.command("check")
def data_check(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME|FILE", help="NAME or NAME:SPLIT of `pixellm data layout`, *.jsonl, or *.json."),
    ],
    root: Annotated[
        Path, typer.Option(file_okay=False, help="The folder of all data sets; of the images, for a *.json.")
    ] = Path("dataset"),
    sheet: Annotated[
        Path | None, typer.Option(help="Picture of random samples to write; by default NAME-samples.jpg here.")
    ] = None,
) -> None:
    """Read all of a data set: count it, report what is wrong, and draw some of its samples."""
    from pixellm.data.catalogue import open_data

    picture = sheet or Path(f"{Path(name).stem.replace(':', '-')}-samples.jpg")
    if picture.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise ValueError(f"--sheet: expected a .jpg or .png, got {picture}.")
    opened = open_data(name, root, max_bad_fraction=1.0)
    from rich.progress import track

    from pixellm.eval.data_check import check, report_lines, sample_sheet

    counts = check(opened, track(range(len(opened)), "reading", console=err_console, transient=True))
    print_lines(*report_lines(counts))
    if sample_sheet(opened, picture):
        out_console.print(f"samples: {picture}")
    raise typer.Exit(1 if counts.bad else 0)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(exists=True, file_okay=False, help="Directories of runs, or above them.")
    ],
    base: Annotated[str | None, typer.Option(help="The experiment that the others are compared with.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="A Markdown file to put the table in; the plot goes beside it, as PNG."),
    ] = None,
) -> None:
    """Compare trainings: mean and spread of their figures over the runs of each recipe."""
    if out is not None and out.suffix != ".md":
        raise ValueError(f"--out: expected a .md, got {out}.")
    from pixellm.eval import comparison

    experiments = comparison.with_base(comparison.read_runs(runs), base)
    table = comparison.markdown(experiments)
    print_lines(table)
    if out is not None:
        comparison.write_into(out, table)
        comparison.plot(experiments, out.with_suffix(".png"))
        print_lines(f"table: {out}", f"plot: {out.with_suffix('.png')}")


@app.command()
def attention(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A photograph: its path, or example:NAME.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In quotes.")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="Picture to write, .png, .jpg or .pdf.")],
    model: Model = MINI,
) -> None:
    """Draw where each codebook token of each target looks."""
    if out.suffix.lower() not in (".png", ".jpg", ".pdf"):
        raise ValueError(f"--out: expected a .png, .jpg or .pdf, got {out}.")
    quieten_transformers()
    from pixellm.imaging.images import load_image

    photograph = load_image(image)
    from pixellm.eval.attention import attention_sheet, codebook_attention
    from pixellm.predictor import Predictor

    hide_loading_bars()
    answer, targets = codebook_attention(Predictor.load(model), photograph, question)
    attention_sheet(answer, targets, out)
    print_lines(answer.text, f"picture: {out}")


def _fail(message: str, code: int) -> None:
    err_console.print(message, style="red")
    sys.exit(code)


def main() -> None:
    """Entry point: mistakes become one line on stderr; PIXELLM_DEBUG=1 shows the traceback of anything."""
    collect_less()
    try:
        app()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            err_console.print("interrupted")
        raise
    except Exception as error:
        if debugging():
            raise
        if isinstance(error, ValueError):
            _fail(f"Error: {error}", 2)
        if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("pixellm"):
            extra = EXTRAS.get(error.name or "", "train")
            _fail(f"Error: the package {error.name} is needed for this. Install it: pip install 'pixellm[{extra}]'", 1)
        _fail(f"{type(error).__name__}: {error}\nPIXELLM_DEBUG=1 shows where this happened.", 1)
