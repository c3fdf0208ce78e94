"""Soak test of a server: mixed load, good and hostile, for a long time; memory, descriptors and threads must stay flat.

Clients ask for JSON, streams, PNG and COCO files, send bad requests, leave in the middle, close their half of the
connection, and do not read. The figures of each process are sampled every second; after a warm-up of a quarter of the
time, the medians of the first and the last third are compared.

    python benchmarks/soak.py [--seconds 1800] [--clients 6] [--model pixellm-mini]
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
from collections import Counter, defaultdict
from contextlib import suppress

import httpx2
import numpy as np
import psutil
from PIL import Image
from serving import QUESTIONS, WARM_UP

from pixellm.hub import models as hub

SIZES = ((64, 64), (640, 480), (1200, 900))
IMAGES = 12  # different images of each size
TOKENS = 24
TOLERANCE = 0.05  # relative growth of resident memory
SLACK = 3  # descriptors and threads that come and go
OPTIONS = ("--cache-mb", "32", "--write-timeout", "5", "--request-timeout", "60", "--max-queue", "16")
Sample = dict[tuple[str, str], float]  # (process, figure) → value


def image(rng: random.Random) -> bytes:
    """Return one of a fixed number of images: noise, as PNG or progressive JPEG."""
    size = rng.choice(SIZES)
    noise = np.random.default_rng(rng.randrange(IMAGES)).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    stream = io.BytesIO()
    if size[0] < 1000 and rng.random() < 0.5:
        Image.fromarray(noise).save(stream, "PNG")
    else:
        Image.fromarray(noise).save(stream, "JPEG", quality=60, progressive=True)
    return stream.getvalue()


class Clients:
    """Clients that send requests until the time is over."""

    def __init__(self, url: str, end: float) -> None:
        self.url, self.end = url, end
        self.outcomes: Counter[str] = Counter()

    async def client(self, number: int) -> None:
        rng = random.Random(number)
        kinds = (self.answer, self.answer, self.stream, self.stream, self.leave, self.refused, self.bytes, self.unread)
        async with httpx2.AsyncClient(base_url=self.url, timeout=120) as http:
            while time.monotonic() < self.end:
                kind = rng.choice(kinds)
                try:
                    outcome = await kind(http, rng)
                except (httpx2.HTTPError, OSError) as error:
                    outcome = type(error).__name__
                self.outcomes[f"{kind.__name__}: {outcome}"] += 1

    async def answer(self, http: httpx2.AsyncClient, rng: random.Random) -> str:
        accept = rng.choice(["application/json", "image/png", "application/vnd.coco+json"])
        form = {"question": rng.choice(QUESTIONS), "max_tokens": str(TOKENS)}
        files = {"image": ("image", image(rng))}
        response = await http.post("/v1/segment", data=form, files=files, headers={"Accept": accept})
        return f"{response.status_code}"

    async def stream(self, http: httpx2.AsyncClient, rng: random.Random) -> str:
        async with http.stream("POST", "/v1/chat/completions", json=chat(rng, TOKENS)) as response:
            lines = [line async for line in response.aiter_lines()]
        return f"{response.status_code}{'' if 'data: [DONE]' in lines else ' without an end'}"

    async def leave(self, http: httpx2.AsyncClient, rng: random.Random) -> str:
        async with http.stream("POST", "/v1/chat/completions", json=chat(rng, 500)) as response:
            async for _ in response.aiter_bytes():
                break
        return f"{response.status_code}"

    async def refused(self, http: httpx2.AsyncClient, rng: random.Random) -> str:
        body = rng.choice(
            [
                b"{",
                b'{"a":[' + b"[]," * 200_000,
                json.dumps({"image": "data:image/png;base64,AAAA", "question": "a"}).encode(),
                json.dumps({"image": data_uri(image(rng)), "question": "a" * 5000}).encode(),
            ]
        )
        response = await http.post("/v1/segment", content=body, headers={"Content-Type": "application/json"})
        return f"{response.status_code}"

    async def bytes(self, _http: httpx2.AsyncClient, rng: random.Random) -> str:
        """Send bytes that are no request, or half of one, and close this half of the connection."""
        sent = rng.choice(
            [rng.randbytes(200), b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"POST / HTTP/1.1\r\n"]
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx2.URL(self.url).port)
        writer.write(sent)
        writer.write_eof()
        received = await reader.read()
        writer.close()
        return received[9:12].decode(errors="replace") or "closed"

    async def unread(self, _http: httpx2.AsyncClient, _rng: random.Random) -> str:
        """Ask for more than the kernel takes, and read nothing of it."""
        _, writer = await asyncio.open_connection("127.0.0.1", httpx2.URL(self.url).port, limit=1024)
        with suppress(ConnectionError):
            writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500)
            await asyncio.sleep(8)
        writer.transport.abort()
        return "aborted"


def data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def chat(rng: random.Random, tokens: int) -> dict:
    """Return the body of a streamed question."""
    content = [
        {"type": "text", "text": rng.choice(QUESTIONS)},
        {"type": "image_url", "image_url": {"url": data_uri(image(rng))}},
    ]
    messages = [{"role": "user", "content": content}]
    return {"model": "served", "messages": messages, "max_tokens": tokens, "stream": True}


def sample(server: psutil.Process) -> Sample:
    """Return resident memory, descriptors and threads of server, worker and decoders."""
    found: Sample = defaultdict(float)
    for process in [server, *server.children()]:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, IndexError):  # a decoder may just have been killed
            module = process.cmdline()[2] if process.pid != server.pid else ""
            name = {"pixellm.serve.worker": "worker", "pixellm.serve.decoding": "decoders"}.get(module, "server")
            found[name, "MB"] += process.memory_info().rss / 1e6
            found[name, "descriptors"] += process.num_fds()
            found[name, "threads"] += process.num_threads()
    return found


async def watch(server: int, end: float, samples: list[Sample]) -> None:
    process = psutil.Process(server)
    while time.monotonic() < end:
        samples.append(sample(process))
        await asyncio.sleep(1)


def flat(samples: list[Sample]) -> bool:
    """Print the figures after the warm-up; return whether all stay flat."""
    steady = samples[round(WARM_UP * len(samples)) :]
    third = max(1, len(steady) // 3)
    every = True
    print(f"{'process':10} {'figure':12} {'first third':>12} {'last third':>12} {'highest':>9} {'ratio':>7}")
    for key in sorted(set().union(*steady)):
        values = [one.get(key, 0.0) for one in steady]
        early, late = float(np.median(values[:third])), float(np.median(values[-third:]))
        ok = late <= early * (1 + TOLERANCE) or (key[1] != "MB" and late <= early + SLACK)
        every &= ok
        name, figure = key
        ratio = late / max(early, 1e-9)
        print(
            f"{name:10} {figure:12} {early:12.0f} {late:12.0f} {max(values):9.0f} {ratio:7.3f}{'' if ok else '  GROWS'}"
        )
    return every


async def run(url: str, server: int, clients: int, seconds: float) -> bool:
    load, samples = Clients(url, time.monotonic() + seconds), []
    await asyncio.gather(watch(server, load.end, samples), *(load.client(number) for number in range(clients)))
    for outcome, count in sorted(load.outcomes.items()):
        print(f"{count:8}  {outcome}")
    failed = [
        outcome for outcome in load.outcomes if ": 5" in outcome and ": 503" not in outcome and ": 504" not in outcome
    ]
    return flat(samples) and not failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=hub.MINI)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1800)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "pixellm", "serve", arguments.model, "--name", "served", "--port", "0"]
    with subprocess.Popen(
        [*command, *OPTIONS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0].removesuffix("/v1")
        try:
            for _ in itertools.count():
                if httpx2.get(f"{url}/readyz").status_code == 200:
                    break
                time.sleep(0.2)
            is_flat = asyncio.run(run(url, process.pid, arguments.clients, arguments.seconds))
        finally:
            process.terminate()
    if not is_flat:
        raise SystemExit("memory, descriptors or threads grow, or a request failed")


if __name__ == "__main__":
    main()
