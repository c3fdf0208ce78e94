"""SIGHUP loads the model anew: the checkpoint that its name stands for now, while the earlier one answers."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from pixellm.serve.dispatcher import Dispatcher
from pixellm.serve.messages import WorkerSettings

logger = logging.getLogger(__name__)


@asynccontextmanager
async def reload_on_hangup(dispatcher: Dispatcher, find: Callable[[], WorkerSettings]) -> AsyncIterator[None]:
    """Reload on SIGHUP; several signals while a model is loading are one. Only in the main thread.

    Args:
        dispatcher: answers questions.
        find: looks for the model again, in a thread of its own; its ValueError leaves everything as it is.
    """
    requested = asyncio.Event()
    loop, has_terminal = asyncio.get_running_loop(), os.isatty(0)

    def on_hangup() -> None:
        if has_terminal and not os.isatty(0):  # its terminal was closed: nobody asks for a model
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            requested.set()

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    reloading = asyncio.create_task(_reload_when(requested, dispatcher, find))
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        reloading.cancel()
        with suppress(asyncio.CancelledError):
            await reloading


async def _reload_when(requested: asyncio.Event, dispatcher: Dispatcher, find: Callable[[], WorkerSettings]) -> None:
    while True:
        await requested.wait()
        requested.clear()
        try:
            settings = await asyncio.to_thread(find)
            logger.info("loading %s", settings.model)
            await dispatcher.reload(settings)
        except (ValueError, RuntimeError, OSError) as error:
            dispatcher.metrics.reloads.labels("failed").inc()
            logger.error("the earlier model goes on: %s", error)
        else:
            dispatcher.metrics.reloads.labels("loaded").inc()
            logger.info("answers come from %s now", settings.model)
