"""Training on several processes (gloo, on one machine), started as users start it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import trees

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
    settings = {"steps": STEPS, "batch_size": 4, "device_batch_size": 1, "learning_rate": 0.001, "save_steps": 2}
    fields = {
        "name": "tiny",
        "start": {"model": str(tmp_path / "start")},
        "data": {"sets": {"my.jsonl": 1}},
        "lora": {"rank": 2, "alpha": 4},
        "stage": {**settings, "bf16": False, "workers": 1, "warmup_steps": 1},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def command(processes: int, recipe: Path, out: Path) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return [sys.executable, *launcher, "-m", "pixellm", "train", str(recipe), "--out", str(out)]


def start(processes: int, recipe: Path, out: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command(processes, recipe, out), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def train(processes: int, recipe: Path, out: Path) -> dict[str, torch.Tensor]:
    process = start(processes, recipe, out)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return load_file(out / "model/model.safetensors")


def state(out: Path) -> dict:
    return json.loads((out / "checkpoints/trainer_state.json").read_text())


def test_two_processes_are_one(recipe, tmp_path) -> None:
    """With the same images a step: the same losses, the same whole model in one file."""
    one, two = train(1, recipe, tmp_path / "one"), train(2, recipe, tmp_path / "two")
    assert one.keys() == two.keys()
    (single,), (double,) = ([e for e in state(tmp_path / n)["log_history"] if "loss" in e] for n in ("one", "two"))
    for key in ("loss", "loss_ce", "loss_bce", "loss_dice", "grad_norm"):
        assert double[key] == pytest.approx(single[key], rel=1e-4 if key == "grad_norm" else 1e-5, abs=1e-4), key


def test_killed_and_resumed_on_another_number_of_processes(recipe, tmp_path) -> None:
    """`kill -9` after the first checkpoint on two processes; one goes on, and the losses are those of an unbroken run."""
    train(1, recipe, tmp_path / "whole")
    process = start(2, recipe, tmp_path / "killed")
    deadline = time.monotonic() + 200
    while not list((tmp_path / "killed").glob("checkpoints/checkpoint-*/complete")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed/model").exists()
    train(1, recipe, tmp_path / "killed")
    (whole,), (resumed,) = ([e for e in state(tmp_path / n)["log_history"] if "loss" in e] for n in ("whole", "killed"))
    assert resumed["step"] == whole["step"] == STEPS
    assert resumed["loss"] > 0
