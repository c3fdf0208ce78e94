"""Time and memory of masks, from the pixel decoder's logits to a finished answer and its JSON.

Compares one mask after another, column by column, kept as RLEs, with all masks restored at once, thresholded, kept as
arrays and encoded for JSON; the RLEs must be equal. Masks are ragged discs on 112 × 112 logits, a threshold of half
the peak's probability, as in pixellm-mini. Also measures the letterbox of an image and the overlay of an answer. Each
value comes from a process of its own: the quickest of several runs, and the growth of the peak of resident memory in
the first, by the operating system (Linux).

    python benchmarks/masks.py [--repeat 3]
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pixellm.imaging import geometry, masks
from pixellm.imaging.postprocess import binarize
from pixellm.inference.answer_builder import AnswerBuilder
from pixellm.model import PixelLMImageProcessor
from pixellm.types import Answer

RESULTS = Path(__file__).parent / "results" / "masks.json"
SIZES, COUNTS, DRAWN = ((3000, 4000), (480, 640)), (1, 10, 34), 4
IMAGE_SIZE, RESOLUTION, PEAK_SHARE = 448, 112, 0.5
CLEAR_PEAK = "5"  # Linux, proc(5): writing it to clear_refs makes the peak of resident memory the present one


def mask_logits(count: int) -> torch.Tensor:
    """Make logits (count, R, R) of ragged discs of 2 to 25 percent of the square."""
    draw = torch.Generator().manual_seed(0)
    x, y, radius = torch.rand(3, count, 1, 1, generator=draw)
    grid = (torch.arange(RESOLUTION) + 0.5) / RESOLUTION
    distance = ((grid[None, None] - x) ** 2 + (grid[None, :, None] - 0.75 * y) ** 2).sqrt()
    noise = F.interpolate(torch.randn(1, count, 14, 14, generator=draw), (RESOLUTION, RESOLUTION), mode="bicubic")[0]
    return (8 * (1 - distance / (0.08 + 0.2 * radius))).clamp(-8, 8) + noise


def noise_image(hw: tuple[int, int]) -> Image.Image:
    return Image.effect_noise((hw[1], hw[0]), 60).convert("RGB")


def now(logits: torch.Tensor, image: Image.Image) -> list[dict[str, Any]]:
    """Return the targets of the answer, ready for JSON."""
    return answered(logits, image).to_json()["targets"]


def answered(logits: torch.Tensor, image: Image.Image) -> Answer:
    hw = (image.height, image.width)
    builder = AnswerBuilder("question", image)
    for number, binary in enumerate(binarize(logits, geometry.resized_hw(*hw, IMAGE_SIZE), hw, PEAK_SHARE)):
        builder.add_text(f"the object {number}")
        builder.add_target(*binary)
        builder.add_text(", ")
    return builder.finish()


def before(logits: torch.Tensor, image: Image.Image) -> list[dict[str, Any]]:
    """Return the same with all masks at image size at once, as logits, then as bool."""
    hw = (image.height, image.width)
    binaries = []
    for restored in geometry.restore(logits, geometry.resized_hw(*hw, IMAGE_SIZE), hw):
        threshold = min(0.0, float((restored.max().sigmoid() * PEAK_SHARE).logit()))
        inside = restored > threshold
        score = float(restored[inside].sigmoid().mean()) if bool(inside.any()) else 0.0
        binaries.append((inside.numpy(), score))
    return [
        {
            "score": round(score, 4),
            "area": int(mask.sum()),
            "box": list(masks.bounding_box(mask) or ()) if masks.bounding_box(mask) else None,
            "segmentation": masks.encode(mask),
        }
        for mask, score in binaries
    ]


def memory(line: str) -> float:
    """Return the resident memory of this process in MB: VmRSS now, VmHWM at its peak."""
    match = re.search(rf"{line}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) / 1000


def measure(call: Callable[[], Any], repeat: int) -> dict[str, Any]:
    """Measure seconds of the quickest run, growth of peak memory in MB in the first, and a digest of the masks."""
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
    start, seconds, peaks, result = memory("VmRSS"), [], [], None
    for _ in range(repeat):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
        peaks.append(memory("VmHWM") - start)
    text = json.dumps([row["segmentation"] for row in result] if isinstance(result, list) else None)
    return {"seconds": min(seconds), "peak_mb": peaks[0], "masks": hashlib.sha256(text.encode()).hexdigest()}


def run(what: str, hw: tuple[int, int], count: int, repeat: int) -> dict[str, Any]:
    """Take one measurement in this process."""
    image, logits = noise_image(hw), mask_logits(count)
    with torch.inference_mode():
        if what == "letterbox":
            processor = PixelLMImageProcessor(IMAGE_SIZE)
            processor([noise_image((60, 80))])
            return measure(lambda: processor([image]), repeat)
        if what == "overlay":
            answered(logits, noise_image((60, 80))).overlay()
            answer = answered(logits, image)
            return measure(answer.overlay, 1)
        call = {"now": now, "before": before}[what]
        call(logits[:1], noise_image((60, 80)))  # what is loaded on first use does not count
        return measure(lambda: call(logits, image), repeat)


def apart(what: str, hw: tuple[int, int], count: int, repeat: int) -> dict[str, Any]:
    """Take one measurement in a process of its own."""
    command = [sys.executable, __file__, "--repeat", str(repeat), "--one", what, *map(str, (*hw, count))]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def compare(hw: tuple[int, int], count: int, repeat: int) -> dict[str, Any]:
    old, new = apart("before", hw, count, repeat), apart("now", hw, count, repeat)
    if old["masks"] != new["masks"]:
        raise SystemExit(f"{count} masks at {hw}: expected the same RLEs both ways, got others.")
    return {
        **figures(new),
        "ms_per_mask": round(1000 * new["seconds"] / count, 1),
        "before": figures(old),
        "times_as_fast": round(old["seconds"] / new["seconds"], 1),
        "memory_over_before": round(new["peak_mb"] / old["peak_mb"], 3),
    }


def figures(measured: dict[str, Any]) -> dict[str, float]:
    return {"seconds": round(measured["seconds"], 4), "peak_mb": round(measured["peak_mb"], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", nargs=4, metavar=("WHAT", "HEIGHT", "WIDTH", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, height, width, count = arguments.one
        print(json.dumps(run(what, (int(height), int(width)), int(count), arguments.repeat)))
        return
    largest = SIZES[0]
    areas = [(logits > 0).float().mean().item() for logits in mask_logits(COUNTS[-1])]
    result = {
        "threads": torch.get_num_threads(),
        "share_of_the_square": {"mean": round(float(np.mean(areas)), 3), "largest": round(max(areas), 3)},
        "letterbox": {f"{h}x{w}": figures(apart("letterbox", (h, w), 1, arguments.repeat)) for h, w in SIZES},
        "masks": {
            f"{h}x{w}": {str(count): compare((h, w), count, arguments.repeat) for count in COUNTS} for h, w in SIZES
        },
        "overlay": {f"{largest[0]}x{largest[1]}, {DRAWN} masks": figures(apart("overlay", largest, DRAWN, 1))},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
