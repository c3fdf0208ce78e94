"""Answers that are appended to a file as they are made, and found again after an interruption.

The file's first line is a fingerprint: what the rows depend on. Rows of anything else are refused, never mixed.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pixellm.types import Answer, Segmenter
from pixellm.utils.files import write_text

logger = logging.getLogger(__name__)

CHUNK = 8  # questions on one photograph that are answered together

Row = TypeVar("Row")


def ask_all(segmenter: Segmenter, texts: Sequence[str]) -> list[Answer]:
    """Answers to questions on the photograph that is set, several at a time where the segmenter can (`ask_many`)."""
    ask_many = getattr(segmenter, "ask_many", None)
    if ask_many is None:
        return [segmenter.ask(text) for text in texts]
    return [answer for at in range(0, len(texts), CHUNK) for answer in ask_many(texts[at : at + CHUNK])]


def resume(path: Path, fingerprint: dict[str, Any], parse: Callable[[dict[str, Any]], Row]) -> list[Row]:
    """Rows that are in the file already; it is made ready to be appended to.

    Raises:
        ValueError: the file holds something else.
    """
    rows = read(path, fingerprint) if path.is_file() else []
    try:
        found = [parse(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise _no_results(path, error) from error
    if rows:
        logger.info("%s: %d answers are there already", path, len(rows))
    write(path, fingerprint, rows)  # without a line that an interruption cut off
    return found


def read(path: Path, fingerprint: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a file, without its fingerprint and without a line that is not complete.

    Raises:
        ValueError: it holds something else.
    """
    complete, _newline, _cut = path.read_text(encoding="utf-8").rpartition("\n")
    try:
        header, *rows = [json.loads(line) for line in complete.split("\n")]
        found = header["fingerprint"]
        different = [key for key in fingerprint if found.get(key) != fingerprint[key]]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise _no_results(path, error) from error
    if different:
        got = "; ".join(f"{key}: {found.get(key)}, now {fingerprint[key]}" for key in different)
        raise ValueError(
            f"expected results of this evaluation in {path}, got those of another ({got}). "
            "Delete the file, or give another output directory."
        )
    return rows


def _no_results(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"expected results of an evaluation in {path}, got something else ({error!r}). "
        "Move it away, or give another output directory."
    )


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows at the end."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def write(path: Path, fingerprint: dict[str, Any], rows: Iterable[dict[str, Any]]) -> None:
    """Write the whole file anew, or leave it as it is."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in ({"fingerprint": fingerprint}, *rows)))


def identify(directory: Path) -> str:
    """A digest of everything in a model directory."""
    digest = hashlib.sha256()
    for file in sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".")):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(directory).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:16]
