"""Errors in the form of OpenAI's API, `{"error": {"message", "type", "param", "code"}}`, without internal details."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

logger = logging.getLogger(__name__)
RETRY_SECONDS = 5

# Error type and default code of each status.
TYPES = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "forbidden"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    406: ("invalid_request_error", "not_acceptable"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    421: ("invalid_request_error", "unknown_host"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    431: ("invalid_request_error", "headers_too_large"),
    500: ("server_error", "internal_error"),
    503: ("server_error", "overloaded"),
    504: ("server_error", "timeout"),
    507: ("server_error", "storage_full"),
}


class ApiError(Exception):
    """Error response to a client.

    Args:
        status: HTTP status.
        message: expected value, actual value, remedy.
        code: machine-readable code; default: the one of the status.
        param: name of the wrong field.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def body(self) -> dict[str, Any]:
        error_type, code = TYPES.get(self.status, TYPES[400 if self.status < 500 else 500])
        return {"error": {"message": self.message, "type": error_type, "param": self.param, "code": self.code or code}}

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        retry = {"Retry-After": str(RETRY_SECONDS)} if self.status in (429, 503) else {}
        challenge = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        close = {"Connection": "close"} if self.status == 408 else {}
        return JSONResponse(self.body(), self.status, {**retry, **challenge, **close, **(headers or {})})


def invalid(error: ValidationError) -> ApiError:
    """Describe the first invalid field of a request, without its value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(key) for key in first["loc"])
    return ApiError(400, f"{where}: {first['msg']}" if where else first["msg"], param=where or None)


def install(app: FastAPI) -> None:
    """Send every error of an application in this form."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, str(error.detail)).response(error.headers)

    @app.exception_handler(ClientDisconnect)
    async def disconnected(_: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # the client does not read it

    @app.exception_handler(Exception)
    async def internal_error(_: Request, _error: Exception) -> JSONResponse:  # Starlette logs the traceback
        return ApiError(500, "Internal error. Try again; if it persists, report it to the operator.").response()
