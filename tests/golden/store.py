"""Recorded results as files, and what differs between two of them."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from . import RECORDED, ROOT

THREADS = 1  # sums are split by threads: their last bits depend on how many there are
DIGEST = "sha256"  # keys that end so hold digests, which say nothing where last bits may differ


def machine() -> dict[str, Any]:
    """Return what last bits depend on."""
    return {
        "torch": torch.__version__.partition("+")[0],
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.is_available(),
        "threads": torch.get_num_threads(),
    }


def digest(content: bytes | str) -> str:
    """Return the start of a SHA-256."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def file_of(name: str) -> Path:
    """Return the file of a result."""
    return RECORDED / f"{name}.json"


def write(name: str, results: Any) -> None:
    """Record results; a ValueError if a path of this machine is in them."""
    text = "".join(_lines({"machine": machine(), "results": plain(results)}))
    for path in {str(ROOT), str(ROOT.parent), tempfile.gettempdir(), os.path.expanduser("~")}:
        if f"{path}/" in text:
            at = text.index(f"{path}/")
            raise ValueError(f"{name}: expected no path of this machine, got {text[at - 40 : at + 80]!r}.")
    file_of(name).write_text(text + "\n", encoding="utf-8")


def read(name: str) -> tuple[dict[str, Any], Any]:
    """Return the machine that a result was recorded on, and the result."""
    content = json.loads(file_of(name).read_text(encoding="utf-8"))
    return content["machine"], content["results"]


def plain(results: Any) -> Any:
    """Return results as they are once they were written and read."""
    return json.loads(json.dumps(results, ensure_ascii=False))


def _lines(value: Any, indent: str = "") -> Iterator[str]:
    """JSON with sorted keys, a line for each thing that holds no other list or mapping."""
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(one, dict | list) for one in held):
        yield json.dumps(value, ensure_ascii=False, sort_keys=True)
        return
    first, last = "{}" if isinstance(value, dict) else "[]"
    items = sorted(value.items()) if isinstance(value, dict) else [(None, one) for one in value]
    yield first
    for number, (key, one) in enumerate(items):
        yield f"{',' if number else ''}\n{indent} "
        if key is not None:
            yield f"{json.dumps(key, ensure_ascii=False)}: "
        yield from _lines(one, f"{indent} ")
    yield f"\n{indent}{last}"


def differences(recorded: Any, found: Any, noise: float | None = None, where: str = "") -> Iterator[str]:
    """Yield what is different, a line each.

    Args:
        recorded: a result, as JSON gives it.
        found: another one.
        noise: None: bit for bit; else numbers may differ by this share of the larger one, or by this where both are
            below 1; digests are passed over.
        where: the place in the whole.
    """
    if isinstance(recorded, dict) and isinstance(found, dict):
        for key in sorted({*recorded, *found}):
            if noise is not None and key.endswith(DIGEST):
                continue
            missing = [title for title, one in (("recorded", recorded), ("found", found)) if key not in one]
            if missing:
                yield f"{where}/{key}: not in what was {missing[0]}"
            else:
                yield from differences(recorded[key], found[key], noise, f"{where}/{key}")
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        for index, (one, other) in enumerate(zip(recorded, found, strict=True)):
            yield from differences(one, other, noise, f"{where}/{index}")
    elif not _same(recorded, found, noise):
        yield f"{where}: recorded {_short(recorded)}, found {_short(found)}"


def _same(one: Any, other: Any, noise: float | None) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    if noise is None or not numbers:
        return type(one) is type(other) and repr(one) == repr(other)
    return math.isclose(one, other, rel_tol=noise, abs_tol=noise)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]} …"
