"""Review of generated records on a local web page: look, keep, reject, edit; every decision is on disk at once.

journal → Review → JSON (`view.py`) → page/ (HTML, CSS and JavaScript without a build, nothing from the network)
"""

import io
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.middleware.trustedhost import TrustedHostMiddleware

import pixellm
from pixellm.imaging.images import load_image
from pixellm.muse.journal import Journal, Verdict
from pixellm.muse.records import MuseImage, MuseRecord
from pixellm.muse.view import view
from pixellm.types import SEG_SLOT
from pixellm.utils.checks import check_unicode

PAGE = Path(__file__).parent / "page"
SHARED = Path(pixellm.__file__).parent / "page"
JPEG_QUALITY = 90
# Nothing but the page's own files: a record's text could not load or run anything, even if the page took it for HTML.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Show = Literal["all", "undecided", "keep", "reject"]


class Decision(BaseModel):
    """Verdict of a reviewer; None withdraws it with any edit."""

    verdict: Verdict | None


class Edit(BaseModel):
    """Texts of a record as a reviewer wants them."""

    question: str
    text: str
    descriptions: list[str]


class Review:
    """Review of a journal.

    Args:
        journal: open, so that nobody else writes to it; only the lists of ids and verdicts are held in memory.
        images: folder that the records' `file_name` are relative to.
    """

    def __init__(self, journal: Journal, images: Path) -> None:
        self.images = Path(os.path.abspath(images))
        self._journal = journal
        self._ids = journal.record_ids()
        self._position = {record_id: i for i, record_id in enumerate(self._ids)}
        self._verdicts = journal.reviews()
        self._lock = threading.Lock()  # requests come in several threads, SQLite has one connection

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._position

    def counts(self) -> dict[str, int]:
        """Return the number of records, and those by verdict."""
        decided = Counter(self._verdicts.values())
        total = len(self._ids)
        return {
            "all": total,
            "undecided": total - decided.total(),
            "keep": decided["keep"],
            "reject": decided["reject"],
        }

    def find(self, show: Show, beside: str | None, step: int) -> str | None:
        """Find the nearest record of a kind after (`step` 1) or before (-1) another, or the first; None if none is."""
        start = step + (-1 if beside is None else self._position[beside])
        for i in range(start, len(self._ids) if step > 0 else -1, step):
            if show in ("all", self._verdicts.get(self._ids[i], "undecided")):
                return self._ids[i]
        return None

    def record(self, record_id: str) -> MuseRecord:
        """Return a record with a reviewer's edits."""
        with self._lock:
            return self._journal.record(record_id)

    def show(self, record_id: str) -> dict[str, Any]:
        """Return the content of a record for the page."""
        record = self.record(record_id)
        return view(record) | {
            "verdict": self._verdicts.get(record_id),
            "edited": record != self._original(record_id),
            "number": self._position[record_id] + 1,
            "counts": self.counts(),
        }

    def decide(self, record_id: str, verdict: Verdict | None) -> None:
        """Keep or reject a record, as edited; None: withdraw verdict and edits."""
        if verdict is None:
            with self._lock:
                self._journal.withdraw(record_id)
                self._verdicts.pop(record_id, None)
        else:
            self._save(self.record(record_id), verdict)

    def edit(self, record_id: str, question: str, text: str, descriptions: Sequence[str]) -> None:
        """Replace the texts of a record, and keep it.

        Raises:
            ValueError: they don't fit its targets.
        """
        self._save(reworded(self.record(record_id), question, text, descriptions), "keep")

    def jpeg(self, record_id: str) -> bytes:
        """Return the image of a record as JPEG.

        Raises:
            ValueError: it can't be read, has another size than the record says, or is not below the folder of images.
        """
        expected = self.record(record_id).image
        image = load_image(self._path(expected))
        if image.size != (expected.width, expected.height):
            raise ValueError(
                f"expected {expected.width}×{expected.height} pixels, got {expected.file_name} of "
                f"{image.width}×{image.height}. Give the folder that the records were made from."
            )
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=JPEG_QUALITY)
        return stream.getvalue()

    def _path(self, image: MuseImage) -> Path:
        path = Path(os.path.abspath(self.images / image.file_name))
        if not path.is_relative_to(self.images):  # links in the folder are its owner's; names come from anybody
            raise ValueError(f"expected a file below the folder of images, got {image.file_name!r}. Check its source.")
        return path

    def _original(self, record_id: str) -> MuseRecord:
        with self._lock:
            return self._journal.record(record_id, reviewed=False)

    def _save(self, record: MuseRecord, verdict: Verdict) -> None:
        edited = record if record != self._original(record.record_id) else None
        with self._lock:
            self._journal.review(record.record_id, verdict, edited)
            self._verdicts[record.record_id] = verdict


def reworded(record: MuseRecord, question: str, text: str, descriptions: Sequence[str]) -> MuseRecord:
    """Return the record with other texts.

    Raises:
        ValueError: the question or a description is empty, or the text has not one `{seg}` for each target.
    """
    wanted = len(record.targets)
    question, text, descriptions = question.strip(), text.strip(), [text.strip() for text in descriptions]
    for words in (question, text, *descriptions):
        check_unicode(words)
    if not question:
        raise ValueError("expected a question, got nothing. Write one, or reject the record.")
    if text.count(SEG_SLOT) != wanted:
        raise ValueError(
            f"expected {wanted} {SEG_SLOT} in the answer, one for each target, got {text.count(SEG_SLOT)}. "
            "Write one right behind the words for each target, in the targets' order."
        )
    if len(descriptions) != wanted or not all(descriptions):
        raise ValueError(f"expected words for each of {wanted} targets, got {sum(map(bool, descriptions))}.")
    pairs = zip(record.targets, descriptions, strict=True)
    targets = tuple(replace(target, description=words) for target, words in pairs)
    return replace(record, question=question, text=text, targets=targets)


def create_app(review: Review, hosts: Sequence[str]) -> FastAPI:
    """Return the app that serves the page and its API.

    Args:
        review: review of an open journal.
        hosts: accepted host names, "*" for any. Others are refused: they are web sites that try to reach this
            computer through its owner's browser.
    """
    # No pages of documentation: they load from the network.
    app = FastAPI(title="pixellm muse review", openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.middleware("http")
    async def secure(request: Request, call_next) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(ValueError)
    async def explain(_: Request, error: ValueError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    def known(record_id: str) -> str:
        if record_id not in review:
            raise HTTPException(404, f"There is no record {record_id!r} in this journal.")
        return record_id

    @app.get("/api/find")
    def find(show: Show = "all", beside: str | None = None, step: Literal["1", "-1"] = "1") -> dict[str, Any]:
        record_id = review.find(show, None if beside is None else known(beside), int(step))
        if record_id is None:
            raise HTTPException(404, "No more records here.")
        return review.show(record_id)

    @app.get("/api/records/{record_id:path}")
    def show(record_id: str) -> dict[str, Any]:
        return review.show(known(record_id))

    # Changes are PUT: browsers let no other site send that here.
    @app.put("/api/records/{record_id:path}")
    def edit(record_id: str, change: Edit) -> dict[str, Any]:
        review.edit(known(record_id), change.question, change.text, change.descriptions)
        return review.show(record_id)

    @app.put("/api/verdicts/{record_id:path}")
    def decide(record_id: str, decision: Decision) -> dict[str, Any]:
        review.decide(known(record_id), decision.verdict)
        return review.show(record_id)

    @app.get("/api/images/{record_id:path}")
    def image(record_id: str) -> Response:
        return Response(review.jpeg(known(record_id)), media_type="image/jpeg")

    app.mount("/shared", StaticFiles(directory=SHARED))
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


class _Server(uvicorn.Server):
    """Server that calls `ready` once Ctrl-C ends it cleanly."""

    def __init__(self, app: FastAPI, ready: Callable[[], None]) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=2))
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def serve(app: FastAPI, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C, and finish what is being saved then; `ready` is called at the start."""
    with suppress(KeyboardInterrupt):
        _Server(app, ready).run(sockets=[listening])
