"""ASGI middleware in front of all routes: headers, host and origin, authentication, rate limit, body limits, log."""

import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixellm.serve import web
from pixellm.serve.authentication import ANONYMOUS, ApiKeys
from pixellm.serve.errors import ApiError
from pixellm.serve.metrics import Metrics
from pixellm.serve.request_limits import (
    TenantLimiter,
    check_body_size,
    check_headers,
    has_two_lengths,
    limited,
    send_in_pieces,
)
from pixellm.serve.settings import ServeSettings

logger = logging.getLogger(__name__)
PUBLIC = ("/healthz", "/readyz", "/openapi.json")  # no key needed
CLIENT_CLOSED = 499  # nginx's status for a client that closed the connection before the response
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
]
API_POLICY = b"default-src 'none'; frame-ancestors 'none'"  # browsers must treat responses as data only


class RequestMiddleware:
    """Check a request before the routes see it; its tenant is in the scope's `state`.

    Args:
        end_answers: ends all open questions with an error, when the server shuts down.
    """

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, keys: ApiKeys, metrics: Metrics, end_answers: Callable[[], None]
    ) -> None:
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics
        self.end_answers = end_answers
        self._limiter = TenantLimiter(settings.max_in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), CLIENT_CLOSED
        scope.setdefault("state", {})["arrived"] = start

        async def send_secured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name for name, _ in message["headers"]}
                headers = [(name, value) for name, value in SECURITY_HEADERS if name not in names]
                headers.append((b"content-security-policy", web.POLICY if self._is_page(scope) else API_POLICY))
                if has_two_lengths(scope):
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": [*message["headers"], *headers]}
            await send_in_pieces(send, message)

        tenant = None
        try:
            self._check_origin(scope)
            if self._is_public(scope):
                tenant = ANONYMOUS
                await self.app(scope, receive, send_secured)
            else:
                tenant = self.keys.authenticate(_authorization(Headers(scope=scope)))
                await self._forward(tenant, scope, receive, send_secured)
        except ApiError as error:
            await error.response()(scope, receive, send_secured)
        finally:
            self._log(scope, tenant, status, time.perf_counter() - start)

    def _check_origin(self, scope: Scope) -> None:
        """Raise ApiError for too many headers, an unknown host, or a request of another web site."""
        check_headers(scope, self.settings)
        headers, trusted = Headers(scope=scope), self.settings.trusted_hosts
        if trusted is not None and _without_port(headers.get("host", "")) not in trusted:
            raise ApiError(421, "expected this server's own name in the Host header.")
        is_link = self._is_page(scope) and headers.get("sec-fetch-mode") == "navigate"
        if not self.keys and headers.get("sec-fetch-site") == "cross-site" and not is_link:
            # Without keys, any web site that is open in the owner's browser could send requests.
            raise ApiError(403, "expected a request of this server's own page, got one of another web site.")

    async def _forward(self, tenant: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an authenticated request on, within the limits."""
        length = Headers(scope=scope).get("content-length", "0")
        check_body_size(int(length) if length.isdecimal() else 0, self.settings)
        with self._limiter.admit(tenant), self.metrics.in_flight.track_inprogress():
            scope["state"]["tenant"] = tenant
            await self.app(scope, limited(receive, self.settings), send)

    def _is_public(self, scope: Scope) -> bool:
        return scope["path"] in PUBLIC or self._is_page(scope)

    def _is_page(self, scope: Scope) -> bool:
        return self.settings.page and web.is_page(scope["path"])

    def _log(self, scope: Scope, tenant: str | None, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.stage.labels("total").observe(seconds)
        if not self._is_public(scope):
            logger.info(
                "%s %s %d %.3f s tenant=%s", scope["method"], route, status, seconds, tenant or "unauthenticated"
            )


def _authorization(headers: Headers) -> str | None:
    """Return the Authorization header, or what stands in for it: X-AnyLabeling sends its key as `Token`."""
    token = headers.get("token")
    return headers.get("authorization") or (token and f"Bearer {token}")


def _without_port(host: str) -> str:
    return host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
