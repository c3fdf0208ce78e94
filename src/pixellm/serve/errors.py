"""Errors as OpenAI's API writes them: `{"error": {"message", "type", "param", "code"}}`, and nothing of our insides."""

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

# Of what kind an error of a status is, and its code where nothing more precise is said.
KINDS = {
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
}


class ApiError(Exception):
    """What a client is told instead of an answer.

    Args:
        status: of HTTP.
        message: what was expected, what came, what to do.
        code: machine-readable; by default the one of the status.
        param: the field that it is about.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def body(self) -> dict[str, Any]:
        kind, code = KINDS.get(self.status, KINDS[400 if self.status < 500 else 500])
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code or code}}

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        retry = {"Retry-After": str(RETRY_SECONDS)} if self.status in (429, 503) else {}
        challenge = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        slow = {"Connection": "close"} if self.status == 408 else {}
        return JSONResponse(self.body(), self.status, {**retry, **challenge, **slow, **(headers or {})})


def invalid(error: ValidationError) -> ApiError:
    """The first thing that is wrong with a request; what it holds is not repeated."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return ApiError(400, f"{where}: {first['msg']}" if where else first["msg"], param=where or None)


def install(app: FastAPI) -> None:
    """Answer every error of an app in this form."""

    @app.exception_handler(ApiError)
    async def expected(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def framework(_: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, str(error.detail)).response(error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(Exception)
    async def unexpected(_: Request, _error: Exception) -> JSONResponse:  # Starlette logs where it happened
        return ApiError(500, "The server made a mistake. Try again; if it stays, tell whoever runs it.").response()
