"""Losses of short trainings, through `pixellm train`."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
import yaml
from safetensors.torch import load_file

from . import ROOT, SHARED, store
from .command import pixellm
from .internals import SHIPPED, save_tiny
from .pictures import example_rows, jsonl

TIMINGS = ("_per_second", "_runtime", "epoch")
COCO = "data/coco_480"


def nano(folder: Path) -> Any:
    """Return ten steps of recipes/nano.yaml, one image each."""
    return _recipe(folder, "nano", {"steps": 10, "batch_size": 1, "device_batch_size": 1, "warmup_steps": 3})


def lisa(folder: Path) -> Any:
    """Return steps of recipes/baseline_lisa.yaml on a few questions of one mask and of several."""
    return _baseline(folder, "baseline_lisa")


def seem(folder: Path) -> Any:
    """Return steps of recipes/baseline_seem.yaml on the same questions."""
    return _baseline(folder, "baseline_seem")


def mini(folder: Path) -> Any:
    """Return steps of the vision stage and of the text stage of pixellm-mini's recipes, from what is shipped."""
    recipes, run = _project(folder), folder / "run"
    stage = {"steps": 2, "batch_size": 2, "save_steps": 2}
    vision = {"learning_rate": 6e-4, "backbone_learning_rate": 1.6e-4, "warmup_steps": 1}
    content = {"base": "mini_text.yaml", "name": "golden-mini", "start": str(SHIPPED), "held_out": [], "recall": None}
    content |= {"vision_stage": vision | stage, "text_stage": stage | {"batch_size": 1, "questions": 2}}
    content |= {"model": {"vision": {"image_size": 192}}, "detector": str(SHARED / "parts/nanodet_g")}
    recipe = recipes / "golden_mini.yaml"
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    with exact_losses() as losses:
        pixellm("train", recipe, "--out", run)
    return {
        "losses": losses,
        "vision": _history(run / "vision/trainer_state.json"),
        "texts": _history(run / "texts/trainer_state.json"),
        "weights": weights(run / "trained/model.safetensors"),
    }


def fine_tune(folder: Path) -> Any:
    """Return steps that `--data` takes with a tiny model and questions about the example images."""
    save_tiny(folder / "tiny")
    data = jsonl(folder, example_rows(folder))
    with exact_losses() as losses:
        pixellm("train", "--data", data, "--model", folder / "tiny", "--steps", 5, "--out", folder / "run")
    return _run(folder / "run", losses)


def fine_tune_mini(folder: Path) -> Any:
    """Return steps of pixellm-mini on the same questions."""
    trained = ["codebook", "pixel_decoder", "pixel_projector", "neck", "class_prompts"]
    return further(folder, "pixellm-mini", jsonl(folder, example_rows(folder)), steps=5, trained=trained)


def further(folder: Path, model: str, data: Path, **stage: Any) -> Any:
    """Return steps of a whole model by a recipe, in float32, each of two images that are taken one by one."""
    stage = {"batch_size": 2, "device_batch_size": 1, "learning_rate": 1e-3, "warmup_steps": 1, **stage}
    content = {"start": {"model": model}, "data": {"sets": {data.name: 1}}, "lora": {"rank": 2, "alpha": 4}}
    return _trained(folder, folder / "golden.yaml", content | {"name": "golden", "stage": stage})


def _recipe(folder: Path, base: str, stage: dict[str, Any]) -> Any:
    """Return a training by a published recipe that is shortened, in float32: bfloat16 is slow on many CPUs."""
    content = {"base": f"{base}.yaml", "name": f"golden-{base}", "stage": stage, "validation": None}
    return _trained(folder, _project(folder) / f"golden_{base}.yaml", content)


def _trained(folder: Path, recipe: Path, content: dict[str, Any]) -> Any:
    """Return a training by a recipe that is written first."""
    stage = {"logging_steps": 1, "workers": 0, "save_steps": 100, "bf16": False, **content["stage"]}
    recipe.write_text(yaml.safe_dump(content | {"stage": stage}), encoding="utf-8")
    with exact_losses() as losses:
        pixellm("train", recipe, "--out", folder / "run")
    return _run(folder / "run", losses)


def _baseline(folder: Path, base: str) -> Any:
    data = folder / "project/runs/baselines/data"
    data.mkdir(parents=True)
    rows = _coco_rows(images=12)
    jsonl(data, rows, "reasoning.jsonl")
    jsonl(data, [row for row in rows if len(row["masks"]) == 1], "reasoning_single.jsonl")
    jsonl(data, [row | {"answer": row["answer"].replace(" {seg}", ""), "masks": []} for row in rows], "words.jsonl")
    return _recipe(folder, base, {"steps": 3, "batch_size": 1, "device_batch_size": 1, "warmup_steps": 2})


def _coco_rows(images: int) -> list[dict[str, Any]]:
    """Return questions for the first category of an image, and for all of its categories but the first."""
    data = json.loads((SHARED / COCO / "instances_train.json").read_text(encoding="utf-8"))
    names = {one["id"]: one["name"] for one in data["categories"]}
    rows = []
    for image in data["images"][:images]:
        things: dict[str, Any] = {}
        for one in data["annotations"]:
            if one["image_id"] == image["id"] and not one.get("iscrowd"):
                things.setdefault(names[one["category_id"]], one["segmentation"])
        first, *others = things
        for chosen in ([first], others[:3]):
            if chosen:
                answer = " and ".join(f"the {name} {{seg}}" for name in chosen)
                row = {"image": str(SHARED / COCO / "images" / image["file_name"]), "answer": f"It is {answer}."}
                rows.append(row | {"question": "What could be used here?", "masks": [things[name] for name in chosen]})
    return rows


def _project(folder: Path) -> Path:
    """Return the recipes of a project beside the shared data, as their paths expect it."""
    recipes = folder / "project/recipes"
    shutil.copytree(ROOT / "recipes", recipes)
    (folder / "shared").symlink_to(SHARED)
    return recipes


@contextlib.contextmanager
def exact_losses() -> Iterator[list[float]]:
    """Collect the loss of every batch: the log rounds it."""
    losses: list[float] = []
    step = transformers.Trainer.training_step

    def keeping(self: transformers.Trainer, *arguments: Any, **named: Any) -> torch.Tensor:
        loss = step(self, *arguments, **named)
        losses.append(float(loss))
        return loss

    with patch.object(transformers.Trainer, "training_step", keeping):
        yield losses


def _run(out: Path, losses: Sequence[float]) -> dict[str, Any]:
    return {
        "losses": list(losses),
        "log": _history(out / "checkpoints/trainer_state.json"),
        "metrics": json.loads((out / "run.json").read_text(encoding="utf-8"))["metrics"],
        "weights": weights(out / "model/model.safetensors"),
    }


def _history(path: Path) -> list[dict[str, Any]]:
    """Return what was logged, without times."""
    rows = json.loads(path.read_text(encoding="utf-8"))["log_history"]
    return [{key: one for key, one in row.items() if not key.endswith(TIMINGS)} for row in rows]


def weights(path: Path) -> dict[str, dict[str, Any]]:
    """Return a digest and the norm of each part of a model."""
    parts: dict[str, list[tuple[str, torch.Tensor]]] = {}
    for key, tensor in sorted(load_file(path).items()):
        parts.setdefault(key.partition(".")[0], []).append((key, tensor))
    return {part: _part(tensors) for part, tensors in parts.items()}


def _part(tensors: Sequence[tuple[str, torch.Tensor]]) -> dict[str, Any]:
    content = b"".join(f"{key} {t.dtype} {tuple(t.shape)}".encode() + raw(t) for key, t in tensors)
    total = sum(float(tensor.double().square().sum()) for _, tensor in tensors)
    return {"tensors": len(tensors), "norm": total**0.5, "sha256": store.digest(content)}


def raw(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
