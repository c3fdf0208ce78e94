"""uvicorn with header timeouts, JSON errors for malformed requests, and a graceful shutdown."""

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pixellm.serve.errors import ApiError
from pixellm.serve.middleware import RequestMiddleware
from pixellm.serve.settings import ServeSettings
from pixellm.utils import limits

KEEP_ALIVE = 15  # seconds between two requests of a connection
LINGER = 2  # seconds from an error response to closing its connection


class HardenedH11Protocol(H11Protocol):
    """Connection on which a request's headers must arrive within `settings.header_timeout`."""

    def __init__(self, settings: ServeSettings, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = settings
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        responded = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is h11.IDLE or (responded and self.conn.their_state is h11.SEND_BODY):
            self._start_timer()
        else:
            self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        unparsed, _ = self.conn.trailing_data
        limit = self._settings.max_header_bytes
        if len(unparsed) > limit:
            self._refuse(ApiError(431, f"expected headers of at most {limit:,} bytes, got more."))
        else:
            self._refuse(ApiError(400, "expected an HTTP/1.1 request."))

    def _start_timer(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self._settings.header_timeout, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        if not self.transport.is_closing():
            self._refuse(ApiError(408, f"expected a request's headers within {self._settings.header_timeout:g} s."))

    def _refuse(self, error: ApiError) -> None:
        body = json.dumps(error.body()).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        headers.append((b"content-length", str(len(body)).encode()))
        response = h11.Response(status_code=error.status, headers=headers)
        with suppress(h11.LocalProtocolError):  # another response has started already
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        # Closing at once would reset the connection of a client that is still sending, before it reads the error.
        self._refused = True
        self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)


class Server(uvicorn.Server):
    """Serve until SIGTERM or Ctrl-C, then finish running answers."""

    def __init__(self, app: RequestMiddleware, settings: ServeSettings, on_ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http=partial(HardenedH11Protocol, settings),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.MAX_CONNECTIONS,
            h11_max_incomplete_event_size=settings.max_header_bytes,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=round(settings.drain_timeout),
        )
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def stop(self) -> None:
        """Shut down as on SIGTERM."""
        self.should_exit = True

    def serve_on(self, listening: socket.socket) -> None:
        """Serve until the shutdown is complete.

        uvicorn raises the signal that stopped it again at the end; a requested shutdown is no failure.
        """
        previous = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            with suppress(KeyboardInterrupt):
                self.run(sockets=[listening])
        finally:
            signal.signal(signal.SIGTERM, previous)
