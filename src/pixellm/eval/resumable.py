"""Files of rows that are appended as they are made, so that an interrupted command resumes.

The first line is a fingerprint: what the rows depend on. Rows of anything else are refused, never mixed.
"""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pixellm.types import Answer, Segmenter
from pixellm.utils.files import write_text

logger = logging.getLogger(__name__)

CHUNK = 8  # questions on one image that are answered together

Row = TypeVar("Row")


def ask_all(segmenter: Segmenter, questions: Sequence[str]) -> list[Answer]:
    """Answer questions on the current image, `CHUNK` at a time."""
    chunks = [questions[at : at + CHUNK] for at in range(0, len(questions), CHUNK)]
    return [answer for chunk in chunks for answer in segmenter.ask_many(chunk)]


def resume(path: Path, fingerprint: dict[str, Any], parse: Callable[[dict[str, Any]], Row]) -> list[Row]:
    """Return the rows that are in the file already, and make it ready to be appended to.

    Raises:
        ValueError: the file holds something else.
    """
    rows = read(path, fingerprint) if path.is_file() else []
    try:
        parsed = [parse(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise _no_results(path, error) from error
    if rows:
        logger.info("%s: resuming after %d answers", path, len(rows))
    write(path, fingerprint, rows)  # without a line that an interruption cut off
    return parsed


def read(path: Path, fingerprint: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a file, without its fingerprint and without an incomplete line.

    Raises:
        ValueError: it holds something else.
    """
    complete, _newline, _cut = path.read_text(encoding="utf-8").rpartition("\n")
    try:
        header, *rows = [json.loads(line) for line in complete.split("\n")]
        stored = header["fingerprint"]
        different = [key for key in fingerprint if stored.get(key) != fingerprint[key]]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise _no_results(path, error) from error
    if different:
        got = "; ".join(f"{key}: {stored.get(key)}, now {fingerprint[key]}" for key in different)
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
    """Append rows."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def write(path: Path, fingerprint: dict[str, Any], rows: Iterable[dict[str, Any]]) -> None:
    """Write the whole file anew, atomically."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in ({"fingerprint": fingerprint}, *rows)))
