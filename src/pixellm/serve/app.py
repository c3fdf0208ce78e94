"""FastAPI application: routes, error handlers, OpenAPI description, and the worker's lifetime."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer

from pixellm import __version__
from pixellm.data.corrections import CorrectionStore
from pixellm.serve import errors, routes, schema, web
from pixellm.serve.authentication import ApiKeys
from pixellm.serve.dispatcher import Dispatcher
from pixellm.serve.messages import WorkerSettings
from pixellm.serve.metrics import Metrics
from pixellm.serve.middleware import RequestMiddleware
from pixellm.serve.reload import reload_on_hangup
from pixellm.serve.request_handler import RequestHandler
from pixellm.serve.settings import ServeSettings
from pixellm.utils.allocator import return_freed_memory


def create_app(
    worker: WorkerSettings,
    settings: ServeSettings,
    keys: ApiKeys,
    on_failure: Callable[[str], None],
    integrations: Sequence[Callable[[RequestHandler], APIRouter]] = (),
    find_worker: Callable[[], WorkerSettings] | None = None,
) -> RequestMiddleware:
    """Build the application, wrapped in the middleware that checks every request.

    Args:
        worker: the model, and the limits of its worker process.
        settings: limits and timeouts.
        keys: accepted API keys.
        on_failure: is called with the reason if the model cannot be loaded.
        integrations: build further routes, of other tools, behind the same checks.
        find_worker: looks for the model again on SIGHUP; None: the signal is left alone.
    """
    return_freed_memory()
    metrics = Metrics()
    dispatcher = Dispatcher(worker, settings, metrics)
    handler = RequestHandler(settings, dispatcher)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        supervisor = dispatcher.open()
        supervisor.add_done_callback(lambda task: None if task.cancelled() else on_failure(str(task.exception())))
        await handler.decoder.processes.warm(2)
        try:
            async with reload_on_hangup(dispatcher, find_worker) if find_worker else nullcontext():
                yield
        finally:
            await handler.decoder.processes.close()
            await dispatcher.close()

    # No documentation pages: they load scripts from the network. /openapi.json has the same content.
    app = FastAPI(title="pixellm", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    errors.install(app)
    # Only described here: the middleware authenticates.
    security = [Depends(HTTPBearer(auto_error=False, description="An API key of this server."))] if keys else []
    app.include_router(routes.chat_routes(handler), dependencies=security)
    app.include_router(routes.segment_routes(handler), dependencies=security)
    app.include_router(routes.refine_routes(handler), dependencies=security)
    if settings.corrections is not None:
        store = CorrectionStore(settings.corrections, settings.max_corrections_bytes)
        app.include_router(routes.correction_routes(handler, store), dependencies=security)
    for further_routes in integrations:
        app.include_router(further_routes(handler), dependencies=security)
    app.include_router(routes.status_routes(handler))
    if settings.page:
        web.mount(app, settings, dispatcher)
    bodies = [schema.ChatRequest, schema.SegmentRequest, schema.RefineRequest]
    bodies += [schema.CorrectionRequest] if settings.corrections is not None else []
    app.openapi = lambda: _openapi(app, bodies)  # type: ignore[method-assign]
    return RequestMiddleware(app, settings, keys, metrics, dispatcher.end_answers)


def _openapi(app: FastAPI, bodies: Sequence[type[schema.RequestModel]]) -> dict[str, Any]:
    """Describe the API, with the request bodies, which the routes parse themselves."""
    if app.openapi_schema is None:
        description = get_openapi(
            title=app.title,
            version=app.version,
            description="Ask a question about an image; get text and one mask for each target it names.",
            routes=app.routes,
        )
        for model in bodies:
            body = model.model_json_schema(ref_template="#/components/schemas/{model}")
            description["components"]["schemas"].update(body.pop("$defs", {}))
            description["components"]["schemas"][model.__name__] = body
        app.openapi_schema = description
    return app.openapi_schema
