"""Epochs of a training whose vision features are kept on disk, over epochs without: the first writes, later ones read.

An epoch is a pass over some images, one at a time, forward and backward; all with the same weights. The sizes are those
of `benchmarks.training`, or tiny ones with which the numbers say nothing but that it runs.

    python -m benchmarks.feature_cache [--images 8] [--epochs 3] [--bf16] [--tiny]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.speed.models import mid
from benchmarks.training import RESULTS, packed
from pixellm.model import PixelLMConfig, PixelLMForConditionalGeneration
from pixellm.train.features import keep_features
from pixellm.train.model_kind import adapt
from pixellm.train.pixellm_kind import PixelLMKind
from pixellm.train.recipe import AdapterConfig, FeatureSettings
from pixellm.types import Batch


def tiny() -> PixelLMConfig:
    """A size at which the benchmark takes seconds."""
    settings = mid().to_dict()
    settings["text_config"] |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    settings["text_config"] |= {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
    settings["vision_config"]["clip"] |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
    settings["vision_config"]["clip"] |= {"num_attention_heads": 4}
    settings["vision_config"]["image_size"] = 112
    settings["llm_grid"] = 8
    return PixelLMConfig.from_dict(settings | {"decoder_dim": 32})


def epoch(model: PixelLMForConditionalGeneration, batches: list[Batch], bf16: bool) -> tuple[float, float]:
    """Seconds of a pass over all images: elapsed, and of the processor, which other work does not change."""
    start = time.perf_counter(), time.process_time()
    for batch in batches:
        inputs = {name: value for name, value in vars(batch).items() if value is not None}
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(**inputs).loss
        loss.backward()
        model.zero_grad()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    config, kind = (tiny if arguments.tiny else mid)(), PixelLMKind()
    torch.manual_seed(0)
    model = PixelLMForConditionalGeneration(config)
    adapt(model, kind, AdapterConfig(), kind.trained_parts(config))
    model.train()
    all_images = [packed(config, 1, conversations=2, targets=2) for _ in range(arguments.images)]
    for number, batch in enumerate(all_images):  # or all would be the same one
        batch.pixel_values += number
    run: Callable[[], tuple[float, float]] = lambda: epoch(model, all_images, arguments.bf16)  # noqa: E731
    run()
    without = [run() for _ in range(arguments.epochs)]
    with tempfile.TemporaryDirectory() as folder:
        keep_features(model, kind, FeatureSettings(Path(folder)))
        first, later = run(), [run() for _ in range(arguments.epochs)]
        stored = sum(file.stat().st_size for file in Path(folder).glob("??/*"))
    plain, read = (map(statistics.median, zip(*times, strict=True)) for times in (without, later))
    (elapsed, processor), (elapsed_later, processor_later) = plain, read
    result = {
        "size": "tiny" if arguments.tiny else "mid",
        "images": arguments.images,
        "dtype": "bfloat16" if arguments.bf16 else "float32",
        "threads": torch.get_num_threads(),
        "first_epoch_over_plain": round(first[0] / elapsed, 2),
        "later_epochs_over_plain": round(elapsed_later / elapsed, 2),
        "processor_time_of_first_epoch_over_plain": round(first[1] / processor, 2),
        "processor_time_of_later_epochs_over_plain": round(processor_later / processor, 2),
        "megabytes_per_image": round(stored / arguments.images / 1e6, 3),
    }
    if not arguments.tiny:
        file = RESULTS / f"feature_cache_{result['dtype']}.json"
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
