"""uvicorn, with time limits and errors of ours where requests are not requests yet, and an orderly end."""

import asyncio
import json
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pixellm.serve.errors import ApiError
from pixellm.serve.gate import Gate
from pixellm.serve.settings import Settings

KEEP_ALIVE = 15  # seconds between two requests of a connection
LINGER = 2  # seconds between a refusal and the end of its connection
CONNECTIONS = 2000  # open at once; each is a file of ours


def protocol(settings: Settings) -> type[H11Protocol]:
    """A connection on which a request's headers must come within `settings.header_timeout`."""

    class Protocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._waited()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            super().data_received(data)
            answered = self.cycle is not None and self.cycle.response_complete
            if self.conn.their_state is h11.IDLE or (answered and self.conn.their_state is h11.SEND_BODY):
                self._wait()
            else:
                self._waited()

        def send_400_response(self, msg: str) -> None:
            whole, _ = self.conn.trailing_data
            if len(whole) > settings.max_header_bytes:
                self._refuse(
                    ApiError(431, f"expected headers of at most {settings.max_header_bytes:,} bytes, got more.")
                )
            else:
                self._refuse(ApiError(400, "expected an HTTP/1.1 request."))

        def _wait(self) -> None:
            if self._timer is None and not self.transport.is_closing():
                self._timer = self.loop.call_later(settings.header_timeout, self._too_slow)

        def _waited(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            if not self.transport.is_closing():
                self._refuse(ApiError(408, f"expected a request's headers within {settings.header_timeout:g} s."))

        def _refuse(self, error: ApiError) -> None:
            body = json.dumps(error.body()).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            headers.append((b"content-length", str(len(body)).encode()))
            with suppress(h11.LocalProtocolError):  # an answer is on its way already
                for event in (
                    h11.Response(status_code=error.status, headers=headers),
                    h11.Data(data=body),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            # Not closed at once: whoever is still sending would be cut off before he has read why.
            self._refused = True
            self.transport.write_eof()
            self.loop.call_later(LINGER, self.transport.close)

    return Protocol


class Server(uvicorn.Server):
    """Runs until SIGTERM or Ctrl-C, then lets answers finish."""

    def __init__(self, app: Gate, settings: Settings, ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http=protocol(settings),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            h11_max_incomplete_event_size=settings.max_header_bytes,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=round(settings.drain_timeout),
        )
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def end(self) -> None:
        """As SIGTERM does."""
        self.should_exit = True


def run(server: Server, listening: socket.socket) -> None:
    """Answer until the end.

    uvicorn raises the signal that ended it again, once everything is closed; an end that was asked for is no failure.
    """
    previous = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, previous)


def log_to(level: int) -> None:
    """Requests and the server's own doings, on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pixellm").setLevel(level)
