"""What every request passes before a route sees it: headers, host, key, how many at once, how large, how slow."""

import asyncio
import logging
import time
from collections import Counter

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixellm.serve.auth import ANYBODY, Keys
from pixellm.serve.errors import ApiError
from pixellm.serve.metrics import Metrics
from pixellm.serve.settings import Settings
from pixellm.serve.web import is_page

logger = logging.getLogger(__name__)
OPEN = ("/healthz", "/readyz", "/openapi.json")  # for everybody
# Of answers to browsers: but for the page, which says so itself, nothing of them is ever more than data.
SECURE = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class Gate:
    """ASGI middleware; the tenant goes on in the scope's `state`."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys, metrics: Metrics) -> None:
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics
        self._in_flight: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                said = {name for name, _ in message["headers"]}
                secure = [(name, value) for name, value in SECURE if name not in said]
                message = {**message, "headers": [*message["headers"], *secure]}
            await send(message)

        tenant = None
        try:
            tenant = self._checked(scope)
            await self._counted(tenant, scope, receive, sending)
        except ApiError as error:
            await error.response()(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - began
            self._log(scope, tenant, status or 499, seconds)  # 499: whoever asked did not wait for it (nginx)

    def _checked(self, scope: Scope) -> str:
        """The tenant of a request that may go on."""
        settings, headers = self.settings, Headers(scope=scope)
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if len(scope["headers"]) > settings.max_headers or size > settings.max_header_bytes:
            raise ApiError(431, f"expected at most {settings.max_headers} headers, got {len(scope['headers'])}.")
        if settings.trusted_hosts is not None and _name(headers.get("host", "")) not in settings.trusted_hosts:
            raise ApiError(421, "This server is not called by that name.")
        arriving = self._shows(scope) and headers.get("sec-fetch-mode") == "navigate"  # by a link to the page
        if not self.keys and headers.get("sec-fetch-site") == "cross-site" and not arriving:
            # No key keeps out the web sites that its owner's browser has open.
            raise ApiError(403, "Other web sites may not ask here.")
        if self._open(scope):
            return ANYBODY
        tenant = self.keys.tenant(headers.get("authorization"))
        if tenant is None:
            raise ApiError(401, "expected Authorization: Bearer KEY with a key of this server.")
        if headers.get("content-length", "0").isdigit() and int(headers.get("content-length", 0)) > self._largest:
            raise self._too_large()
        return tenant

    async def _counted(self, tenant: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self._open(scope):
            await self.app(scope, receive, send)
            return
        if self._in_flight[tenant] >= self.settings.max_in_flight:
            raise ApiError(
                429, f"expected at most {self.settings.max_in_flight} requests at once. Wait for one to end."
            )
        self._in_flight[tenant] += 1
        self.metrics.in_flight.inc()
        scope.setdefault("state", {})["tenant"] = tenant
        try:
            await self.app(scope, self._limited(receive), send)
        finally:
            self.metrics.in_flight.dec()
            self._in_flight[tenant] -= 1
            if not self._in_flight[tenant]:
                del self._in_flight[tenant]

    def _open(self, scope: Scope) -> bool:
        return scope["path"] in OPEN or self._shows(scope)

    def _shows(self, scope: Scope) -> bool:
        return self.settings.page and is_page(scope["path"])

    def _limited(self, receive: Receive) -> Receive:
        """A body that is neither too large nor too slow."""
        seen, whole = 0, False
        deadline = time.monotonic() + self.settings.body_timeout

        async def receiving() -> Message:
            nonlocal seen, whole
            if whole:  # all that is left to come is the end of the connection
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, f"expected the request within {self.settings.body_timeout:g} s.") from None
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                whole = not message.get("more_body", False)
            if seen > self._largest:
                raise self._too_large()
            return message

        return receiving

    @property
    def _largest(self) -> int:
        return self.settings.max_body_bytes

    def _too_large(self) -> ApiError:
        return ApiError(413, f"expected a request of at most {self._largest:,} bytes, got more. Scale the image down.")

    def _log(self, scope: Scope, tenant: str | None, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.stage.labels("total").observe(seconds)
        if not self._open(scope):
            logger.info("%s %s %d %.3f s by %s", scope["method"], route, status, seconds, tenant or "nobody")


def _name(host: str) -> str:
    """A Host header without its port."""
    return host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
