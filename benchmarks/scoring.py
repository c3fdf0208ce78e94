"""Speed and memory of `pixellm score`: as many questions as MUSE's test has, at 640 × 480 pixels.

4,300 questions for 3.7 targets on average (2 … 34, as MUSE's tail falls off), answered with shifted masks, some
missing, some too many. The command itself is measured, from reading the files to the report, on two cores; the images
are not there, so that no page of answers is drawn.

    python benchmarks/scoring.py [--questions 4300] [--protocol fixed]
"""

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm.imaging import masks

RESULTS = Path(__file__).parent / "results" / "scoring.json"
QUESTIONS, WIDTH, HEIGHT, CORES = 4300, 640, 480, 2
QUESTIONS_PER_IMAGE, MEAN_TARGETS, MOST = 3, 3.7, 34  # MUSE: its published average and largest number of targets


def polygon(draw: random.Random) -> list[float]:
    """Make a star of 40 corners."""
    radius, x, y = draw.uniform(15, 110), draw.uniform(100, WIDTH - 100), draw.uniform(100, HEIGHT - 100)
    corners = [(2 * math.pi * i / 40, radius * draw.uniform(0.6, 1)) for i in range(40)]
    return [round(v, 2) for a, r in corners for v in (x + r * math.cos(a), y + r * math.sin(a))]


def ragged(outline: list[float], shift: float, noise: np.ndarray) -> dict:
    """Make the RLE of a shifted polygon with a ragged edge, as models do."""
    (rle,) = masks.to_rles([[v + shift for v in outline]], HEIGHT, WIDTH)
    return masks.encode(masks.decode(rle, HEIGHT, WIDTH) & noise)


def write_data(folder: Path, questions: int) -> tuple[Path, int, int]:
    """MUSE's annotations below `folder`, and predictions: the file of these, how many targets and masks there are."""
    draw, rng = random.Random(0), np.random.default_rng(0)
    coarse = rng.integers(0, 255, (8, 60, 80), dtype=np.uint8)
    noises = [np.asarray(Image.fromarray(one).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) > 40 for one in coarse]
    entries, rows, total = [], [], 0
    for image in range(math.ceil(questions / QUESTIONS_PER_IMAGE)):
        groups = []
        for number in range(min(QUESTIONS_PER_IMAGE, questions - image * QUESTIONS_PER_IMAGE)):
            count = min(MOST, 2 + int(draw.expovariate(1 / (MEAN_TARGETS - 1.5))))
            outlines = [polygon(draw) for _ in range(count)]
            named = [(outline, f"thing {draw.randrange(300)}") for outline in outlines]
            found = [(ragged(o, draw.uniform(0, 12), draw.choice(noises)), n) for o, n in named if draw.random() < 0.9]
            found += [(ragged(polygon(draw), 0, draw.choice(noises)), "nothing")] * (draw.random() < 0.2)
            draw.shuffle(found)
            text = "".join(f"{name} {{seg}}, " for _, name in found)
            groups.append([{"segmentation": [o], "category_name": n, "bbox": [0, 0, 9, 9]} for o, n in named])
            rows.append({"id": f"val/{image}/{number}", "text": text, "masks": [mask for mask, _ in found]})
            total += count
        url = f"http://images.cocodataset.org/train2017/{image:012}.jpg"
        asked = [f"Question {number}?" for number in range(len(groups))]
        entries.append(
            {"id": image, "height": HEIGHT, "width": WIDTH, "coco_url": url, "questions": asked, "answers": groups}
        )
    (folder / "muse").mkdir()
    (folder / "muse/muse_val.json").write_text(json.dumps(entries))
    path = folder / "predictions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path, total, sum(len(row["masks"]) for row in rows)


def measure(folder: Path, predictions: Path, protocol: str) -> dict[str, float]:
    """Seconds of the whole command, the largest memory it had, and the score, which must not change."""
    command = [sys.executable, "-m", "pixellm", "score", str(predictions), "--benchmark", "muse", "--root", str(folder)]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--protocol", protocol, "--out", str(folder / "out")], check=True, stdout=subprocess.DEVNULL
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # of the largest child so far, in GB
    overall = json.loads((folder / "out/score.json").read_text())["overall"]
    return {"seconds": round(seconds, 1), "memory_gb": round(peak, 2), "giou": round(overall["giou"], 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--protocol", action="append", choices=["fixed", "paper", "released"])
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as name:
        predictions, targets, found = write_data(Path(name), arguments.questions)
        size = {"questions": arguments.questions, "targets": targets, "masks": found, "hw": [HEIGHT, WIDTH]}
        size |= {"targets_per_question": round(targets / arguments.questions, 2), "cores": CORES}
        size |= {
            "predictions_mb": round(predictions.stat().st_size / 1e6, 1),
            "load_before": round(os.getloadavg()[0], 1),
        }
        protocols = arguments.protocol or ["fixed", "paper", "released"]
        results = {"data": size, **{p: measure(Path(name), predictions, p) for p in protocols}}
    text = json.dumps(results, indent=2)
    if arguments.questions == QUESTIONS and not arguments.protocol:
        RESULTS.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
