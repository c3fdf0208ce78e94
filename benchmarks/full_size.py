"""pixellm-7b with random weights, really run: made, saved in shards, loaded at bf16, int8 and int4, and asked.

The answer's ids are forced: text with two masks. Each stage is a process of its own, whose peak memory the operating
system tells. Checkpoint and results of finished stages are kept in DIR (14 GB): the same command goes on.

    python benchmarks/full_size.py --dir DIR [--layers 2] [--again]
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
from decoding import Script
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pixellm.cost.language import LanguageSystem
from pixellm.cost.plan import Loaded, Use, make_plan
from pixellm.cost.scenario import Scenario
from pixellm.embedded import build_once
from pixellm.files import write_text
from pixellm.images import load_image
from pixellm.model import PixelLMForConditionalGeneration, PixelLMImageProcessor, PixelLMProcessor
from pixellm.model.generation import Decoding, Sampling, encode_prefix
from pixellm.model.presets import pixellm_7b
from pixellm.model.processing import add_codebook_tokens
from pixellm.model.templates import VICUNA
from pixellm.predictor import AnswerDecoder, Predictor

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "full_size.json"
PHOTOGRAPH, QUESTION = "example:coffee", "What stands on the table? Please output segmentation masks."
ANSWER = "On the table there is a cup {seg} of coffee, and below it the saucer {seg}."
TEXT_VOCABULARY = 32_000  # LLaMA's
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
        result = (
            make(checkpoint, arguments.layers) if arguments.stage == "make" else answer(checkpoint, arguments.stage)
        )
        write_text(_result(checkpoint, arguments.stage), json.dumps(result))
        return
    arguments.dir.mkdir(parents=True, exist_ok=True)
    stages = {}
    for stage in STAGES:
        path = _result(checkpoint, stage)
        if not path.is_file() or (arguments.again and stage != "make"):
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--stage", stage], check=True)
        stages[stage] = json.loads(path.read_text(encoding="utf-8"))
        print(stage, json.dumps(stages[stage], indent=1), flush=True)
    report = {"layers": arguments.layers or pixellm_7b().text_config.num_hidden_layers, "stages": stages}
    write_text(checkpoint.with_suffix(".json") if arguments.layers else RESULTS, json.dumps(report, indent=1) + "\n")
    if above := [stage for stage, result in stages.items() if result["peak_bytes"] > LIMIT]:
        raise SystemExit(f"expected at most {LIMIT:.3g} bytes in each stage, got more in {', '.join(above)}")


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
            random_processor(config).save_pretrained(out)

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


def random_processor(config) -> PixelLMProcessor:
    """As PixelLM-7B's, but with words from this repository's documentation, filled up to LLaMA's number."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(path) for path in sorted(ROOT.glob("docs/**/*.md"))], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    wrapped.add_tokens([f"<unused{i}>" for i in range(TEXT_VOCABULARY - len(wrapped))])
    markers = ["<im_patch>", "<im_start>", "<im_end>"]
    wrapped.add_tokens([AddedToken(token, special=True, normalized=False) for token in markers], special_tokens=True)
    codebook = add_codebook_tokens(wrapped, len(config.codebook_ids))
    assert wrapped.convert_tokens_to_ids(codebook) == config.codebook_ids
    pixels = PixelLMImageProcessor(image_size=config.vision_config.image_size)
    return PixelLMProcessor(pixels, wrapped, codebook, config.num_image_tokens, **VICUNA)


# An answer


def answer(checkpoint: Path, kind: str) -> dict[str, Any]:
    """Load the checkpoint and answer twice: the first time weights that are mapped come from the disk."""
    process, loading = status("VmRSS"), {}
    with timed(loading, "load"):
        predictor = Predictor.load(checkpoint, dtype=torch.bfloat16, quantize=None if kind == "bf16" else kind)
    loaded = status("VmRSS")
    photograph = load_image(PHOTOGRAPH)
    rounds = [answer_once(predictor, photograph) for _ in range(2)]
    first = rounds[0]
    plan = make_plan(
        LanguageSystem(kind, predictor.model.config),
        Loaded(torch.bfloat16, None if kind == "bf16" else kind),
        Use(1, first["scenario"], (photograph.height, photograph.width)),
    )
    return {
        "threads": torch.get_num_threads(),
        "seconds": loading,
        "answers": [{key: value for key, value in one.items() if key != "scenario"} for one in rounds],
        "process_bytes": process,
        "loaded_bytes": loaded,
        "peak_bytes": status("VmHWM"),
        "planned_bytes": plan.total,
    }


@torch.inference_mode()
def answer_once(predictor: Predictor, photograph) -> dict[str, Any]:
    """Seconds by part, and the shapes of what came out."""
    model, processor = predictor.model, predictor.processor
    prompt, wanted = processor.prompt_ids(QUESTION), processor.answer_ids(ANSWER)
    seconds: dict[str, list[float]] = defaultdict(list)
    inputs = processor.images([photograph])
    pixels = inputs["pixel_values"].to(model.dtype)
    encode = model.encode_images

    def timed_encode(*arguments):
        with timed(seconds, "encode"):
            return encode(*arguments)

    model.encode_images = timed_encode
    with timed(seconds, "encode and prefill"):
        prefix = encode_prefix(model, pixels, inputs["resized_hw"], processor.prefix_ids)
    model.encode_images = encode
    script = Script(len(prefix.text_ids) + len(prompt), wanted)
    sampling = Sampling(max_new_tokens=len(wanted) + 1, processors=(script,))
    decoding = Decoding(model, processor.eos_ids)
    decoding.join([0], prefix, [0], [prompt], sampling)
    decoder = AnswerDecoder(predictor, QUESTION, photograph, prefix)
    part = "question"
    while decoding:
        start = time.perf_counter()
        steps = list(decoding.step())
        group = any(step.states is not None for step in steps)
        seconds["group" if group else part].append(time.perf_counter() - start)
        part = "text"
        with timed(seconds, "mask" if group else "events"):
            for step in steps:
                decoder.events(step)
    found = decoder.builder.finish()
    assert [*found.token_ids, *processor.eos_ids] == wanted
    shapes = [list(target.mask.shape) for target in found.targets]
    assert shapes == [[photograph.height, photograph.width]] * 2, shapes
    means = {name: round(sum(times) / len(times), 4) for name, times in seconds.items() if name != "events"}
    means["prefill"] = round(means.pop("encode and prefill") - means["encode"], 4)
    text = len(found.token_ids) - 2 * len(processor.codebook_ids)
    return {
        "seconds_each": means,
        "steps": {name: len(seconds[name]) for name in ("text", "group")},
        "tokens": {"prefix": len(processor.prefix_ids), "question": len(prompt), "text": text},
        "mask_shapes": shapes,
        "text": found.text,
        "scenario": Scenario(
            len(processor.prefix_ids) - processor.num_image_tokens + len(prompt),
            text,
            2,
            system_tokens=len(processor.prefix_ids) - processor.num_image_tokens,
        ),
    }


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
