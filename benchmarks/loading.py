"""Speed and memory of the data loader: samples a second from JPEG to batches, and whether memory stays flat.

Images of 640 × 480 pixels with three questions and up to six masks as polygons (JSONL), at 448 pixels, tokenised,
in batches of 8, with one worker per core, without training.

    python benchmarks/loading.py [--samples 20000] [--workers 2]
"""

import argparse
import json
import math
import os
import random
import tempfile
import time
from pathlib import Path

from PIL import Image
from torch.utils.data import DataLoader

from pixellm.data.catalogue import open_data
from pixellm.data.mixture import ChatSamples, LengthBatches, Mixture
from pixellm.hub import models as hub
from pixellm.imaging.examples import EXAMPLES
from pixellm.imaging.images import load_image
from pixellm.model import PixelLMImageProcessor, PixelLMProcessor
from pixellm.train.trainer import Collator

RESULTS = Path(__file__).parent / "results" / "loading.json"
IMAGES, NAMES, WIDTH, HEIGHT, CORNERS, SIZE, BATCH = 96, 20_000, 640, 480, 40, 448, 8
CHECKS = 20  # number of measurements of memory


def write_data(folder: Path) -> Path:
    """Write crops of the example images under many names: as many records as a real data set has, all different."""
    draw = random.Random(0)
    sources = [load_image(f"example:{name}") for name in EXAMPLES]
    rows = []
    for number in range(IMAGES):
        source = draw.choice(sources)
        side = draw.uniform(0.5, 1.0)
        width, height = round(side * source.width), round(side * source.height)
        left, top = draw.randint(0, source.width - width), draw.randint(0, source.height - height)
        crop = source.crop((left, top, left + width, top + height)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        crop.save(folder / f"{number}.jpg", quality=90)
    for number in range(NAMES):
        if number >= IMAGES:
            os.link(folder / f"{number % IMAGES}.jpg", folder / f"{number}.jpg")
        for question in range(3):
            count = draw.randint(1, 2)
            names = " and ".join(f"thing {i} {{seg}}" for i in range(count))
            masks = [[polygon(draw)] for _ in range(count)]
            text = f"Where is number {question}, and what is beside it?"
            rows.append({"image": f"{number}.jpg", "question": text, "answer": f"Here are {names}.", "masks": masks})
    path = folder / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def polygon(draw: random.Random) -> list[float]:
    """A round shape with a ragged border."""
    x, y, radius = draw.uniform(0, WIDTH), draw.uniform(0, HEIGHT), draw.uniform(20, 200)
    points = []
    for corner in range(CORNERS):
        angle, reach = 2 * math.pi * corner / CORNERS, radius * draw.uniform(0.8, 1.2)
        points += [x + reach * math.cos(angle), y + reach * math.sin(angle)]
    return [round(value, 1) for value in points]


def memory(workers: list[int]) -> int:
    """Bytes of this process and its workers, what they share counted once (PSS)."""
    total = 0
    for pid in [os.getpid(), *workers]:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if arguments.samples < BATCH * CHECKS:
        parser.error(f"--samples: expected at least {BATCH * CHECKS}, got {arguments.samples}")
    processor = PixelLMProcessor.from_pretrained(hub.resolve(hub.MINI))
    processor.image_processor = PixelLMImageProcessor(SIZE)
    with tempfile.TemporaryDirectory() as folder:
        data = open_data(str(write_data(Path(folder))), Path(folder))
        samples = ChatSamples(Mixture.of([data], [1.0], 0, seed=0))
        batches = LengthBatches(samples.length, arguments.samples // BATCH, BATCH)
        loader = DataLoader(
            samples,
            batch_sampler=batches,
            collate_fn=Collator(processor),
            num_workers=arguments.workers,
            prefetch_factor=2,
        )
        seen, warm_seen, warm, sizes = 0, 0, 0.0, []
        for number, batch in enumerate(loader, start=1):
            seen += len(batch["pixel_values"])
            if number % (len(batches) // CHECKS) == 0:
                sizes.append(memory(children()))
            if len(sizes) == 1 and not warm:
                warm, warm_seen = time.perf_counter(), seen
        rate = (seen - warm_seen) / (time.perf_counter() - warm)
    result = {
        "samples": seen,
        "pixels": SIZE,
        "workers": arguments.workers,
        "samples_per_second": round(rate, 1),
        "memory_over_memory_at_a_tenth": [round(size / sizes[1], 2) for size in sizes],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
