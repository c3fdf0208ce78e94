"""Web page of `pixellm web`: static files, example images, and the page's configuration.

page/ (plain HTML, CSS and JavaScript: no build, nothing from the network) → POST /v1/chat/completions, /v1/refine
"""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

from pixellm.serve import errors, page_content
from pixellm.serve.dispatcher import Dispatcher
from pixellm.serve.page_content import PAGE, QUESTIONS, SHARED
from pixellm.serve.settings import ServeSettings

ROOT, FILES = "/", "/web"
# Content security policy: only the page's own files, the API, and images that users open.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' blob:; img-src 'self' blob:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def is_page(path: str) -> bool:
    """Return True for the page's own files, which are public; its questions need a key like any request."""
    return path == ROOT or path.startswith(f"{FILES}/")


def mount(app: FastAPI, settings: ServeSettings, dispatcher: Dispatcher) -> None:
    """Mount the page on an application."""
    pages = FastAPI(openapi_url=None)
    errors.install(pages)
    configuration = page_content.about(
        settings.model_name, settings.max_turns, settings.max_question_chars, settings.min_score
    )

    @app.get(ROOT, include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html")

    @pages.get("/about.json")
    async def about() -> dict[str, Any]:
        """Return what the page needs to know of the server."""
        takes = {"takes_prompts": dispatcher.takes_prompts, "corrections": settings.corrections is not None}
        return configuration | takes

    @pages.get("/examples/{name}.png")
    def example_image(name: str) -> Response:
        return Response(page_content.example_image(_known(name)), media_type="image/png")

    @pages.get("/examples/{name}.jpg")
    def example_thumbnail(name: str) -> Response:
        return Response(page_content.example_thumbnail(_known(name)), media_type="image/jpeg")

    pages.mount("/shared", StaticFiles(directory=SHARED))
    pages.mount("/", StaticFiles(directory=PAGE))
    app.mount(FILES, pages)


def _known(name: str) -> str:
    """Return the name of an example image; ApiError 404 for another one."""
    if name not in QUESTIONS:
        raise errors.ApiError(404, f"expected one of {', '.join(QUESTIONS)}, got another name.")
    return name
