"""A tiny model that writes words and masks freely, on disk, and a server for it: what tests of serving need."""

import base64
import io
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import torch

from pixellm.model import PixelLMForConditionalGeneration, PixelLMProcessor
from pixellm.segmenter import load
from tests.support import tiny

MODEL = "tiny"
KEY, OTHER_KEY = "key-of-the-first-tenant", "key-of-another-tenant"
QUESTIONS = ("Where is the dog?", "What is the cat?", "the red apple, please: output the mask", "table")
TOKENS = 24  # the longest answer in tests that wait for it


def write_model(directory: Path) -> Path:
    """Random weights, but for a head that prefers whole words to bytes, likes masks, and finds no end by itself."""
    return _write(tiny.build(tiny.clip_config(), seed=1), tiny.tiny_processor(56, 4), directory)


def write_refining_model(directory: Path) -> Path:
    """The same with a tiny pixellm-mini, whose masks can be refined."""
    return _write(tiny.build(tiny.detector_config(refine_width=32), seed=5), tiny.tiny_processor(64, 6), directory)


def _write(model: PixelLMForConditionalGeneration, processor: PixelLMProcessor, directory: Path) -> Path:
    words = processor.tokenizer.get_vocab()
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[[i for word, i in words.items() if len(word) == 1 or (not word.isascii() and len(word) < 4)]] = 0
        head[processor.codebook_ids[0]] *= 3
        head[processor.eos_ids] = 0
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def png(width: int = 60, height: int = 40, seed: int = 0) -> bytes:
    stream = io.BytesIO()
    tiny.picture(width, height, seed).save(stream, "PNG")
    return stream.getvalue()


def data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def chat(question: str, image: bytes | None = None, **fields) -> dict:
    """Body of a request with one question."""
    content = [{"type": "text", "text": question}]
    content += [{"type": "image_url", "image_url": {"url": data_uri(image or png())}}]
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": TOKENS, **fields}


def offline(directory: Path, question: str, image: int = 0, history=(), **sampling) -> dict:
    """What the predictor answers, with one thread, as the servers of tests have it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        predictor = load(directory)
        predictor.set_image(tiny.picture(60, 40, image))
        return predictor.ask(question, history, **{"max_new_tokens": TOKENS, **sampling}).to_json()
    finally:
        torch.set_num_threads(threads)


class Running:
    """`pixellm serve` as a process of its own."""

    def __init__(self, process: subprocess.Popen, url: str) -> None:
        self.process, self.url = process, url
        self.port = int(url.rsplit(":", 1)[1])
        self.http = httpx2.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {KEY}"})

    def metric(self, name: str) -> float:
        """Value of a series of /metrics, labels included in its name; 0 where it is not there yet."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def wait_for(self, condition, seconds: float = 30) -> None:
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, "waited too long"
            assert self.process.poll() is None, "the server has ended"
            time.sleep(0.05)

    def ready(self) -> bool:
        return self.http.get("/readyz").status_code == 200

    def worker(self) -> int:
        """Process id of the worker."""
        (worker,) = self.children("pixellm.serve.worker")
        return worker

    def children(self, module: str) -> list[int]:
        """Process ids of the children that run a module."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children if module in Path(f"/proc/{child}/cmdline").read_text().split("\0")]

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def serving(model: Path, *options: str, keys: tuple[str, ...] = (), ready: bool = True):
    """A server on any port, its model loaded."""
    command = [sys.executable, "-m", "pixellm", "serve", str(model), "--name", MODEL, "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "PIXELLM_API_KEYS": ",".join(keys), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *options], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("http://"), line
        running = Running(process, line.split()[0].removesuffix("/v1"))
        if ready:
            running.wait_for(running.ready, 120)
        yield running
        running.http.close()
    finally:
        process.kill()
        process.wait()
