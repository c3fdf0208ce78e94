"""onnxruntime against torch, for pixellm-mini: tokens, answers with masks, images, imports, and llama.cpp beside them.

    pip install 'pixellm[torch,serve,llama]'
    python benchmarks/runtime.py [--gguf FILE]

Times are medians of alternating runs in one process; the ratio to torch in fp32 is what counts. torch in bfloat16 is
measured where the processor has AVX-512: without it, an image takes many times as long. llama.cpp is measured where
llama-cpp-python, the extra `llama`, is installed, with the GGUF file of the base (4 bits).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pixellm
from pixellm.hub.models import resolve_graphs
from pixellm.imaging.images import load_image
from pixellm.inference.base_predictor import BasePredictor
from pixellm.loading import load_graphs
from pixellm.mini.parts import fetch_gguf
from pixellm.runtime.manifest import MANIFEST, Manifest
from pixellm.serve.engine import InferenceEngine
from pixellm.serve.messages import Job, WorkerSettings

ROUNDS, TOKENS = 7, 24
IMAGE, QUESTION = "example:cat", "What can you see?"
QUESTIONS = ("Segment the cat.", "Where is the cat?", "Segment the person.", QUESTION)
ANSWERS = 24
RESULTS = Path(__file__).parent / "results" / "runtime.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gguf", type=Path, help="GGUF file for llama.cpp. Default: SmolLM2's.")
    options = parser.parse_args()
    systems: dict[str, BasePredictor] = {
        "torch float32": pixellm.load("pixellm-mini"),
        "onnxruntime int8": load_graphs("pixellm-mini"),
    }
    if "AVX512" in torch.backends.cpu.get_cpu_capability():
        systems["torch bfloat16"] = pixellm.load("pixellm-mini", dtype=torch.bfloat16)
    rows = {name: {} for name in systems}
    for what, measured in (("image", _image), ("token", _token), ("mask", _mask), ("answer with a mask", _answer)):
        for name, median in _medians({name: measured(one) for name, one in systems.items()}).items():
            rows[name][what] = median
    if find_spec("llama_cpp"):
        rows["llama.cpp, base at 4 bits"] = {"token": _llama_token(options.gguf or fetch_gguf())}
    else:
        print("llama.cpp: not installed, pip install 'pixellm[llama]'")
    base = rows["torch float32"]
    for name, row in rows.items():
        print(
            name, *(f"{what} {1e3 * t:.1f} ms ({base[what] / t:.2f} × as fast)" for what, t in row.items()), sep="\n  "
        )
    rates = {
        f"{name}, {'joint' if joint else 'exact'}": _answers_a_second(one, joint)
        for name, one in systems.items()
        for joint in (False, True)
    }
    print("answers a second, one image, 8 at once", *(f"{name} {rate:.1f}" for name, rate in rates.items()), sep="\n  ")
    start = _process_seconds()
    print("process to printed answer", *(f"{name} {seconds:.2f} s" for name, seconds in start.items()), sep="\n  ")
    results = {"seconds": rows, "answers_a_second": rates, "process": start}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _medians(calls: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Call each in turn, ROUNDS times after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            seconds[name].append(call())
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def _image(predictor: BasePredictor) -> Callable[[], float]:
    image = load_image(IMAGE)

    def call() -> float:
        start = time.perf_counter()
        predictor.encode([image])
        return time.perf_counter() - start

    return call


def _token(predictor: BasePredictor) -> Callable[[], float]:
    """Return the time of a token after the first, which reads the prompt."""
    encoded = predictor.encode([load_image(IMAGE)])
    prompt, settings = predictor.prompt_ids(QUESTION), predictor.settings(max_new_tokens=10_000)

    def call() -> float:
        decoding = predictor.decoding()
        decoding.join([0], encoded, [0], [prompt], settings)
        for _ in range(2):
            list(decoding.step())
        count, start = 0, time.perf_counter()
        while decoding and count < TOKENS:
            list(decoding.step())
            count += 1
        return (time.perf_counter() - start) / max(1, count)

    return call


def _mask(predictor: BasePredictor) -> Callable[[], float]:
    image = load_image(IMAGE)
    encoded = predictor.encode([image])
    manifest = Manifest.read(resolve_graphs("pixellm-mini") / MANIFEST)
    shape = len(manifest.codebook_ids), manifest.width
    states: Any = np.random.default_rng(0).standard_normal(shape, np.float32)
    if isinstance(predictor, pixellm.Predictor):
        states = torch.from_numpy(states).to(predictor.model.dtype)

    def call() -> float:
        start = time.perf_counter()
        predictor.decode_mask(encoded, 0, states, image)
        return time.perf_counter() - start

    return call


def _answer(predictor: BasePredictor) -> Callable[[], float]:
    """Return the time of a question that all of them answer with the same words and one mask."""
    predictor.set_image(IMAGE)

    def call() -> float:
        start = time.perf_counter()
        predictor.ask("Segment the cat.")
        return time.perf_counter() - start

    return call


def _answers_a_second(predictor: BasePredictor, joint: bool) -> float:
    """Return what the server's engine answers, once the image is encoded."""
    engine = InferenceEngine(predictor, WorkerSettings(model="pixellm-mini", joint=joint))
    image = load_image(IMAGE)
    jobs = [
        Job(number, "", "", image.tobytes(), image.size, QUESTIONS[number % len(QUESTIONS)], sampling={})
        for number in range(ANSWERS)
    ]
    for batch in (jobs[:1], jobs):
        start = time.perf_counter()
        for job in batch:
            engine.submit(job)
        while not engine.idle:
            engine.step()
    return ANSWERS / (time.perf_counter() - start)


def _llama_token(gguf: Path) -> float:
    import llama_cpp

    model = llama_cpp.Llama(str(gguf), n_ctx=512, n_threads=torch.get_num_threads(), verbose=False)
    model.eval(list(range(100, 300)))
    seconds = []
    for token in range(100, 100 + TOKENS):
        start = time.perf_counter()
        model.eval([token])
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _process_seconds() -> dict[str, float]:
    """Return the time of `pixellm ask` as a process, with files in the page cache."""
    resolve_graphs("pixellm-mini")
    calls = {}
    for runtime in ("torch", "onnx"):
        command = [
            sys.executable,
            "-m",
            "pixellm",
            "ask",
            IMAGE,
            "Segment the cat.",
            "--runtime",
            runtime,
            "--out",
            "-",
        ]

        def call(command: list[str] = command) -> float:
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            return time.perf_counter() - start

        calls[runtime] = call
    return _medians(calls)


if __name__ == "__main__":
    main()
