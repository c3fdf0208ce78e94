"""The application: routes, errors, the model's process for as long as it runs."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer

from pixellm import __version__
from pixellm.serve import errors, routes, schema, web
from pixellm.serve.asking import Asking
from pixellm.serve.auth import Keys
from pixellm.serve.dispatcher import Dispatcher
from pixellm.serve.gate import Gate
from pixellm.serve.messages import Start
from pixellm.serve.metrics import Metrics
from pixellm.serve.settings import Settings


def create_app(start: Start, settings: Settings, keys: Keys, failed: Callable[[str], None]) -> tuple[FastAPI, Gate]:
    """The routes, and the gate in front of them, which is what a server runs.

    Args:
        start: the model, and how much of it.
        settings: limits.
        keys: who may ask; none: anybody.
        failed: is called with the reason when the model can't be loaded at all.
    """
    metrics = Metrics()
    dispatcher = Dispatcher(start, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        supervisor = dispatcher.open()
        supervisor.add_done_callback(lambda task: None if task.cancelled() else failed(str(task.exception())))
        try:
            yield
        finally:
            await dispatcher.close()

    # No pages of documentation: they load scripts from the network. /openapi.json is what they would show.
    app = FastAPI(title="pixellm", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    errors.install(app)
    asking = Asking(settings, dispatcher)
    # The gate looks at keys; here they are described.
    described = [Depends(HTTPBearer(auto_error=False, description="A key of this server."))] if keys else []
    app.include_router(routes.chat_routes(asking), dependencies=described)
    app.include_router(routes.segment_routes(asking), dependencies=described)
    app.include_router(routes.state_routes(asking))
    if settings.page:
        web.mount(app, settings)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return app, Gate(app, settings, keys, metrics)


def _described(app: FastAPI) -> dict[str, Any]:
    """OpenAPI, with the bodies that are read by hand."""
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title,
            version=app.version,
            description="Ask a question about an image; get text and one mask for each thing it names.",
            routes=app.routes,
        )
        for model in (schema.ChatRequest, schema.SegmentRequest):
            found = model.model_json_schema(ref_template="#/components/schemas/{model}")
            described["components"]["schemas"].update(found.pop("$defs", {}))
            described["components"]["schemas"][model.__name__] = found
        app.openapi_schema = described
    return app.openapi_schema
