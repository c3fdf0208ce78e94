"""Training of any kind of model: the table of kinds, and recipes of each form.

Names in recipes are resolved here, once; `pixellm.train` and `pixellm.mini` are given directories.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from pixellm.backbones.kind import BackboneKind
from pixellm.baselines.lisa.kind import LisaKind
from pixellm.baselines.seem.kind import SeemKind
from pixellm.cost.fit import TrainingPlan, fit, training_device
from pixellm.data.jsonl import split_jsonl
from pixellm.eval.answering import answer_all, fingerprint
from pixellm.eval.benchmarks import Benchmark, load_jsonl
from pixellm.eval.predictions import read_predictions
from pixellm.eval.protocols import choose_protocol
from pixellm.eval.report import BenchmarkReport, score
from pixellm.hub.models import resolve, resolve_part
from pixellm.hub.presets import PRESETS
from pixellm.hub.systems import weights_of
from pixellm.mini import recipe as mini_recipe
from pixellm.mini.kind import MiniKind, MiniLisaKind
from pixellm.mini.recipe import MiniRecipe, mini_recipe_of
from pixellm.mini.stages import train_mini
from pixellm.segmenter import load_segmenter
from pixellm.train.model_kind import KnownModels
from pixellm.train.pixellm_kind import PixelLMKind
from pixellm.train.recipe import RENAMED, Recipe, read_fields, recipe_of
from pixellm.train.run import prepare_output, train, tuning_recipe

KNOWN_MODELS = KnownModels(
    (PixelLMKind(), BackboneKind(), LisaKind(), SeemKind(), MiniKind(), MiniLisaKind()), PRESETS, resolve, resolve_part
)


def load_recipe(path: Path) -> Recipe | MiniRecipe:
    """Read and check a recipe.

    Raises:
        ValueError: no such file, malformed YAML, an unknown or a missing field.
    """
    fields = read_fields(path, RENAMED | mini_recipe.RENAMED)
    return mini_recipe_of(fields, path) if mini_recipe.OWN_FIELDS & fields.keys() else recipe_of(fields, path)


def run(recipe_file: Path, output: Path | None = None, restart: bool = False, seed: int | None = None) -> Path:
    """Train a recipe to the end and return the directory of the model, ready for `load_segmenter`.

    Args:
        recipe_file: see `load_recipe`.
        output: where checkpoints and results go; by default `runs/NAME`, with `seed` `runs/NAME-SEED`.
        restart: begin anew instead of resuming.
        seed: overrides the recipe's.
    """
    recipe = load_recipe(recipe_file)
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    output = output or Path("runs") / (recipe.name if seed is None else f"{recipe.name}-{seed}")
    prepare_output(output, restart)
    if isinstance(recipe, MiniRecipe):
        return train_mini(recipe, output)
    return train(recipe, output, KNOWN_MODELS)


def plan_fine_tuning(data: Path, model: str, name: str, memory: int, steps: int | None = None) -> TrainingPlan:
    """Choose settings with which a fine-tuning fits into so many bytes on this computer's device.

    The other arguments, and the recipe without these settings, are those of `pixellm.train.run.tuning_recipe`.

    Raises:
        ValueError: nothing fits; it says what would.
    """
    return fit(tuning_recipe(data, model, name, KNOWN_MODELS, steps), KNOWN_MODELS, memory, training_device())


def fine_tune_and_compare(
    data: Path,
    held_out: int,
    model: str,
    output: Path,
    steps: int | None = None,
    restart: bool = False,
    recipe_for: Callable[[Path], Recipe] | None = None,
) -> tuple[Path, BenchmarkReport, BenchmarkReport]:
    """Fine-tune on all but `held_out` images of a JSONL file, and ask about those before and after.

    `recipe_for` returns the recipe of the fine-tuning for the file of the images that are left; None: `tuning_recipe`.

    Returns:
        The directory of the model, and the reports of both evaluations.
    """
    prepare_output(output, restart)
    training, evaluation = split_jsonl(data, held_out, output)
    recipe = recipe_for(training) if recipe_for else tuning_recipe(training, model, output.name, KNOWN_MODELS, steps)
    benchmark = load_jsonl(evaluation)
    before = evaluate(model, benchmark, output / "before")
    result = train(recipe, output, KNOWN_MODELS)
    return result, before, evaluate(str(result), benchmark, output / "after")


def evaluate(model: str, benchmark: Benchmark, out: Path) -> BenchmarkReport:
    """Answer a benchmark's questions, or resume, and score the answers; the files of the report go to `out`."""
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    made = fingerprint(benchmark, weights_of(model), model, teacher_forced=False)
    segmenter = load_segmenter(model, device, dtype)
    path = answer_all(segmenter, benchmark, out, made, teacher_forced=False, progress=True)
    assert path is not None
    report = score(benchmark, read_predictions(path), choose_protocol(benchmark.name, None))
    report.write(out)
    return report
