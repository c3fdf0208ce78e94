"""Throughput and memory of `pixellm muse generate`.

    synthetic images + a server in a process of its own → rate of requests beside the ideal one
    1,000 … 100,000 images with the template engine → peak memory of the process

    python benchmarks/muse.py [--requests 3000] [--out benchmarks/results/muse.json]

The server (tests/support/vlm_server.py) answers after 200 ms; with 64 requests in flight, 320 a second are ideal.
The rate is taken from the first tenth of the requests on, so that starting Python does not count.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import muse_source  # noqa: E402

LATENCY, IN_FLIGHT = 0.2, 64
SIZES = (1_000, 10_000, 100_000)
PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


def throughput(requests: int, folder: Path) -> dict[str, float]:
    """Measure requests a second with `IN_FLIGHT` at a time, beside the ideal."""
    annotations, images = muse_source.write(folder, requests)
    command = [sys.executable, str(ROOT / "tests/support/vlm_server.py"), "--latency", str(LATENCY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        _generate(folder / "out", annotations, images, "--model", "vlm", "--server", url, "--in-flight", str(IN_FLIGHT))
        with urllib.request.urlopen(f"{url.removesuffix('/v1')}/account") as reply:
            times = json.load(reply)["times"]
        server.terminate()
    first = times[len(times) // 10 :]
    rate, ideal = (len(first) - 1) / (first[-1] - first[0]), IN_FLIGHT / LATENCY
    return {"requests": len(times), "rate": round(rate, 1), "ideal": ideal, "share": round(rate / ideal, 3)}


def memory(folder: Path) -> dict[str, float]:
    """Measure the peak memory in MB of one question by rules about each image, for growing numbers of images."""
    peaks = {}
    for size in SIZES:
        annotations, images = muse_source.write(folder / str(size), size)
        out = folder / f"out-{size}"
        peaks[f"{size}"] = _generate(out, annotations, images, "--engine", "template", "--questions", "1")
    return peaks


def _generate(out: Path, annotations: Path, images: Path, *more: str) -> float:
    """Run a generation; return its peak memory in MB, as the operating system counts it."""
    command = [sys.executable, "-m", "pixellm", "muse", "generate", str(out)]
    command += ["--annotations", str(annotations), "--images", str(images), *more]
    process, peak = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0
    # Not what `wait` reports: that counts the memory of this process, too, which the other one is forked from.
    while process.poll() is None:
        match = PEAK.search(Path(f"/proc/{process.pid}/status").read_text())
        peak = max(peak, int(match[1]) if match else 0)
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"expected {' '.join(command)} to succeed, got status {process.returncode}")
    return round(peak / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "muse.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "throughput": throughput(arguments.requests, Path(folder) / "asked"),
            "memory_mb": memory(Path(folder)),
        }
    text = json.dumps(results, indent=2)
    print(text)
    arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
