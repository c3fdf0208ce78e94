"""Training on several processes (gloo, on one machine), started as users start it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pixellm.backbones.create import NewParts, extend
from tests.support import trees
from tests.support.tiny_vlms import tiny_vlm

CONFIGS = Path(__file__).parents[2] / "recipes/accelerate"
STEPS = 6


@pytest.fixture
def recipe(tmp_path, clip_model, clip_processor) -> Path:
    """Six pictures with up to two masks, and a tiny model; fp32 without dropout."""
    for part in (clip_model, clip_processor):
        part.save_pretrained(tmp_path / "start")
    rows = []
    for number in range(6):
        name = trees.photograph(tmp_path / f"{number}.png", (40 - number, 30)).name
        masks = [[[5, 5, 15, 5, 15, 15]], [[20, 5, 30, 5, 30, 20]]][: number % 3]
        answer = ["Nothing.", "The dog {seg}.", "The dog {seg} and the cat {seg}."][number % 3]
        rows.append({"image": name, "question": "Where is the dog?", "answer": answer, "masks": masks})
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "steps": STEPS,
        "batch_size": 4,
        "device_batch_size": 1,
        "learning_rate": 0.001,
        "save_steps": 2,
        "logging_steps": 1,
        "eval_steps": 3,
        "ema": 0.5,
    }
    fields = {
        "name": "tiny",
        # Without refinement: a pixel's weight would jump where rounding moves a logit over 0.
        "initialise": {"model": str(tmp_path / "start"), "settings": {"overlap_weight": 1.0}},
        "data": {"sets": {"my.jsonl": 1}},
        "validation": {"sets": {"my.jsonl": 1}},
        "lora": {"rank": 2, "alpha": 4},
        "stage": {**settings, "bf16": False, "workers": 1, "warmup_steps": 1},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def command(processes: int, recipe: Path, out: Path, sharded: bool = False) -> list[str]:
    launcher = ["-m", "pixellm"]
    if sharded:
        config = ("--config_file", str(CONFIGS / "fsdp2.yaml"), "--num_processes", str(processes))
        launcher = ["-m", "accelerate.commands.launch", *config, str(Path(__file__).with_name("sharded_on_cpu.py"))]
    elif processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *launcher]
    return [sys.executable, *launcher, "train", str(recipe), "--out", str(out)]


def start(*of: Any, **settings: bool) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command(*of, **settings),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(processes: int, recipe: Path, out: Path, sharded: bool = False) -> dict[str, torch.Tensor]:
    process = start(processes, recipe, out, sharded=sharded)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return load_file(out / "model/model.safetensors")


def logs(out: Path) -> list[dict[str, float]]:
    """What was logged at each step."""
    history = json.loads((out / "checkpoints/trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def assert_same(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    """Losses to 1e-5, as fp32 on another number of processes rounds; parts are logged to four digits."""
    assert [entry["step"] for entry in found] == [entry["step"] for entry in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        for part in ("loss_ce", "loss_bce", "loss_dice"):
            assert ours[part] == pytest.approx(theirs[part], abs=2e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


def kill_after_checkpoint(processes: int, recipe: Path, out: Path, sharded: bool = False) -> None:
    """`kill -9` all processes as soon as there is a whole checkpoint."""
    process = start(processes, recipe, out, sharded=sharded)
    deadline = time.monotonic() + 200
    while not list(out.glob("checkpoints/checkpoint-*/complete")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "model").exists()


@pytest.fixture
def recipe_of_a_base(recipe, tmp_path) -> Path:
    """The same with a tiny vision-language model in the place of the paper's assembly."""
    for part in extend(*tiny_vlm("qwen3_vl"), NewParts(decoder_dim=32, mask_grid=8)):
        part.save_pretrained(tmp_path / "base")
    fields = yaml.safe_load(recipe.read_text())
    fields["initialise"] = {"model": str(tmp_path / "base")}
    fields["stage"]["losses"] = {"overlap": 1.0}
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recipe", "recipe_of_a_base"])
def test_processes_kills_and_resuming_change_nothing(name, request, tmp_path) -> None:
    """One process = two; killed on one and on two, and resumed on one: the same losses, step by step, and one model."""
    recipe = request.getfixturevalue(name)
    alone = train(1, recipe, tmp_path / "alone")
    expected = logs(tmp_path / "alone")
    assert len(expected) == STEPS
    together = train(2, recipe, tmp_path / "together")
    assert alone.keys() == together.keys()
    assert_same(logs(tmp_path / "together"), expected)
    for processes in (1, 2):
        out = tmp_path / f"killed on {processes}"
        kill_after_checkpoint(processes, recipe, out)
        resumed = train(1, recipe, out)
        assert_same(logs(out), expected)
        if processes == 1:
            assert all(torch.equal(tensor, resumed[key]) for key, tensor in alone.items())


@pytest.mark.slow
def test_sharding_changes_nothing(recipe, tmp_path) -> None:
    """FSDP2 = one process, step by step; the model is whole; killed while sharded and resumed on one, and back."""
    alone = train(1, recipe, tmp_path / "alone")
    expected = logs(tmp_path / "alone")
    sharded = train(2, recipe, tmp_path / "sharded", sharded=True)
    assert_same(logs(tmp_path / "sharded"), expected)
    assert alone.keys() == sharded.keys()
    assert all(torch.allclose(tensor, sharded[key], atol=1e-3) for key, tensor in alone.items())
    for before, after in ((True, False), (False, True)):
        out = tmp_path / f"sharded {before}, then {after}"
        kill_after_checkpoint(2, recipe, out, sharded=before)
        train(2 if after else 1, recipe, out, sharded=after)
        assert_same(logs(out), expected)
