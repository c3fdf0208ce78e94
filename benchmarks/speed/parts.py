"""What is measured, each part for a size and a dtype; every figure is a row for benchmarks/results/speed.jsonl.

Ways that are compared take turns within a round, so that a machine that slows down slows all of them; of each the
quickest round counts.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.speed import released_decoder, ways
from benchmarks.speed.models import load
from benchmarks.speed.task import PHOTOGRAPH, Task, task
from pixellm.cost.counting import PeakMemory
from pixellm.hub.models import MINI

Row = dict[str, Any]
TARGETS = (0, 1, 4, 10, 34)
MANY = (1, 4, 16)
TYPICAL = 4  # targets of an answer where their number is not what is measured
ROUNDS = 3


def question(size: str, dtype: torch.dtype, device: str, targets: tuple[int, ...] = TARGETS) -> Iterator[Row]:
    """One question: first text, first mask and end, in four ways."""
    predictor = load(size, dtype, device)
    for count in targets:
        asked = task(predictor, size, count)
        noted = ways.products(asked)
        best = quickest({"ours": ways.ours, "cached": ways.cached}, asked, rounds_for(count))
        limit = min(ways.seconds_of(noted.replay) for _ in range(rounds_for(count)))
        # It takes minutes where the others take seconds: once is enough, and its spread does not matter.
        found = {**best, "released": ways.released(asked)}
        for way, times in found.items():
            yield {"targets": count, "tokens": len(asked.answer), "way": way, **vars(times)}
        yield {"targets": count, "tokens": len(asked.answer), "way": "products", "end": limit}


def sharing(size: str, dtype: torch.dtype, device: str) -> Iterator[Row]:
    """Several questions on one photograph, and a question on each of several, against as many calls of `generate`."""
    predictor = load(size, dtype, device)
    asked = task(predictor, size, TYPICAL)

    def questions(count: int) -> None:
        predictor.set_image(asked.photograph)
        predictor.ask_many([asked.question] * count, **asked.options)

    def photographs(count: int) -> None:
        predictor.ask_batch([asked.photograph] * count, [asked.question] * count, **asked.options)

    single = min(ways.cached(asked).end for _ in range(ROUNDS))
    for kind, call in (("questions", questions), ("photographs", photographs)):
        for count in MANY:
            seconds = min(ways.seconds_of(lambda call=call, count=count: call(count)) for _ in range(rounds_for(count)))
            yield {"kind": kind, "count": count, "ours": seconds, "cached": count * single}


@torch.inference_mode()
def decoder(size: str, dtype: torch.dtype, device: str) -> Iterator[Row]:
    """The pixel decoder alone, against the released code's layout."""
    predictor = load(size, dtype, device)
    asked = task(predictor, size, TYPICAL)
    images = predictor.encode([asked.photograph]).images
    model = predictor.model
    pixels = predictor.processor.images([asked.photograph])
    unprepared = released_decoder.encode(
        model, pixels["pixel_values"].to(device, dtype), pixels["resized_hw"].to(device)
    )
    for count in [count for count in TARGETS if count]:
        width, group = model.config.text_config.hidden_size, len(model.config.codebook_ids)
        states = torch.randn(count * group, width, dtype=dtype, device=device)
        index = torch.zeros(count, dtype=torch.long, device=device)
        calls = {
            "ours": lambda states=states, index=index: model.pixel_decoder(images.maps, model.codebook(states), index),
            "released": lambda states=states: released_decoder.decode(model, unprepared, states),
        }
        for way, call in calls.items():
            with PeakMemory() as memory:
                call()
            seconds = min(ways.seconds_of(call) for _ in range(2 * ROUNDS))
            yield {"targets": count, "way": way, "seconds": seconds, "peak_mb": memory.peak / 1e6}


def start(size: str, dtype: torch.dtype, device: str) -> Iterator[Row]:
    """`pixellm ask` in a process of its own, what its imports take of that, and a question on a model that is there."""
    if size != MINI:
        return
    options = ["--dtype", name_of(dtype), "--device", device]
    ask = [sys.executable, "-m", "pixellm", "ask", PHOTOGRAPH, "Segment the cat.", *options]
    modules = (
        "from pixellm.cli.common import collect_less; collect_less(); import pixellm.predictor, pixellm.imaging.overlay"
    )
    imports = [sys.executable, "-c", modules]
    for way, command in (("cold", ask), ("imports", imports)):
        seconds = min(ways.seconds_of(lambda command=command: run(command)) for _ in range(ROUNDS + 1))
        yield {"way": way, "seconds": seconds}
    predictor = load(size, dtype, device)
    predictor.set_image(PHOTOGRAPH)
    predictor.ask("Segment the cat.")

    def warm() -> None:
        predictor.set_image(PHOTOGRAPH)
        predictor.ask("Segment the cat.")

    yield {"way": "warm", "seconds": min(ways.seconds_of(warm) for _ in range(ROUNDS))}


PARTS: dict[str, Callable[[str, torch.dtype, str], Iterator[Row]]] = {
    "question": question,
    "sharing": sharing,
    "decoder": decoder,
    "start": start,
}


def quickest(calls: dict[str, Callable[[Task], ways.Times]], asked: Task, rounds: int) -> dict[str, ways.Times]:
    runs = [{way: call(asked) for way, call in calls.items()} for _ in range(rounds)]
    return {way: min((run[way] for run in runs), key=lambda times: times.end) for way in calls}


def rounds_for(count: int) -> int:
    return ROUNDS if count <= TYPICAL else 1


def run(command: list[str]) -> None:
    with tempfile.TemporaryDirectory() as empty:
        subprocess.run(command, check=True, cwd=empty, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
