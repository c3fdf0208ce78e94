"""Check on a GPU what a CPU can't show of models on other bases: equality with the CPU, times, memory of a QLoRA step.

1. equality: tiny models of several families in float32 and bfloat16, and LLaVA-1.5-7B's size in bfloat16, on both
   devices; the largest difference of states and mask logits over their largest value, and whether answers are the same.
2. answer: text with four masks by LLaVA-1.5-7B's size, with and without CUDA graphs, over the base's own `generate` of
   as many tokens.
3. qlora: peak of the allocator in a QLoRA step of Qwen3-VL-8B's size, beside the plan of `pixellm train --memory`.

All weights are random. It is made for one GPU of 48 GB and 32 GB of memory, and for less than ten minutes.

    python -m benchmarks.gpu [--out gpu.json]
    python -m benchmarks.gpu --dry                 # on a CPU with tiny models: shows that it runs, and nothing else
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from transformers import AutoModel, CLIPImageProcessor, LlavaConfig, Qwen2VLImageProcessor

from benchmarks.speed.task import Script
from benchmarks.speed.ways import seconds_of
from pixellm.backbones import BackboneConfig, BackboneProcessor
from pixellm.backbones.create import NewParts, extend
from pixellm.backbones.kind import BackboneKind
from pixellm.backbones.modeling import ImageInputs
from pixellm.backbones.predictor import BackbonePredictor
from pixellm.backbones.presets import qwen3_vl_8b
from pixellm.cost.fit import load_of_row, plan_for
from pixellm.inference import cuda_graphs
from pixellm.inference.quantization import layer_config, let_gradients_through, quantised_layers, use_kernels
from pixellm.model.processing import add_codebook_tokens
from pixellm.train.model_kind import WholeModel
from pixellm.train.recipe import AdapterConfig, ModelSource, Recipe, TrainingData, TrainingStage
from pixellm.train.run import prepare
from pixellm.types import Conversation, Sample, Target
from tests.support.tiny_vlms import let_it_write_masks, position_image, tiny_vlm

FAMILIES = ("qwen3_vl", "gemma3", "llava", "qwen2_5_vl", "internvl", "qwen3_5")
TARGETS, WORDS = 4, 10  # masks of an answer, and text tokens before each
REPEATS = 5
QUESTION = "What is the dog in this image?"
Made = tuple[Any, BackboneProcessor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="run on a CPU with tiny models, to try the script")
    parser.add_argument("--out", type=Path, help="file for the results, as JSON")
    arguments = parser.parse_args()
    if not arguments.dry and not torch.cuda.is_available():
        raise SystemExit("expected an NVIDIA GPU, found none: nothing was measured. --dry tries the script on a CPU.")
    device = torch.device("cpu" if arguments.dry else "cuda")
    name = "cpu, tiny models: no measurement" if arguments.dry else torch.cuda.get_device_name()
    report: dict[str, Any] = {"device": name, "torch": torch.__version__}
    for stage in (equality, answer, qlora):
        began = time.perf_counter()
        report[stage.__name__] = stage(device, arguments.dry)
        report[stage.__name__]["seconds"] = round(time.perf_counter() - began, 1)
        print(stage.__name__, json.dumps(report[stage.__name__], indent=1), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


# Models


def tiny(family: str) -> Made:
    model, processor = extend(*tiny_vlm(family), NewParts(decoder_dim=32, mask_grid=8))
    let_it_write_masks(model, processor)
    return model, processor


def llava_7b(device: torch.device) -> Made:
    """LLaVA-1.5-7B: transformers' defaults are its sizes."""
    _, base = tiny_vlm("llava")
    base.image_processor = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    return _full_size(LlavaConfig(), base, device)


def qwen3_8b(device: torch.device) -> Made:
    _, base = tiny_vlm("qwen3_vl")
    sizes = {"shortest_edge": 65536, "longest_edge": 16777216}  # pixels, as Qwen3-VL's own
    base.image_processor = Qwen2VLImageProcessor(patch_size=16, merge_size=2, size=sizes)
    return _full_size(qwen3_vl_8b().base_config, base, device)


def _full_size(config: Any, base: Any, device: torch.device) -> Made:
    """Random bf16 weights, made where they stay; the tokenizer is a tiny one, whose ids the configuration gets."""
    tokenizer = base.tokenizer
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {f"vision_{place}_token_id": f"<|vision_{place}|>" for place in ("start", "end")}
    if config.model_type == "llava":
        names = {"image_token_id": "<image>"}
    for field, token in names.items():
        setattr(config, field, tokenizer.convert_tokens_to_ids(token))
    tokens = add_codebook_tokens(tokenizer, 6)
    ids = tuple(tokenizer.convert_tokens_to_ids(tokens))
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModel.from_config(BackboneConfig(config, codebook_ids=ids), dtype=torch.bfloat16)
    return model.eval(), BackboneProcessor(base, config.model_type, tokens, [tokenizer.eos_token_id])


def sample(side: int = 1) -> Sample:
    """An image of 80 × 60 pixels times `side` with two conversations and two masks."""
    mask = np.zeros((2, 60 * side, 80 * side), dtype=bool)
    mask[0, 10 * side : 30 * side, 10 * side : 40 * side] = mask[1, 30 * side : 50 * side, 50 * side : 70 * side] = True
    turns = (
        Conversation(QUESTION, "It is the dog {seg} and the cat {seg}.", mask),
        Conversation("Where is the table?", "There is none.", mask[:0]),
    )
    return Sample(position_image(60 * side, 80 * side), turns)


# Equality with the CPU


def equality(device: torch.device, dry: bool) -> dict[str, Any]:
    """Compare a teacher-forced pass on both devices, and the answers of tiny models in float32."""
    found: dict[str, Any] = {}
    for family in FAMILIES[:2] if dry else FAMILIES:
        for dtype in (torch.float32, torch.bfloat16):
            found[f"tiny {family} {dtype}"] = _differences(tiny(family), dtype, device, side=1)
        model, processor = tiny(family)
        image, texts = sample().image, []
        for place in (torch.device("cpu"), device):
            given = BackbonePredictor(model.to(place), processor)(image, QUESTION, max_new_tokens=24)
            texts.append(given.token_ids)
        found[f"tiny {family} {torch.float32}"]["same answer"] = texts[0] == texts[1]
    if not dry:
        found["llava-1.5-7b torch.bfloat16"] = _differences(llava_7b(device), torch.bfloat16, device, side=6)
    return found


def _differences(made: Made, dtype: torch.dtype, device: torch.device, side: int) -> dict[str, float]:
    """Largest difference of last-layer states and mask logits between the CPU and a device, over the largest value."""
    model, processor = made
    batch, passes = processor([sample(side)]), []
    for place in (torch.device("cpu"), device):
        predictor = BackbonePredictor(model.to(place, dtype), processor)
        with torch.inference_mode():
            states = predictor.forward_states(batch)
        passes.append((states.hidden.float().cpu(), states.mask_logits[0].float().cpu()))
    names = ("states", "mask logits")
    return {name: _relative(*both) for name, both in zip(names, zip(*passes, strict=True), strict=True)}


def _relative(one: Tensor, other: Tensor) -> float:
    return float(f"{float((one - other).abs().max() / one.abs().max()):.2g}")


# Time of an answer


def answer(device: torch.device, dry: bool) -> dict[str, Any]:
    """Time ours from image to masks, and the base's `generate` of as many tokens, all of them forced."""
    model, processor = tiny("llava") if dry else llava_7b(device)
    predictor, image = BackbonePredictor(model, processor), position_image(480, 640)
    words = processor.answer_ids("the dog " * WORDS)[:WORDS]
    ids = [*(i for _ in range(TARGETS) for i in (*words, *processor.codebook_ids)), *processor.eos_ids]
    prompt = processor.prompt_ids(QUESTION)
    script = Script(len(processor.text_ids) + len(prompt), ids)
    options: dict[str, Any] = {"processors": (script,), "max_new_tokens": len(ids), "no_repeat_ngram_size": 0}

    def ours() -> None:
        predictor.set_image(image)
        masks = [event for event in predictor.stream(QUESTION, **options) if isinstance(event, Target)]
        assert len(masks) == TARGETS

    def plain() -> None:
        with patch.object(cuda_graphs, "recordable", return_value=False):
            ours()

    inputs = processor.image_inputs(image).to(device)
    row = torch.tensor([[*inputs.prefix_ids, *prompt]], device=device)
    pixels = {name: value.to(model.dtype) for name, value in inputs.pixels.items()}

    def generated(count: int) -> Callable[[], None]:
        forced = Script(row.shape[1], ids[:count])
        settings: dict[str, Any] = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
        settings |= {"attention_mask": torch.ones_like(row), "logits_processor": [forced], "pad_token_id": 0}
        return lambda: model.backbone.generate(input_ids=row, **pixels, **settings)

    with torch.inference_mode():
        ways = {"graphs": ours, "no graphs": plain, "base, all tokens": generated(len(ids))}
        ways["base, text alone"] = generated(TARGETS * WORDS)
        times = {name: _median(way) for name, way in ways.items()}
    base = times["base, all tokens"]
    shares = {f"{name} / base, all tokens": round(value / base, 3) for name, value in times.items()}
    recorded = cuda_graphs.recordable(model)
    return {"tokens": len(ids), "graphs recorded": recorded, "medians": times} | shares


def _median(way: Callable[[], None]) -> float:
    """Median of seconds, the first two runs left out: kernels are chosen, and graphs recorded, then."""
    times = [seconds_of(way) for _ in range(REPEATS + 2)]
    return round(statistics.median(times[2:]), 4)


# Memory of a QLoRA step


def qlora(device: torch.device, dry: bool) -> dict[str, Any]:
    """Run two steps of one image with gradient checkpointing, and take the second's peak beside the plan."""
    from torchao.quantization import quantize_

    model, processor = tiny("qwen3_vl") if dry else qwen3_8b(device)
    model, config, kind = model.to(torch.bfloat16), model.config, BackboneKind()
    for layer in quantised_layers(model.text_model).values():
        quantize_(layer, layer_config("int4", layer.in_features, device))
    if device.type == "cpu":
        use_kernels(model.text_model)
    let_gradients_through(model.text_model)
    stage = TrainingStage(
        steps=2, batch_size=1, device_batch_size=1, learning_rate=1e-3, gradient_checkpointing=True, ema=0.0
    )
    lora = AdapterConfig(quantize="int4")
    prepare(model, kind, stage, lora)
    batch = processor([sample(1 if dry else 12)])  # 960 × 720 pixels
    recipe = Recipe("gpu", ModelSource(), TrainingData({}), stage, lora)
    source = WholeModel(kind, Path(), {})
    plan = plan_for(recipe, source, config, load_of_row(batch, config), 0, "cuda")
    _steps(model.train(), batch, device, stage.steps)
    needs = {name: size for name, size in plan.needs.items() if name != "CUDA"}  # the allocator does not see it
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    planned = {name: round(size / 1e9, 3) for name, size in needs.items()}
    return {"tokens": batch.input_ids.shape[1], "peak_bytes": peak, "planned_bytes": sum(needs.values())} | planned


def _steps(model: Any, batch: Any, device: torch.device, count: int) -> None:
    moved = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor | ImageInputs) else leaf, vars(batch))
    optimiser = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3)
    for _ in range(count):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(**moved).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert bool(loss.isfinite()), "expected a finite loss"


if __name__ == "__main__":
    main()
