"""Errors as answers: one line each, in the shape that the clients of a path expect."""

import logging
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from soundcrafter.files import is_disk_full, one_line
from soundcrafter.serve.jobs import QueueFull, is_database_full
from soundcrafter.serve.requests import Error
from soundcrafter.serve.service import DiskFull, Gone, Stopping

ELEVENLABS = "/v1/sound-generation"
VLLM_OMNI = "/v1/audio/generate"
RETRY_SECONDS = 5
STATUSES: dict[int, str] = {
    400: "The body is not JSON.",
    401: "The token is missing or wrong.",
    403: "The page that sent it is of another origin.",
    404: "There is no such sound.",
    409: "The job was cancelled.",
    413: "The body is too large.",
    415: "Not a sound file of a known format.",
    416: "The range is outside the file.",
    422: "A value that is not allowed, or a sound that cannot be made.",
    429: "Too many jobs wait; see Retry-After.",
    500: "An error of the server.",
    503: "The server is starting or stopping, or its database cannot be used.",
    504: "The sound took too long.",
    507: "The server's disk is full.",
}
_NAMES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    409: "cancelled",
    413: "request_too_large",
    422: "invalid_request",
    429: "too_many_concurrent_requests",
    503: "service_unavailable",
    504: "timeout",
    507: "storage_full",
}
_TYPES = {401: "AuthenticationError", 404: "NotFoundError", 429: "RateLimitError"}
_FULL = "the server's disk is full"
_log = logging.getLogger(__name__)


def answers(*statuses: int, model: Any = Error) -> dict[int | str, dict[str, Any]]:
    """The documentation of error answers."""
    return {
        status: {"model": model, "description": STATUSES[status]}
        for status in (401, 403, 500, *statuses)
    }


def error_body(path: str, status: int, message: str) -> dict[str, Any]:
    """The body of an error: our own, or as clients of another server's API expect it."""
    if path.startswith(ELEVENLABS):
        return {"detail": {"status": _NAMES.get(status, "error"), "message": message}}
    if path.startswith(VLLM_OMNI):
        kind = _TYPES.get(status, "InternalServerError" if status >= 500 else "BadRequestError")
        return {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return {"error": message}


def error_response(
    path: str, status: int, message: object, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as an answer."""
    body = error_body(path, status, one_line(message))
    return JSONResponse(body, status, headers=dict(headers or {}))


def add_handlers(app: FastAPI) -> None:
    """Answer every exception with one line."""

    def answer(status: int, **headers: str) -> Any:
        def handle(request: Request, error: Exception) -> JSONResponse:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return error_response(request.url.path, status, error, named)

        return handle

    app.add_exception_handler(QueueFull, answer(429, Retry_After=str(RETRY_SECONDS)))
    app.add_exception_handler(Stopping, answer(503, Retry_After=str(RETRY_SECONDS)))
    app.add_exception_handler(DiskFull, answer(507))
    app.add_exception_handler(Gone, answer(404))
    app.add_exception_handler(ValueError, _value)
    app.add_exception_handler(OSError, _internal)
    app.add_exception_handler(sa.exc.OperationalError, _database)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(Exception, _internal)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    path = request.url.path
    return error_response(path, error.status_code, error.detail, error.headers)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """The first error of a body or a query that does not fit."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return error_response(request.url.path, 400, "body: not JSON")
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    message = first["msg"].removeprefix("Value error, ")
    text = f"{'.'.join(where)}: {message}" if where else message
    return error_response(request.url.path, 422, text)


def _value(request: Request, error: Exception) -> JSONResponse:
    """What the client can mend, or a file that cannot be written."""
    status, message = (507, _FULL) if is_disk_full(error) else (422, str(error))
    return error_response(request.url.path, status, message)


def _database(request: Request, error: Exception) -> JSONResponse:
    if is_database_full(error):
        return error_response(request.url.path, 507, _FULL)
    _log.error("database: %s", one_line(error))
    message = "the database cannot be used; try again later"
    return error_response(request.url.path, 503, message, {"Retry-After": str(RETRY_SECONDS)})


def _internal(request: Request, error: Exception) -> JSONResponse:
    if is_disk_full(error):
        return error_response(request.url.path, 507, _FULL)
    _log.error("%s %s", request.method, request.url.path, exc_info=error)
    return error_response(request.url.path, 500, "internal error; see the server's log")


def refused(status: int, message: str) -> HTTPException:
    """An error to raise."""
    return HTTPException(status, message)
