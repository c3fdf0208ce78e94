"""Simulated annotator: clicks per image over rounds of asking, correcting, and training on the corrections.

    python -m benchmarks.annotator annotations.json images --out runs/annotator

Each round shows the annotator some new images. The model segments each image's categories; on every mask that is too
far off (--enough) the annotator clicks by the protocol of `pixellm.eval.clicks`, and after --clicks draws the mask by
hand. All masks are kept by `pixellm.data.corrections`. Before the next round the first model is fine-tuned on all
corrections so far, as `pixellm train --data` does. As images differ, the first model, which learns nothing, is clicked
through the same images, too. The same command continues where it was stopped; another one needs another --out.

`OUT/clicks.jsonl` has a line for each image and model. After each round `OUT/annotator.md` (the table) and
`OUT/annotator.png` (the plot) are written.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import pixellm
from benchmarks.clicks import Refining, Wanted, objects_of, with_first_masks
from pixellm.data.coco import CocoSource
from pixellm.data.corrections import FILE, Correction, CorrectionStore
from pixellm.data.datasets import read_json
from pixellm.data.describe import noun
from pixellm.eval.clicks import MAX_CLICKS, click_through
from pixellm.imaging import masks
from pixellm.predictor import Predictor
from pixellm.train.run import fine_tune
from pixellm.training import KNOWN_MODELS
from pixellm.types import Target
from pixellm.utils.files import read_lines, write_text

LEARNING, FIRST = "learning", "first"  # the model of the round, and the one of the first round
CLICKS, MODELS, SETTINGS = "clicks.jsonl", "models", "settings.json"


@dataclass(frozen=True)
class Clicked:
    """One image of a round, clicked through with one model: for each object its clicks, and its IoU before them.

    `image` is the `file_name` of the annotations.
    """

    round: int
    model: str
    image: str
    clicks: list[int]
    iou_before: list[float]


@dataclass(frozen=True)
class Protocol:
    """IoU from which a mask is good enough, most clicks of an object, and smallest object in pixels."""

    enough: float = 0.85
    clicks: int = MAX_CLICKS
    smallest: int = 100


class Annotator:
    """Clicks through the images of rounds; what is done is read from `out` and not done again.

    Args:
        source: annotated images.
        out: directory of the results.
        model: name or directory of the first model, which takes visual prompts.
        rounds: for each round the numbers of its images in the source.
        protocol: see there.
        steps: of each fine-tuning; None: as `pixellm train --data`.

    Raises:
        ValueError: `out` holds a run with other settings.
    """

    def __init__(
        self,
        source: CocoSource,
        out: Path,
        model: str,
        rounds: Sequence[Sequence[int]],
        protocol: Protocol,
        steps: int | None,
    ) -> None:
        self.source, self.out, self.model, self.rounds = source, out, model, rounds
        self.protocol, self.steps = protocol, steps
        self.store = CorrectionStore(out / "corrections")
        self._check_settings()
        file = out / CLICKS
        self.done = [Clicked(**json.loads(line)) for _, line in read_lines(file)] if file.exists() else []

    def run(self) -> None:
        """Go through all rounds, and write the report after each."""
        for number, records in enumerate(self.rounds):
            for name in (LEARNING, FIRST) if number else (LEARNING,):
                missing = [record for record in records if not self._is_done(number, name, record)]
                if not missing:
                    continue
                predictor = pixellm.load(self._model_of(number) if name == LEARNING else self.model)
                for record in missing:
                    self._annotate(number, name, record, predictor)
            self._report()

    def _check_settings(self) -> None:
        """Write the settings of a new run; a ValueError if `out` holds a run with others."""
        images = [[self._file_name(record) for record in records] for records in self.rounds]
        settings = {"model": self.model, "steps": self.steps, "protocol": asdict(self.protocol), "images": images}
        file = self.out / SETTINGS
        if not file.exists():
            write_text(file, json.dumps(settings, indent=2) + "\n")
        elif differing := [name for name, value in read_json(file).items() if settings[name] != value]:
            raise ValueError(
                f"expected the settings of the run in {self.out}, got another {' and '.join(differing)}. "
                "Choose another --out."
            )

    def _report(self) -> None:
        rounds = len(self.rounds)
        write_text(self.out / "annotator.md", table(self.done, rounds))
        plot(self.done, rounds, self.out / "annotator.png")

    def _file_name(self, record: int) -> str:
        return str(self.source.rows[record]["file_name"])

    def _is_done(self, number: int, name: str, record: int) -> bool:
        image = self._file_name(record)
        return any((row.round, row.model, row.image) == (number, name, image) for row in self.done)

    def _model_of(self, number: int) -> str:
        """Return the model of a round: the first one, fine-tuned on the corrections of all rounds before."""
        if not number:
            return self.model
        output = self.out / MODELS / f"round-{number}"
        return str(fine_tune(self.store.folder / FILE, self.model, output, KNOWN_MODELS, self.steps))

    def _annotate(self, number: int, name: str, record: int, predictor: Predictor) -> None:
        clicks, before = [], []
        objects = objects_of(self.source, record, False, self.protocol.smallest)
        for wanted, target in with_first_masks(predictor, self.source, objects):
            refining = Refining(predictor, target)
            curve = click_through(target.mask, wanted.mask, refining, self.protocol.clicks, self.protocol.enough)
            clicks.append(len(curve) - 1)
            before.append(round(curve[0], 4))
            if name == LEARNING:
                accepted = refining.target.mask if curve[-1] >= self.protocol.enough else wanted.mask
                self._keep(number, record, wanted, target, accepted)
        image = self._file_name(record)
        self.done.append(Clicked(number, name, image, clicks, before))
        write_text(self.out / CLICKS, "".join(json.dumps(asdict(row)) + "\n" for row in self.done))
        print(f"round {number + 1}, {name} model, {image}: {sum(clicks)} clicks on {len(clicks)} objects", flush=True)

    def _keep(self, number: int, record: int, wanted: Wanted, target: Target, accepted: np.ndarray) -> None:
        correction = Correction(
            noun(wanted.category).singular,
            masks.encode(accepted),
            before=target.rle,
            model=f"round {number + 1}",
            tool="annotator.py",
        )
        self.store.add(self.source[record].load_image(), correction)


def choose_rounds(source: CocoSource, rounds: int, per_round: int, smallest: int, seed: int) -> list[list[int]]:
    """Draw the images of each round among those that have objects, each image once.

    Raises:
        ValueError: too few images have objects of that size.
    """
    wanted, found = rounds * per_round, list[int]()
    for record in random.Random(seed).sample(range(len(source)), len(source)):
        if len(found) == wanted:
            break
        if objects_of(source, record, False, smallest):
            found.append(record)
    if len(found) < wanted:
        raise ValueError(
            f"expected {rounds} × {per_round} images with objects of at least {smallest} pixels, got {len(found)}. "
            "Lower --rounds, --per-round or --smallest."
        )
    return [found[start : start + per_round] for start in range(0, wanted, per_round)]


def both(done: Sequence[Clicked], number: int) -> tuple[list[Clicked], list[Clicked]] | None:
    """Return a round's rows with its own model, and with the first one; None until both have seen its images."""
    own = [row for row in done if (row.round, row.model) == (number, LEARNING)]
    first = [row for row in done if (row.round, row.model) == (number, FIRST if number else LEARNING)]
    is_complete = own and {row.image for row in own} == {row.image for row in first}
    return (own, first) if is_complete else None


def table(done: Sequence[Clicked], rounds: int) -> str:
    """Return a Markdown table: for each round, means with the model of the round and with the first one."""
    lines = [
        "| round | images | objects | clicks per image | with the first model | IoU before clicks | with the first |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for number in range(rounds):
        if pair := both(done, number):
            rows, first = pair
            cells = [_clicks(rows), _clicks(first), _iou(rows), _iou(first)]
            objects = sum(len(row.clicks) for row in rows)
            means = " | ".join(f"{value:.{digits}f}" for value, digits in zip(cells, (1, 1, 3, 3), strict=True))
            lines.append(f"| {number + 1} | {len(rows)} | {objects} | {means} |")
    return "\n".join(lines) + "\n"


def _clicks(rows: Sequence[Clicked]) -> float:
    return float(np.mean([sum(row.clicks) for row in rows]))


def _iou(rows: Sequence[Clicked]) -> float:
    return float(np.mean([value for row in rows for value in row.iou_before]))


def plot(done: Sequence[Clicked], rounds: int, path: Path) -> None:
    """Draw the clicks per image of each round, with both models."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    pairs = {number + 1: pair for number in range(rounds) if (pair := both(done, number))}
    for which, label, style in ((1, "without learning", "o--"), (0, "trained on the corrections so far", "o-")):
        axes.plot(list(pairs), [_clicks(pair[which]) for pair in pairs.values()], style, label=label)
    axes.set_xticks(list(pairs))
    axes.set(xlabel="round", ylabel="clicks per image", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, help="COCO-format file.")
    parser.add_argument("images", type=Path, help="Directory of its images.")
    parser.add_argument("--out", type=Path, required=True, help="Directory of the results.")
    parser.add_argument("--model", default="pixellm-mini", help="First model. (default: pixellm-mini)")
    parser.add_argument("--rounds", type=int, default=3, help="Number of rounds. (default: 3)")
    parser.add_argument("--per-round", type=int, default=20, help="Images of a round. (default: 20)")
    parser.add_argument("--enough", type=float, default=0.85, help="IoU that needs no more clicks. (default: 0.85)")
    parser.add_argument("--clicks", type=int, default=MAX_CLICKS, help="Most clicks of an object. (default: 20)")
    parser.add_argument("--smallest", type=int, default=100, help="Smallest object in pixels. (default: 100)")
    parser.add_argument("--steps", type=int, help="Steps of each fine-tuning. (default: as `pixellm train --data`)")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the choice of images. (default: 0)")
    arguments = parser.parse_args()
    source = CocoSource(arguments.annotations, arguments.images)
    try:
        rounds = choose_rounds(source, arguments.rounds, arguments.per_round, arguments.smallest, arguments.seed)
        protocol = Protocol(arguments.enough, arguments.clicks, arguments.smallest)
        annotator = Annotator(source, arguments.out, arguments.model, rounds, protocol, arguments.steps)
    except ValueError as error:
        parser.error(str(error))
    try:
        annotator.run()
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues")
    print(table(annotator.done, arguments.rounds))


if __name__ == "__main__":
    main()
