"""uvicorn with deadlines for reading and writing, JSON errors for malformed requests, and a graceful shutdown."""

import asyncio
import json
import logging
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
LINGER = 2  # seconds from an error response, or from the end of the drain timeout, to closing the connection
STATUS_LINE = b"HTTP/1.1 "  # how every response begins
PROBE_DELAY = 0.25  # seconds between the first two probes of a half-closed connection; doubled each time

logger = logging.getLogger(__name__)


class ResponseConnection(h11.Connection):
    """h11 connection whose next response begins with `sent` bytes that the client has already."""

    sent = 0

    def send(self, event: h11.Event) -> bytes | None:
        data = super().send(event)
        if isinstance(event, h11.Response) and data:
            data, self.sent = data[self.sent :], 0
        return data


class HardenedH11Protocol(H11Protocol):
    """Connection with deadlines.

    - A request's headers must arrive within `settings.header_timeout`.
    - What is written must be read within `settings.write_timeout`, a response that the client lets wait within
      `settings.request_timeout`; then the connection is aborted.
    - A client that closes its own half after its request gets its answer.
    """

    def __init__(self, settings: ServeSettings, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = ResponseConnection(h11.SERVER, settings.max_header_bytes)
        self._settings = settings
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._refused = self._half_closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # `send` waits until the client has taken everything before
        self._start_timer("headers", self._settings.header_timeout, self._refuse_slow_headers)

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._stop_timer(name)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        responded = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is h11.IDLE or (responded and self.conn.their_state is h11.SEND_BODY):
            self._start_timer("headers", self._settings.header_timeout, self._refuse_slow_headers)
        else:
            self._stop_timer("headers")

    def eof_received(self) -> bool:
        """Keep a connection open whose request is complete; a client that is gone altogether is found by a probe."""
        self._half_closed = self.cycle is not None and not (self.cycle.more_body or self.cycle.response_complete)
        if self._half_closed:
            self._probe()
        return self._half_closed

    def on_response_complete(self) -> None:
        self._stop_timer("response")
        super().on_response_complete()
        if self._half_closed and self.cycle.response_complete:  # else it is the next of several requests
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_timer("write", self._settings.write_timeout, self._abort)
        self._start_timer("response", self._settings.request_timeout, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_timer("write")

    def send_400_response(self, msg: str) -> None:
        unparsed, _ = self.conn.trailing_data
        limit = self._settings.max_header_bytes
        if len(unparsed) > limit:
            self._refuse(ApiError(431, f"expected headers of at most {limit:,} bytes, got more."))
        else:
            self._refuse(ApiError(400, "expected an HTTP/1.1 request."))

    def _start_timer(self, name: str, seconds: float, callback: Callable[[], None]) -> None:
        if name not in self._timers:
            self._timers[name] = self.loop.call_later(seconds, callback)

    def _stop_timer(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()

    def _abort(self) -> None:
        logger.info("aborted a connection whose client does not read its response")
        self.transport.abort()  # closing would wait for the client

    def _probe(self) -> None:
        """Send the next byte of the status line: it resets the connection of a client that closed both halves."""
        waits = not (self.cycle.response_started or self.transport.is_closing())
        if waits and self.conn.sent < len(STATUS_LINE):
            self.transport.write(STATUS_LINE[self.conn.sent :][:1])
            self._timers["probe"] = self.loop.call_later(PROBE_DELAY * 2**self.conn.sent, self._probe)
            self.conn.sent += 1

    def _refuse_slow_headers(self) -> None:
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
            timeout_graceful_shutdown=round(settings.drain_timeout) + LINGER,
        )
        super().__init__(config)
        self._on_ready, self._drain_timeout, self._end_answers = on_ready, settings.drain_timeout, app.end_answers

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running answers finish; those that do not in time end with an error that the client can read."""
        timer = asyncio.get_running_loop().call_later(self._drain_timeout, self._end_answers)
        await super().shutdown(sockets)
        timer.cancel()

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
