"""Web page of `pixellm web`: static files, example images, and the page's configuration.

page/ (plain HTML, CSS and JavaScript: no build, nothing from the network) → POST /v1/chat/completions
"""

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

import pixellm
from pixellm.imaging.examples import EXAMPLES, load_example
from pixellm.serve import errors
from pixellm.serve.settings import ServeSettings

ROOT, FILES = "/", "/web"
PAGE = Path(__file__).parent / "page"
SHARED = Path(pixellm.__file__).parent / "page"
# Content security policy: only the page's own files, the API, and images that users open.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' blob:; img-src 'self' blob:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
THUMBNAIL = 320  # pixels of the longer side
# Example images of the page, each with a suggested question.
QUESTIONS = {
    "cat": "Segment the cat.",
    "coffee": "Segment the cup and the spoon.",
    "motorcycle": "What could I ride on?",
    "astronaut": "Segment the person and the flag.",
    "cameraman": "Segment the person and the camera.",
    "rocket": "Segment the rocket.",
}


def is_page(path: str) -> bool:
    """Return True for the page's own files, which are public; its questions need a key like any request."""
    return path == ROOT or path.startswith(f"{FILES}/")


def mount(app: FastAPI, settings: ServeSettings) -> None:
    """Mount the page on an application."""
    from pixellm.imaging.overlay import COLOURS, OPACITY, ink_on  # slow import, not needed without the page

    pages = FastAPI(openapi_url=None)
    errors.install(pages)

    @app.get(ROOT, include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html")

    @pages.get("/about.json")
    async def about() -> dict[str, Any]:
        """Return what the page needs to know of the server."""
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
            "min_score": settings.min_score,
        }

    @pages.get("/examples/{name}.png")
    def example_image(name: str) -> Response:
        return Response(_example(name, "PNG", None), media_type="image/png")

    @pages.get("/examples/{name}.jpg")
    def example_thumbnail(name: str) -> Response:
        return Response(_example(name, "JPEG", THUMBNAIL), media_type="image/jpeg")

    pages.mount("/shared", StaticFiles(directory=SHARED))
    pages.mount("/", StaticFiles(directory=PAGE))
    app.mount(FILES, pages)


@lru_cache(maxsize=2 * len(QUESTIONS))
def _example(name: str, file_format: str, longest_side: int | None) -> bytes:
    """Encode an example image as a file; ApiError 404 for an unknown name."""
    if name not in QUESTIONS:
        raise errors.ApiError(404, f"expected one of {', '.join(QUESTIONS)}, got another name.")
    image = load_example(name)
    if longest_side is not None:
        image.thumbnail((longest_side, longest_side))
    stream = io.BytesIO()
    image.save(stream, file_format)
    return stream.getvalue()
