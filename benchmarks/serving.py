"""Load test of a server: many clients, good and bad requests mixed; latency, memory and correctness.

Every answer is compared with the predictor's own, and every bad request must get its status. Memory is that of server
and worker, from the end of a warm-up on.

    python benchmarks/serving.py [--clients 200] [--seconds 180] [--model pixellm-mini]
"""

import argparse
import asyncio
import base64
import io
import itertools
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx2
import numpy as np
import psutil

from pixellm.hub import models as hub
from pixellm.imaging.examples import EXAMPLES
from pixellm.imaging.images import load_image
from pixellm.segmenter import load

RESULTS = Path(__file__).parent / "results" / "serving.json"
QUESTIONS = ("Segment the cat.", "Where is the cup?", "Segment the person.", "What is in this image?")
IMAGES = tuple(f"example:{name}" for name in EXAMPLES)
BAD = 0.15  # share of bad requests
WARM_UP = 0.25  # share of the time
TOKENS = 64


def encoded(image: str) -> str:
    stream = io.BytesIO()
    load_image(image).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def offline(model: str) -> dict[tuple[str, str], dict]:
    """Return the predictor's answers by image and question."""
    predictor = load(model)
    answers = {}
    for image in IMAGES:
        predictor.set_image(image)
        for question in QUESTIONS:
            answers[image, question] = predictor.ask(question, max_new_tokens=TOKENS).to_json()
    return answers


def refusals(image: str) -> list[tuple[dict, int]]:
    """Return bad requests to /v1/segment with their expected status."""
    return [
        ({"image": image, "question": "   "}, 400),
        ({"image": "data:image/png;base64,AAAA", "question": "a"}, 400),
        ({"image": image[:200], "question": "a"}, 400),
        ({"image": "http://169.254.169.254/", "question": "a"}, 400),
        ({"image": image, "question": "a" * 5000}, 400),
        ({"image": image, "question": "a", "max_tokens": 10**9}, 400),
        ({"image": "data:image/png;base64," + "A" * (20 << 20), "question": "a"}, 413),
    ]


class Load:
    """Clients that send requests until the time is over."""

    def __init__(self, url: str, answers: dict[tuple[str, str], dict], seconds: float) -> None:
        self.url, self.answers, self.end = url, answers, time.monotonic() + seconds
        self.images = {image: encoded(image) for image in IMAGES}
        self.bad = refusals(self.images[IMAGES[0]])
        self.seconds: list[float] = []
        self.first_word: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def client(self, number: int) -> None:
        rng = random.Random(number)
        async with httpx2.AsyncClient(base_url=self.url, timeout=600) as http:
            while time.monotonic() < self.end:
                try:
                    if rng.random() < BAD:
                        await self._refused(http, rng)
                    elif rng.random() < 0.5:
                        await self._whole(http, *rng.choice(list(self.answers)))
                    else:
                        await self._streamed(http, *rng.choice(list(self.answers)))
                except httpx2.HTTPError as error:
                    self.outcomes[f"connection: {type(error).__name__}"] += 1

    async def _refused(self, http: httpx2.AsyncClient, rng: random.Random) -> None:
        body, expected = rng.choice(self.bad)
        status = (await http.post("/v1/segment", json=body)).status_code
        self.outcomes["refused"] += status == expected
        if status not in (expected, 429, 503):
            self.wrong.append(f"a bad request got {status} for {expected}")

    async def _whole(self, http: httpx2.AsyncClient, image: str, question: str) -> None:
        began = time.monotonic()
        body = {"image": self.images[image], "question": question, "max_tokens": TOKENS}
        answer = await http.post("/v1/segment", json=body)
        if self._answered(answer.status_code):
            self.seconds.append(time.monotonic() - began)
            self._compare(answer.json(), image, question)

    async def _streamed(self, http: httpx2.AsyncClient, image: str, question: str) -> None:
        began, text, targets = time.monotonic(), "", []
        content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": self.images[image]}}]
        body = {
            "model": "served",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": TOKENS,
            "stream": True,
        }
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if not self._answered(answer.status_code):
                return
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                if not text and not targets:
                    self.first_word.append(time.monotonic() - began)
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    self.outcomes[chunk["error"]["code"]] += 1
                    return
                delta = chunk["choices"][0]["delta"]
                text, targets = text + delta.get("content", ""), targets + delta.get("targets", [])
        self.seconds.append(time.monotonic() - began)
        self._compare({**self.answers[image, question], "text": text, "targets": targets}, image, question)

    def _answered(self, status: int) -> bool:
        self.outcomes[
            {200: "answered", 429: "too many", 503: "queue full", 504: "too slow"}.get(status, str(status))
        ] += 1
        return status == 200

    def _compare(self, answer: dict, image: str, question: str) -> None:
        if answer != self.answers[image, question]:
            self.wrong.append(f"{image}, {question}: {answer['text']!r}")


async def watch(server: int, end: float, memory: list[tuple[float, int]]) -> None:
    """Sample the resident memory of server and worker."""
    while time.monotonic() < end:
        processes = [psutil.Process(server), *psutil.Process(server).children()]
        memory.append((time.monotonic(), sum(process.memory_info().rss for process in processes)))
        await asyncio.sleep(0.5)


async def run(url: str, server: int, answers: dict, clients: int, seconds: float) -> dict:
    load, memory = Load(url, answers, seconds), []
    began = time.monotonic()
    await asyncio.gather(watch(server, load.end, memory), *(load.client(number) for number in range(clients)))
    steady = [rss for at, rss in memory if at - began > WARM_UP * seconds]
    third = max(1, len(steady) // 3)
    early, late = np.mean(steady[:third]), np.mean(steady[-third:])
    for message in load.wrong[:10]:
        print("WRONG", message)
    return {
        "clients": clients,
        "seconds": seconds,
        "found": dict(load.outcomes),
        "wrong": len(load.wrong),
        "answers_per_second": round(len(load.seconds) / (time.monotonic() - began), 2),
        "latency_seconds": percentiles(load.seconds),
        "first_word_seconds": percentiles(load.first_word),
        "rss_mb": {
            "after_warm_up": round(early / 1e6),
            "at_the_end": round(late / 1e6),
            "ratio": round(late / early, 3),
        },
    }


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in (50, 90, 99)} if values else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=hub.MINI)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("options", nargs="*", help="behind --: further options of pixellm serve")
    arguments = parser.parse_args()
    answers = offline(arguments.model)
    command = [sys.executable, "-m", "pixellm", "serve", arguments.model, "--name", "served", "--port", "0"]
    command += ["--request-timeout", "600", *arguments.options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0].removesuffix("/v1")
        try:
            for _ in itertools.count():
                if httpx2.get(f"{url}/readyz").status_code == 200:
                    break
                time.sleep(0.2)
            result = asyncio.run(run(url, process.pid, answers, arguments.clients, arguments.seconds))
            result["batch_rows"] = mean_of(httpx2.get(f"{url}/metrics").text, "pixellm_batch_rows")
        finally:
            process.terminate()
    result = {"model": str(arguments.model), "options": arguments.options, **result}
    print(json.dumps(result, indent=2))
    if arguments.model == hub.MINI and arguments.seconds >= 180:  # short runs are not recorded
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    if result["wrong"]:
        raise SystemExit(f"{result['wrong']} answers were wrong")


def mean_of(metrics: str, name: str) -> float:
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    return round(float(values[f"{name}_sum"]) / max(1.0, float(values[f"{name}_count"])), 2)


if __name__ == "__main__":
    main()
