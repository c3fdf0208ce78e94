"""pixellm-7b with random weights, really run: made, saved in shards, loaded at bf16, int8 and int4, and asked.

The answer's ids are forced: text with two masks. Each stage is a process of its own, whose peak memory the operating
system tells. Checkpoint and results of finished stages are kept in DIR (14 GB): the same command goes on.

    python -m benchmarks.full_size --dir DIR [--layers 2] [--again]
"""

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.models import FULL, word_processor
from benchmarks.speed.task import Task, task
from pixellm.checkpoints.presets import pixellm_7b
from pixellm.cost.breakdown import Scenario
from pixellm.cost.language import LanguageCostModel
from pixellm.cost.memory import BatchScenario, LoadOptions, plan_memory
from pixellm.cost.report import TextTable
from pixellm.eval.comparison import write_into
from pixellm.inference.generation import Decoding
from pixellm.model import PixelLMForConditionalGeneration
from pixellm.predictor import AnswerDecoder, Predictor
from pixellm.segmenter import load
from pixellm.utils.cache import build_once
from pixellm.utils.files import write_text

ROOT = Path(__file__).parents[1]
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results" / "full_size.json", ROOT / "docs" / "memory.md"
TARGETS = 2
ANSWERS = 3
LIMIT = 17e9  # bytes that a process may have at most
STAGES = ("make", "bf16", "int8", "int4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--layers", type=int, help="of the language model, in place of 32: to try this out")
    parser.add_argument("--again", action="store_true", help="answer again, with the checkpoint that is there")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    checkpoint = arguments.dir / (f"layers-{arguments.layers}" if arguments.layers else "checkpoint")
    if arguments.stage:
        made = arguments.stage == "make"
        result = make(checkpoint, arguments.layers) if made else answer(checkpoint, arguments.stage)
        write_text(_result(checkpoint, arguments.stage), json.dumps(result))
        return
    arguments.dir.mkdir(parents=True, exist_ok=True)
    stages = {}
    for stage in STAGES:
        path = _result(checkpoint, stage)
        if not path.is_file() or (arguments.again and stage != "make"):
            subprocess.run([sys.executable, "-m", "benchmarks.full_size", *sys.argv[1:], "--stage", stage], check=True)
        stages[stage] = json.loads(path.read_text(encoding="utf-8"))
        print(stage, json.dumps(stages[stage], indent=1), flush=True)
    report = {"layers": arguments.layers or pixellm_7b().text_config.num_hidden_layers, "stages": stages}
    write_text(checkpoint.with_suffix(".json") if arguments.layers else RESULTS, json.dumps(report, indent=1) + "\n")
    if arguments.layers:
        print(table(stages))
    else:
        write_into(DOCUMENT, table(stages), "full-size")
    if above := [stage for stage, result in stages.items() if result["peak_bytes"] > LIMIT]:
        raise SystemExit(f"expected at most {LIMIT:.3g} bytes in each stage, got more in {', '.join(above)}")


def table(stages: dict[str, Any]) -> str:
    """Peaks beside what was planned; the quickest answers' times, as shares of those with bf16 weights."""
    kinds, parts = STAGES[1:], ("encode", "prefill", "text", "group", "mask")
    seconds = {
        kind: {part: min(answer["seconds_each"][part] for answer in stages[kind]["answers"]) for part in parts}
        for kind in kinds
    }
    names = ("reading an image", "prefill", "a text token", "a target's tokens", "a mask")
    lines = []
    for kind in kinds:
        peak, planned = (f"{stages[kind][name] / 1e9:.1f} GB" for name in ("peak_bytes", "planned_bytes"))
        shares = [f"{seconds[kind][part] / seconds['bf16'][part]:.2f}" for part in parts]
        lines.append((kind, peak, planned, *shares))
    return TextTable("", ("weights", "peak", "planned", *names), tuple(lines)).markdown()


def _result(checkpoint: Path, stage: str) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}-{stage}.json")


# A checkpoint


def make(checkpoint: Path, layers: int | None) -> dict[str, Any]:
    """Write the checkpoint, whole or not at all."""
    seconds: dict[str, float] = {}

    def build(out: Path, _scratch: Path) -> None:
        config = pixellm_7b()
        config.text_config.num_hidden_layers = layers or config.text_config.num_hidden_layers
        with timed(seconds, "initialise"):
            model = random_model(config)
        with timed(seconds, "save"):
            model.save_pretrained(out, max_shard_size="2GB")
            word_processor(config).save_pretrained(out)

    build_once(checkpoint, build)
    files = list(checkpoint.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    return {"seconds": seconds, "shards": len(files), "weight_bytes": size, "peak_bytes": status("VmHWM")}


@torch.no_grad()
def random_model(config) -> PixelLMForConditionalGeneration:
    """bf16 weights, each drawn where it stays."""
    with torch.device("meta"):
        model = PixelLMForConditionalGeneration(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or name.endswith((".bias", "running_mean")):
            tensor.zero_()
        elif (tensor.ndim < 2 and "norm" in name) or name.endswith("running_var"):
            tensor.fill_(1)
        else:
            bound = (3 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 1.0
            tensor.uniform_(-bound, bound, generator=generator)
    return model.eval()


# An answer


def answer(checkpoint: Path, kind: str) -> dict[str, Any]:
    """Load the checkpoint and answer several times: at first weights that are mapped come from the disk."""
    loaded = LoadOptions(torch.bfloat16, None if kind == "bf16" else kind)
    process, loading = status("VmRSS"), {}
    with timed(loading, "load"):
        predictor = load(checkpoint, dtype=loaded.dtype, quantize=loaded.quantize)
    loaded_bytes = status("VmRSS")
    asked = task(predictor, FULL, TARGETS)
    answers = [answer_once(predictor, asked) for _ in range(ANSWERS)]
    system = LanguageCostModel(kind, predictor.model.config)
    shared = len(predictor.processor.prefix_ids) - system.image_tokens
    text = len(asked.answer) - TARGETS * len(predictor.processor.codebook_ids)
    scenario = Scenario(shared + len(asked.prompt), text, TARGETS, system_tokens=shared)
    plan = plan_memory(system, loaded, BatchScenario(1, scenario, (asked.photograph.height, asked.photograph.width)))
    return {
        "threads": torch.get_num_threads(),
        "seconds": loading,
        "tokens": {"image and system": system.image_tokens + shared, "question": len(asked.prompt), "text": text},
        "answers": answers,
        "process_bytes": process,
        "loaded_bytes": loaded_bytes,
        "peak_bytes": status("VmHWM"),
        "planned_bytes": plan.total,
    }


@torch.inference_mode()
def answer_once(predictor: Predictor, asked: Task) -> dict[str, Any]:
    """Seconds by part, and the shapes of what came out."""
    model, processor, photograph = predictor.model, predictor.processor, asked.photograph
    seconds: dict[str, list[float]] = defaultdict(list)
    with timing(seconds, "encode", model, "encode_images"), timed(seconds, "encode and prefill"):
        prefix = predictor.encode([photograph])
    decoding = Decoding(model, processor.eos_ids)
    decoding.join([0], prefix, [0], [asked.prompt], predictor.settings(**asked.options))
    decoder = AnswerDecoder(predictor, asked.question, photograph, prefix)
    part = "question"
    while decoding:
        start = time.perf_counter()
        steps = list(decoding.step())
        group = any(step.states is not None for step in steps)
        seconds["group" if group else part].append(time.perf_counter() - start)
        part = "text"
        with timed(seconds, "mask" if group else "words"):
            for step in steps:
                decoder.events(step)
    found = decoder.builder.finish()
    assert [*found.token_ids, *processor.eos_ids] == asked.answer
    shapes = [list(target.mask.shape) for target in found.targets]
    assert shapes == [[photograph.height, photograph.width]] * TARGETS, shapes
    means = {name: round(sum(times) / len(times), 4) for name, times in seconds.items()}
    means["prefill"] = round(means.pop("encode and prefill") - means["encode"], 4)
    steps = {name: len(seconds[name]) for name in ("text", "group")}
    return {"seconds_each": means, "steps": steps, "mask_shapes": shapes}


@contextmanager
def timing(seconds: dict[str, Any], name: str, owner: Any, method: str) -> Iterator[None]:
    """Keep how long a method takes whenever it is called meanwhile."""
    original = getattr(owner, method)

    def measured(*arguments):
        with timed(seconds, name):
            return original(*arguments)

    setattr(owner, method, measured)
    try:
        yield
    finally:
        delattr(owner, method)


@contextmanager
def timed(seconds: dict[str, Any], name: str) -> Iterator[None]:
    """Keep how long something takes; in a list where there may be several."""
    start = time.perf_counter()
    yield
    taken = round(time.perf_counter() - start, 4)
    if isinstance(seconds, defaultdict):
        seconds[name].append(taken)
    else:
        seconds[name] = taken


def status(field: str) -> int:
    """Bytes, as Linux counts them for this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
