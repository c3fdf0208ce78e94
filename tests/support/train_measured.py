"""Train a model in this process; print the planned and the measured peak of its memory as JSON.

python tests/support/train_measured.py paper|vlm lora|checkpointing|qlora tiny|middle FOLDER
"""

import json
import logging
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from pixellm.backbones import BackboneProcessor
from pixellm.backbones.create import NewParts, extend
from pixellm.cost.fit import plan_for, row_load
from pixellm.model import PixelLMConfig, PixelLMForConditionalGeneration, PixelLMVisionConfig
from pixellm.train import run
from pixellm.train.recipe import Recipe
from pixellm.train.run import train, tuning_recipe
from pixellm.training import KNOWN_MODELS
from pixellm.utils.allocator import TENSOR_BYTES, return_freed_memory
from pixellm.utils.model_files import read_config
from tests.support import tiny, tiny_vlms
from tests.support.shapes import write_scenes

TEXT: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}
SIZES: dict[str, dict[str, Any]] = {"tiny": {}, "middle": TEXT}


def write_paper(folder: Path, text: dict[str, Any]) -> None:
    clip = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6}
    vision = PixelLMVisionConfig(kind="clip", image_size=224, clip=clip | {"patch_size": 14}, hidden_layers=(-2, -4))
    config = tiny.clip_config()
    config = PixelLMConfig(
        vision,
        type(config.text_config)(**(config.text_config.to_dict() | text)),
        codebook_ids=config.codebook_ids,
        num_scales=2,
        tokens_per_scale=3,
        llm_grid=16,
    )
    torch.manual_seed(0)
    PixelLMForConditionalGeneration(config).save_pretrained(folder)
    tiny.tiny_processor(image_size=224, num_image_tokens=256).save_pretrained(folder)


def write_vlm(folder: Path, text: dict[str, Any]) -> None:
    tiny_vlms.TEXT.update(text)
    tiny_vlms.QWEN_VISION.update(hidden_size=256, intermediate_size=1024, out_hidden_size=text.get("hidden_size", 32))
    model, processor = extend(*tiny_vlms.tiny_vlm("qwen3_vl"), NewParts())
    assert isinstance(processor, BackboneProcessor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def resident(field: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most since the last reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(field))
    return 1024 * int(line.split()[1])


def write_start(name: str, folder: Path, text: dict[str, Any]) -> None:
    {"paper": write_paper, "vlm": write_vlm}[name](folder / "start", text)
    write_scenes(folder / "data", 8, side=448)


def recipe_of(settings: str, folder: Path) -> Recipe:
    recipe = tuning_recipe(folder / "data/my.jsonl", str(folder / "start"), "measured", KNOWN_MODELS, steps=2)
    stage = replace(
        recipe.stage, device_batch_size=2, batch_size=4, workers=0, gradient_checkpointing=settings == "checkpointing"
    )
    lora = replace(recipe.lora, quantize="int4" if settings == "qlora" else None)
    return replace(recipe, stage=stage, lora=lora)


def measure(settings: str, folder: Path) -> dict[str, Any]:
    """Train in this process, which has done nothing else.

    Returns:
        What the plan says in all and part by part; the process's memory before, and its peaks while it planned, while
        it trained, and while the result was written.
    """
    return_freed_memory(TENSOR_BYTES)
    recipe = recipe_of(settings, folder)
    before = resident("VmRSS")
    source: Any = KNOWN_MODELS.open(recipe.initialise)
    config = read_config(source.directory)
    plan = plan_for(recipe, source, config, row_load(recipe, source, config), 0, "cpu")
    peaks: dict[str, int] = {"planning": resident("VmHWM")}
    save = run._save

    def saved(*arguments: Any) -> None:
        peaks["measured"] = resident("VmHWM")
        _reset_peak()
        save(*arguments)

    run._save = saved
    _reset_peak()
    train(recipe, folder / "run", KNOWN_MODELS)
    return {"planned": plan.total, "needs": plan.needs, "before": before, **peaks, "saving": resident("VmHWM")}


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def in_a_child(call: Callable[[], None]) -> None:
    """Run a call in a process of its own, whose memory is gone afterwards."""
    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"expected a model to be written, got exit code {process.exitcode}")


def main() -> None:
    name, settings, size, folder = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
    logging.disable(logging.WARNING)
    in_a_child(partial(write_start, name, folder, SIZES[size]))
    print(json.dumps(measure(settings, folder)))


if __name__ == "__main__":
    main()
