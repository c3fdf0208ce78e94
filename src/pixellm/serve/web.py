"""The page of `pixellm web`: plain files, example photographs, and what they need to know. It asks through the API.

page/ (HTML, CSS and JavaScript as they are: no build, nothing from the network) → POST /v1/chat/completions
"""

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import pixellm
from pixellm.imaging.examples import EXAMPLES, load_example
from pixellm.serve import errors
from pixellm.serve.settings import Settings

ROOT, FILES = "/", "/web"
PAGE = Path(__file__).parent / "page"
SHARED = Path(pixellm.__file__).parent / "page"
# Only its own files, the API beside it, and the images that people give to it.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self' blob:",
        "img-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
THUMBNAIL = 320  # pixels of its longer side
# The examples that the page offers, and what it offers to ask about each.
QUESTIONS = {
    "cat": "Segment the cat.",
    "coffee": "Segment the cup and the spoon.",
    "motorcycle": "What could I ride on?",
    "astronaut": "Segment the person and the flag.",
    "cameraman": "Segment the person and the camera.",
    "rocket": "Segment the rocket.",
}


def is_page(path: str) -> bool:
    """Whether a path is the page's: for everybody, since nothing of it is a secret, and all that it asks wants keys."""
    return path == ROOT or path.startswith(f"{FILES}/")


class Shown:
    """ASGI middleware: the page's own policy, in place of the one that lets browsers do nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message["headers"], policy]}
            await send(message)

        await self.app(scope, receive, sending)


def mount(app: FastAPI, settings: Settings) -> None:
    """Add the page to an app."""
    from pixellm.imaging.overlay import COLOURS, OPACITY, ink_on  # takes half a second, and not every server has a page

    pages = FastAPI(openapi_url=None)
    errors.install(pages)

    @app.get(ROOT, include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY})

    @pages.get("/about.json")
    async def about() -> dict[str, Any]:
        """What the page can't know by itself."""
        examples = [
            {"name": name, "caption": EXAMPLES[name].caption, "question": question}
            for name, question in QUESTIONS.items()
        ]
        return {
            "model": settings.model_name,
            "colours": [{"colour": colour, "ink": ink_on(i)} for i, colour in enumerate(COLOURS)],
            "opacity": OPACITY,
            "examples": examples,
            "max_turns": settings.max_turns,
            "max_question_chars": settings.max_question_chars,
        }

    @pages.get("/examples/{name}.png")
    def photograph(name: str) -> Response:
        return Response(_example(name, "PNG", None), media_type="image/png")

    @pages.get("/examples/{name}.jpg")
    def thumbnail(name: str) -> Response:
        return Response(_example(name, "JPEG", THUMBNAIL), media_type="image/jpeg")

    pages.mount("/shared", StaticFiles(directory=SHARED))
    pages.mount("/", StaticFiles(directory=PAGE))
    app.mount(FILES, Shown(pages))


@lru_cache(maxsize=2 * len(QUESTIONS))
def _example(name: str, kind: str, longest: int | None) -> bytes:
    """An example photograph as a file; ApiError 404: there is none of that name."""
    if name not in QUESTIONS:
        raise errors.ApiError(404, "There is no example of that name.")
    photograph = load_example(name)
    if longest is not None:
        photograph.thumbnail((longest, longest))
    stream = io.BytesIO()
    photograph.save(stream, kind)
    return stream.getvalue()
