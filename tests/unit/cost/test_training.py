"""The memory plan of a training: what it counts, what it chooses and refuses, and that a run does what it says."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pixellm.backbones.create import NewParts, extend
from pixellm.backbones.presets import qwen3_vl_8b
from pixellm.cli import app
from pixellm.cost.fit import TrainingPlan, fit, plan_for, row_load
from pixellm.cost.training import RowLoad, step_memory
from pixellm.hub.presets import PRESETS
from pixellm.train.recipe import AdapterConfig, Recipe, TrainingStage
from pixellm.train.run import tuning_recipe
from pixellm.training import KNOWN_MODELS
from pixellm.utils.model_files import read_config
from pixellm.utils.sizes import bytes_of
from tests.support import tiny
from tests.support.shapes import write_scenes
from tests.support.tiny_vlms import tiny_vlm

TRAINED = ("codebook", "pixel_decoder", "pixel_projector", "neck")
STAGE = TrainingStage(steps=1, batch_size=4, device_batch_size=2, learning_rate=1e-3, trained=TRAINED)
LORA = AdapterConfig()
LOAD = RowLoad(tokens=300, labels=40, masks=3, answers=2, image_hw=(60, 80))


def counted(config, stage: TrainingStage = STAGE, adapters: AdapterConfig = LORA, load: RowLoad = LOAD):
    return step_memory(config, KNOWN_MODELS.kind_of(config), stage, adapters, load)


@pytest.fixture(scope="module")
def vlm():
    return extend(*tiny_vlm("qwen3_vl"), NewParts(decoder_dim=32, mask_grid=8))


@pytest.fixture(scope="module")
def configs(vlm):
    return {"paper": tiny.clip_config(), "vlm": vlm[0].config}


@pytest.fixture
def directory(vlm, tmp_path) -> Path:
    for part in vlm:
        part.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


@pytest.mark.slow
def test_a_step_of_the_paper_holds_weights_gradients_and_scores(configs):
    base = counted(configs["paper"])
    assert base.passes > 4 * base.trained + base.logits
    rows, vocabulary = STAGE.device_batch_size * LOAD.labels, configs["paper"].text_config.vocab_size
    assert 8 * rows * vocabulary <= base.logits <= 16 * rows * vocabulary + 10**6
    assert counted(configs["paper"], load=replace(LOAD, vision_bytes=10**12)).passes >= 10**12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "vlm"])
def test_what_a_step_holds(configs, name):
    """More rows, longer ones and larger masks take more; checkpointing takes less; weights are as they are held."""
    config = configs[name]
    base = counted(config)
    assert base.trained > 0
    assert base.passes > 4 * base.trained + base.logits
    more = replace(STAGE, device_batch_size=4)
    assert counted(config, more).passes > 1.5 * base.passes - 4 * base.trained
    assert counted(config, load=replace(LOAD, tokens=600)).passes > base.passes
    assert counted(config, load=replace(LOAD, image_hw=(600, 800))).passes > base.passes
    assert counted(config, replace(STAGE, gradient_checkpointing=True)).passes < base.passes
    assert counted(config, load=replace(LOAD, vision_bytes=10**12)).passes >= 10**12
    whole = counted(config, replace(STAGE, bf16=False))
    text = "backbone" if name == "vlm" else "language_model"
    assert whole.weights[text] > base.weights[text]
    assert whole.weights["pixel_decoder"] == base.weights["pixel_decoder"]
    assert counted(config, adapters=AdapterConfig(quantize="int4")).weights[text] < base.weights[text]
    # Scores in the dtype of the head, and in fp32 with their logarithms and gradients.
    rows, vocabulary = STAGE.device_batch_size * LOAD.labels, config.text_config.vocab_size
    assert 8 * rows * vocabulary <= base.logits <= 16 * rows * vocabulary + 10**6


@pytest.mark.slow
def test_the_choice_gets_smaller_with_the_memory(directory, tmp_path, monkeypatch):
    data = write_scenes(tmp_path / "data", 2)
    recipe = tuning_recipe(data, str(directory), "mine", KNOWN_MODELS, 1)
    plenty = fit(recipe, KNOWN_MODELS, 10**12, "cpu")
    assert plenty.fits
    assert plenty.recipe.stage.device_batch_size == recipe.stage.batch_size
    assert plenty.recipe.lora.quantize is None
    assert not plenty.recipe.stage.gradient_checkpointing
    plan, seen = plenty, []
    while isinstance(plan, TrainingPlan):
        seen.append((plan.recipe.lora.quantize, plan.recipe.stage.gradient_checkpointing))
        least = plan
        plan = plan_or_refusal(recipe, least.total - 1)
        assert not isinstance(plan, TrainingPlan) or (plan.fits and plan.total < least.total)
    assert "expected at least" in plan
    assert "QLoRA (int4), gradient checkpointing, images at once: 1" in plan
    smallest = plan.split("expected at least ")[1].split()[0]
    assert isinstance(plan_or_refusal(recipe, bytes_of(smallest)), TrainingPlan)  # what it names does fit
    assert seen[0] == (None, False)
    assert seen[-1][0] == "int4"
    source = KNOWN_MODELS.open(recipe.initialise)
    assert "CUDA" in plan_for(least.recipe, source, *loads(recipe), 0, "cuda").needs


def plan_or_refusal(recipe: Recipe, memory: int) -> TrainingPlan | str:
    try:
        return fit(recipe, KNOWN_MODELS, memory, "cpu")
    except ValueError as error:
        return str(error)


def loads(recipe: Recipe):
    """Configuration and largest row."""
    source = KNOWN_MODELS.open(recipe.initialise)
    config = read_config(source.directory)
    return config, row_load(recipe, source, config)


@pytest.mark.slow
def test_a_run_is_what_was_planned(directory, tmp_path):
    """`pixellm train --memory`: the settings in run.json are the plan's; too little memory is refused beforehand."""
    data, out = write_scenes(tmp_path / "data", 2), tmp_path / "run"
    command = ["train", "--data", data, "--model", directory, "--out", out, "--steps", 1, "--memory"]
    refused = CliRunner().invoke(app, [*map(str, command), "10MB"])
    assert isinstance(refused.exception, ValueError)
    assert "expected at least" in str(refused.exception)
    assert not out.exists()
    recipe = tuning_recipe(data, str(directory), "run", KNOWN_MODELS, 1)
    source = KNOWN_MODELS.open(recipe.initialise)
    smallest = replace(
        recipe,
        stage=replace(recipe.stage, gradient_checkpointing=True, device_batch_size=1),
        lora=replace(recipe.lora, quantize="int4"),
    )
    room = plan_for(smallest, source, *loads(recipe), 0, "cpu").total + 5000
    plan = fit(recipe, KNOWN_MODELS, room, "cpu")
    result = CliRunner().invoke(app, [*map(str, command), f"{room / 1e6 + 1e-6:.6f}MB"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "optimiser states" in result.output
    assert plan.settings in result.output
    held = json.loads((out / "run.json").read_text(encoding="utf-8"))["recipe"]
    assert held == json.loads(json.dumps(asdict(plan.recipe), default=str))
    assert held["lora"]["quantize"] == "int4"


def test_mistakes(tmp_path, timm_model):
    recipe = Path(__file__).parents[3] / "recipes/nano.yaml"
    result = CliRunner().invoke(app, ["train", str(recipe), "--memory", "8GB"])
    assert "--memory: expected --data" in str(result.exception)
    data = write_scenes(tmp_path / "data", 1)
    result = CliRunner().invoke(app, ["train", "--data", str(data), "--memory", "much"])
    assert "expected a size like 24GB" in str(result.exception)
    with pytest.raises(ValueError, match="lora: expected a rank above 0"):
        AdapterConfig(rank=0, quantize="int4")
    timm_model.save_pretrained(tmp_path / "mini")
    other = tuning_recipe(data, str(tmp_path / "mini"), "x", KNOWN_MODELS, 1)
    with pytest.raises(ValueError, match="expected a model of the paper's assembly"):
        fit(other, KNOWN_MODELS, 10**12, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("config", [qwen3_vl_8b(), PRESETS["pixellm-7b"]()], ids=["qwen3-vl-8b", "pixellm-7b"])
def test_full_size(config):
    """Weights by formula; activations that are kept grow with rows as one row's do."""
    load = replace(LOAD, tokens=1200, image_hw=(480, 640))
    way = AdapterConfig(quantize="int4")
    one, two = (
        counted(config, replace(STAGE, device_batch_size=n, gradient_checkpointing=True), way, load) for n in (1, 2)
    )
    assert 4e9 < sum(one.weights.values()) < 9e9
    assert 1.3 * (one.passes - 4 * one.trained) < two.passes - 4 * two.trained < 2.1 * (one.passes - 4 * one.trained)


MEASURED = Path(__file__).parents[2] / "support/train_measured.py"
SETTINGS = ("lora", "checkpointing", "qlora")
RUNS = [(name, settings, size) for name in ("vlm", "paper") for settings in SETTINGS for size in ("tiny", "middle")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
@pytest.mark.parametrize(("name", "settings", "size"), RUNS)
def test_the_planned_peak_is_what_the_system_measures(name, settings, size, tmp_path):
    """The whole process, which does nothing else."""
    command = [sys.executable, str(MEASURED), name, settings, size, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["planned"] == pytest.approx(found["measured"], rel=0.1), found
