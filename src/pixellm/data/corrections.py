"""Corrections that people made of a model's masks, kept as data that `pixellm train --data` reads.

    FOLDER/corrections.jsonl   lines as in `pixellm.data.jsonl`, each with its provenance in `correction`
    FOLDER/images/DIGEST.png   every corrected image, once, without metadata

Correction → question and answer that teach it → a line, in the place of an earlier one about the same image and phrase
"""

import errno
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from pixellm.imaging import masks
from pixellm.imaging.images import pixel_digest
from pixellm.imaging.masks import Rle
from pixellm.types import SEG_SLOT, Target
from pixellm.utils.checks import check_unicode
from pixellm.utils.files import atomic_write, directory_size, exclusive_lock

FILE, IMAGES = "corrections.jsonl", "images"
LOCK_SECONDS = 20.0  # for other writers to finish: each takes well below a second


@dataclass(frozen=True)
class Correction:
    """A mask as a person wants it, and where it comes from.

    Args:
        phrase: words of the target.
        mask: RLE at the image's size; without a pixel: the image does not show it.
        before: RLE that the model gave; None: it gave none.
        question: as it was asked, if it asks for this phrase alone; "": "Segment the PHRASE.".
        answer: text of the model's answer.
        model: name of the model that answered.
        checkpoint: directory of its weights.
        tool: program in which the mask was corrected.
        user: who corrected it, as the tool says.
        owner: tenant that sent it; replaces only corrections of its own.

    Raises:
        ValueError: a phrase without words or with `{seg}`, a malformed mask, or masks of two sizes.
    """

    phrase: str
    mask: Rle
    before: Rle | None = None
    question: str = ""
    answer: str = ""
    model: str = ""
    checkpoint: str = ""
    tool: str = ""
    user: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        if not self.phrase.strip():
            raise ValueError("expected words of the target, got an empty phrase. Name the object")
        for text in (
            self.phrase,
            self.question,
            self.answer,
            self.model,
            self.checkpoint,
            self.tool,
            self.user,
            self.owner,
        ):
            check_unicode(text)
        if SEG_SLOT in self.phrase:
            raise ValueError(f"expected a phrase without {SEG_SLOT}, which stands for a mask, got {self.phrase[:60]!r}")
        mask = masks.read_rle(self.mask)
        object.__setattr__(self, "mask", mask)
        if self.before is not None:
            object.__setattr__(self, "before", masks.read_rle(self.before, *mask["size"]))

    def check_size(self, height: int, width: int) -> None:
        """Raise a ValueError unless the mask is of an image of this size in pixels."""
        masks.read_rle(self.mask, height, width)

    def to_json(self) -> dict[str, Any]:
        """Return the fields of a request to `POST /v1/corrections`, but `image`; the server knows the others itself."""
        sent = {"segmentation": dict(self.mask), "before": self.before and dict(self.before)}
        for name in ("phrase", "question", "answer", "model", "tool", "user"):
            sent[name] = getattr(self, name)
        return {name: value for name, value in sent.items() if value}

    @property
    def name(self) -> str:
        """The phrase in lower case, without an article: what an image is corrected for."""
        return Target(self.phrase, (0, 0), self.mask).category

    def exchange(self) -> dict[str, Any]:
        """Return the question, answer and masks that teach the correction."""
        question = self.question.strip() or f"Segment the {self.name}."
        if not masks.area(self.mask):
            return {"question": question, "answer": f"There is no {self.name} here.", "masks": []}
        return {"question": question, "answer": f"The {self.name} {SEG_SLOT}.", "masks": [dict(self.mask)]}

    def provenance(self, time: str) -> dict[str, Any]:
        """Return what the line says about its origin; `added` and `removed` are pixels."""
        texts = {
            "phrase": self.phrase,
            "answer": self.answer,
            "model": self.model,
            "checkpoint": self.checkpoint,
            "tool": self.tool,
            "user": self.user,
            "owner": self.owner,
        }
        kept = masks.intersection_area(self.mask, self.before) if self.before is not None else 0
        return {
            **{field: text for field, text in texts.items() if text},
            "time": time,
            "before": self.before and dict(self.before),
            "added": masks.area(self.mask) - kept,
            "removed": (masks.area(self.before) if self.before is not None else 0) - kept,
        }


@dataclass(frozen=True)
class StoredCorrection:
    """Result of storing: `id` of the line, path of the image, and whether an earlier line was replaced."""

    id: str
    image: Path
    replaced: bool


class CorrectionStore:
    """Folder of corrections; several threads and processes may write to it.

    A line or image is there as a whole or not at all, whenever a writer is killed.

    Args:
        folder: is made with the first correction.
        max_bytes: size of the folder; None: as much as the disk holds.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    @property
    def file(self) -> Path:
        return self.folder / FILE

    def add(self, image: Image.Image, correction: Correction) -> StoredCorrection:
        """Keep a correction of an RGB image.

        Raises:
            ValueError: a mask of another size than the image, or others write for too long.
            OSError: the folder or the disk is full, or can't be written.
        """
        correction.check_size(image.height, image.width)
        digest = pixel_digest(image.size, image.tobytes())
        name = f"{IMAGES}/{digest}.png"
        row = _row(name, digest, correction)
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        png = b"" if (self.folder / name).exists() else _png(image)
        with exclusive_lock(self.file, LOCK_SECONDS):
            self._remove_leftovers()
            self._check_room(len(line) + len(png))
            if png:
                with atomic_write(self.folder / name) as temporary:
                    temporary.write_bytes(png)
            return StoredCorrection(row["id"], self.folder / name, self._write(row["id"], line))

    def _write(self, line_id: str, line: bytes) -> bool:
        """Append a line and drop an earlier one of the same id; the file is read and written line by line."""
        replaced = False
        with atomic_write(self.file) as temporary, temporary.open("wb") as out:
            for earlier in self._lines():
                if _has_id(earlier, line_id):
                    replaced = True
                else:
                    out.write(earlier.rstrip(b"\r\n") + b"\n")
            out.write(line)
        return replaced

    def _lines(self) -> Iterator[bytes]:
        if self.file.exists():
            with self.file.open("rb") as file:
                yield from (line for line in file if line.strip())

    def _check_room(self, size: int) -> None:
        if self.max_bytes is not None and directory_size(self.folder) + size > self.max_bytes:
            raise OSError(errno.ENOSPC, f"the corrections take their {self.max_bytes:,} bytes", str(self.folder))

    def _remove_leftovers(self) -> None:
        """Delete what killed writers left; call it while the lock is held: then nobody else writes."""
        for stale in (*self.folder.glob(f".*-{FILE}"), *(self.folder / IMAGES).glob(".*-*.png")):
            stale.unlink(missing_ok=True)


def _row(image: str, digest: str, correction: Correction) -> dict[str, Any]:
    """Return the line of a correction; its id is that of owner, image and phrase."""
    key = json.dumps([correction.owner, digest, correction.name])
    return {
        "id": hashlib.sha256(key.encode()).hexdigest()[:24],
        "image": image,
        **correction.exchange(),
        "correction": correction.provenance(datetime.now(UTC).isoformat(timespec="seconds")),
    }


def _has_id(line: bytes, line_id: str) -> bool:
    if line_id.encode() not in line:
        return False
    try:
        return json.loads(line).get("id") == line_id
    except (ValueError, AttributeError):  # a line of somebody else's, which `pixellm data check` reports
        return False


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(stream, "PNG", compress_level=1)  # without metadata
    return stream.getvalue()
