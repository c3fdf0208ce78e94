"""MUSE-mini: questions made by rules about COCO and LVIS images, and the effect of training on them at nano size.

    instances → generate, check → MUSE-mini → train with and without it (seeds) → questions about held-out images

    python benchmarks/muse_mini.py --data DIR [--out runs/muse] [--seeds 3] [--jobs 2] [--report docs/muse_mini.md]

DIR holds coco_480 (instances_train.json, lvis_val.json, instances_val.json, images, images_lvis) and more_416. What is
finished is not done again. Held-out questions are made by the same rules about other images, or are those of
`benchmarks/baselines.py`, which have another grammar. All ask for two objects or more by their use.
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from baselines import RECIPES, evaluate, figures, held_out_questions, train

from pixellm.data.coco import CocoSource
from pixellm.eval import comparison
from pixellm.eval.answering import answer_all, fingerprint
from pixellm.eval.benchmarks import load_benchmark
from pixellm.eval.predictions import read_predictions
from pixellm.eval.protocols import choose_protocol
from pixellm.eval.report import score
from pixellm.hub.systems import weights_of
from pixellm.muse import layout, operations
from pixellm.segmenter import load_segmenter
from pixellm.utils.files import write_text

SOURCES = {"instances_train": "images", "lvis_val": "images_lvis", "instances_val": "images"}
# Small instances, and many questions about an image: there are few images.
GENERATE = ("--engine", "template", "--questions", "80", "--min-area", "0.0005")
REPEATS = "3"  # records that may share the text of one about another image
VAL_QUESTIONS = 1  # about an image
ANSWER_BUDGET = 160  # tokens: a small model's answers may not end
KINDS = ("with_muse", "without_muse")


def make(data: Path, out: Path) -> Path:
    """Make MUSE-mini (train and val) with its images; return its root."""
    root = out / "root"
    if (root / "muse" / "muse_val.json").is_file():
        return root
    for name, images in SOURCES.items():
        files = ("--annotations", str(data / f"coco_480/{name}.json"), "--images", str(data / "coco_480" / images))
        pixellm("muse", "generate", str(out / name), *files, *GENERATE)
        pixellm("muse", "check", str(out / name), "--reject", "--repeats", REPEATS)
        if not (out / f"out-{name}").is_dir():
            pixellm("muse", "export", str(out / name), str(out / f"out-{name}"), "--val", "0", "--test", "0")
    files = {name: layout.read(out / f"out-{name}" / "muse_train.json") for name in SOURCES}
    held_out = {one["id"] for one in json.loads((data / "coco_480/instances_val.json").read_text())["images"]}
    lvis = [one for one in files["lvis_val"] if one["id"] not in held_out]
    layout.write(root / "muse" / "muse_train.json", operations.merge([*files["instances_train"], *lvis]))
    _link_images(data, root)
    layout.write(root / "muse" / "muse_val.json", map(_some, files["instances_val"]))
    return root


def _some(entry: dict) -> dict:
    pairs = layout.pairs_of(entry)
    drawn = random.Random(entry["id"]).sample(pairs, min(VAL_QUESTIONS, len(pairs)))
    return layout.entry(entry, entry["ann_list"], drawn)


def _link_images(data: Path, root: Path) -> None:
    """The layout of `pixellm data layout`, and the sources of recipes/nano.yaml."""
    for year in ("train2017", "val2017"):
        folder = root / "coco" / year
        folder.mkdir(parents=True, exist_ok=True)
        for images in ("images", "images_lvis"):
            for path in sorted((data / "coco_480" / images).iterdir()):
                link = folder / path.name
                if not link.exists():
                    link.symlink_to(path.resolve())
    for name in ("coco_480", "more_416"):
        if not (root / name).exists():
            (root / name).symlink_to((data / name).resolve())


def pixellm(*arguments: str) -> None:
    """A command, as users run it."""
    subprocess.run([sys.executable, "-m", "pixellm", *arguments], check=True)


def measure(data: Path, root: Path, out: Path, kind: str, seed: int) -> None:
    """Ask one model all held-out questions, and write its figures as those of a run."""
    folder, model = out / "results" / f"{kind}-{seed}", str(out / f"{kind}-{seed}" / "model")
    if (folder / comparison.RUN).is_file():
        return
    segmenter = load_segmenter(model, sampling={"max_new_tokens": ANSWER_BUDGET})
    benchmark = load_benchmark("muse", root, "val")
    made = fingerprint(benchmark, weights_of(model, None), model, False)
    path = answer_all(segmenter, benchmark, folder / "muse", made, teacher_forced=False, progress=True)
    assert path is not None, "one process answers"
    muse = score(benchmark, read_predictions(path), choose_protocol("muse", None)).overall.values
    source = CocoSource(data / "coco_480/instances_val.json", data / "coco_480/images")
    held_out = held_out_questions(source)
    several = tuple(q for q in held_out.questions if q.kind == "knowledge" and len(q.targets) > 1)
    report = evaluate(segmenter, replace(held_out, questions=several), folder / "others", f"{kind} {seed}")
    found = {"muse_giou": muse["giou"], "muse_ciou": muse["ciou"], "other_giou": figures(report)["reasoning_giou"]}
    run = {"recipe": {"name": kind.replace("_", " "), "seed": seed, "validation": "muse_mini"}, "metrics": found}
    write_text(folder / comparison.RUN, json.dumps(run, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/muse"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each with its share of the cores")
    parser.add_argument("--report", type=Path, default=Path("docs/muse_mini.md"))
    given = parser.parse_args(arguments)
    root = make(given.data, given.out)
    recipes = {kind: RECIPES / f"muse_{kind.removesuffix('_muse')}.yaml" for kind in KINDS}
    train(recipes, given.out, given.seeds, given.jobs)
    for seed in range(given.seeds):
        for kind in KINDS:
            measure(given.data, root, given.out, kind, seed)
    found = comparison.with_base(comparison.read_runs([given.out / "results"]), "without muse")
    comparison.write_into(given.report, comparison.markdown(found))
    comparison.plot(found, given.report.with_suffix(".png"))


if __name__ == "__main__":
    main()
