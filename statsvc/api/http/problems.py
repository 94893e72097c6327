"""Errors as `application/problem+json` (RFC 9457), and the one table from exceptions to HTTP status."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from msgspec import Struct
from msgspec.structs import replace
from starlette.exceptions import HTTPException
from starlette.routing import Match

from statsvc import errors
from statsvc.api.http.responses import json_response
from statsvc.api.http.roots import ForbiddenSource
from statsvc.api.schemas.problems import Problem
from statsvc.store.catalog.database_errors import DatabaseError, IntegrityError
from statsvc.store.catalog.sqlite import is_disk_full

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

MAX_ERRORS = 20
"""Invalid fields that one problem lists."""


class ProblemType(Struct, frozen=True):
    """A problem type `/problems/<name>`.

    example  a typical detail, for the OpenAPI document
    detail   replaces the text of the exception
    """

    name: str
    status: int
    title: str
    example: str = ""
    detail: str | None = None
    retry_after: int | None = None

    def body(self, detail: str, parameters: Iterable[tuple[str, str]] = ()) -> dict[str, Any]:
        """Return the problem document; `parameters` are (parameter, message) pairs."""
        return {
            "type": f"/problems/{self.name}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail or detail,
            "errors": [{"parameter": name, "message": message} for name, message in parameters],
        }


INVALID = ProblemType(
    "invalid-parameter",
    422,
    "A parameter is invalid",
    "metod: unknown parameter (did you mean 'method'?)",
)
MALFORMED = ProblemType(
    "malformed-request",
    400,
    "The request cannot be parsed",
    "the request body is not valid JSON: Expecting value at character 12",
)
MISDIRECTED = ProblemType(
    "misdirected-request",
    421,
    "The server does not serve this host name",
    "Host 'stats.example.org' is not an allowed host name (127.0.0.1, ::1, localhost); "
    "allow it with: statsvc serve --allow-host NAME",
)
TOO_LARGE = ProblemType(
    "content-too-large",
    413,
    "The request body is too large",
    "the request body exceeds the limit of 2097152 bytes",
)
UNSUPPORTED_BODY = ProblemType(
    "unsupported-media-type",
    415,
    "The media type of the request body is not supported",
    "Content-Type is 'text/plain'; send the request body as application/json",
)
UNAUTHORIZED = ProblemType(
    "unauthorized",
    401,
    "A token is required",
    "this request requires a token of scope read; send it as: Authorization: Bearer TOKEN",
)
FORBIDDEN = ProblemType(
    "forbidden",
    403,
    "The token does not permit this request",
    "token 4f1c has scope read; this request requires scope write",
)
FORBIDDEN_SOURCE = ProblemType(
    "forbidden-source",
    403,
    "The source is outside the allowed folders",
    "/etc is outside the folders that this server may read (/data); "
    "allow another one with: statsvc serve --root FOLDER",
)
NOT_FOUND = ProblemType(
    "not-found", 404, "Not found", "there is no dataset 'camvdi' (did you mean 'camvid'?); datasets: camvid"
)
_UNKNOWN_PATH = replace(NOT_FOUND, detail="this path does not exist; GET / lists paths to start with")
METHOD_NOT_ALLOWED = ProblemType("method-not-allowed", 405, "The path does not support this method")
NOT_ACCEPTABLE = ProblemType(
    "not-acceptable",
    406,
    "No available format is acceptable",
    "the Accept header 'image/png' matches none of application/json, text/csv, application/x-npy",
)
CONFLICT = ProblemType(
    "conflict",
    409,
    "The current state does not permit this request",
    "camvid was imported and has no source to scan",
)
UNANSWERABLE = ProblemType(
    "unanswerable",
    422,
    "The counts cannot answer this request",
    "camvid: median_freq needs to know in which images each class occurs, but these counts are totals only. "
    "Use another method",
)
SOURCE = ProblemType(
    "source",
    422,
    "The source cannot be used",
    "the folder /data/camvid does not exist on the server; check the path and the mount",
)
# 500, not 503: a retry, or a request to another replica, reads the same bytes.
DAMAGED = ProblemType(
    "damaged-version",
    500,
    "A stored version is corrupt",
    "camvid version 3: array 'class_pixels' does not match its digest; "
    "recount the dataset with: statsvc scan --name camvid --full SOURCE",
)
INTERNAL = ProblemType(
    "internal-error",
    500,
    "Internal error",
    detail="statsvc failed unexpectedly; the server log has the details",
)
CATALOG_UNAVAILABLE = ProblemType(
    "catalog-unavailable",
    503,
    "The catalog is unavailable",
    "the catalog database does not respond correctly; try again in a moment",
    retry_after=1,
)
_DATABASE = replace(CATALOG_UNAVAILABLE, detail=CATALOG_UNAVAILABLE.example)
_FULL = replace(
    CATALOG_UNAVAILABLE,
    detail="the disk of the catalog is full, so nothing can be changed; free space, for example with: "
    "statsvc gc",
)
TOO_MANY_STREAMS = ProblemType(
    "too-many-streams",
    429,
    "Too many event streams are open",
    "too many event streams are open; close some of them, or poll GET /jobs/{job_id} instead",
    retry_after=5,
)
CROSS_ORIGIN = ProblemType(
    "cross-origin",
    403,
    "A web page of another origin must not write",
    "the request was sent by a web page of the origin 'https://other.example', not by this server's page",
)
READ_ONLY_STORE = ProblemType(
    "read-only-store",
    403,
    "This server may not publish versions",
    "/versions/5e0f: Read-only file system; mount the file system for writing, or import counts and change "
    "configurations with the command statsvc on a host that may write",
)
STORE_UNAVAILABLE = ProblemType(
    "store-unavailable",
    503,
    "The version store is unavailable",
    "camvid version 3 cannot be read: s3://stats/versions: cannot be reached; check the network and the "
    "endpoint (AWS_ENDPOINT_URL)",
    retry_after=5,
)

BUSY = ProblemType(
    "busy",
    503,
    "Too many requests wait",
    "64 requests wait for the counts of single images; try again later",
    retry_after=5,
)

TABLE: tuple[tuple[type[Exception], ProblemType], ...] = (
    (errors.InvalidParameter, INVALID),
    (errors.NotFound, NOT_FOUND),
    (errors.Conflict, CONFLICT),
    (errors.Unanswerable, UNANSWERABLE),
    (ForbiddenSource, FORBIDDEN_SOURCE),
    (errors.SourceError, SOURCE),
    (errors.DamagedVersion, DAMAGED),
    (errors.CatalogError, CATALOG_UNAVAILABLE),
    (errors.ReadOnlyStore, READ_ONLY_STORE),
    (errors.StoreError, STORE_UNAVAILABLE),
    (errors.Busy, BUSY),
    (IntegrityError, INTERNAL),
    (DatabaseError, _DATABASE),  # or `_FULL`
    (Exception, INTERNAL),
)
"""Problem type by exception class; the first match applies."""

EXPECTED: tuple[type[Exception], ...] = (
    HTTPException,
    *(exception for exception, _ in TABLE if exception is not Exception),
)
"""Errors that are answered where they occur; others are also logged with their traceback."""

_BY_STATUS = {
    kind.status: kind
    for kind in (MALFORMED, _UNKNOWN_PATH, METHOD_NOT_ALLOWED, NOT_ACCEPTABLE, TOO_LARGE, UNSUPPORTED_BODY)
}
"""Problem types of `HTTPException`, which the framework and a few checks of our own raise."""

OF_EVERY_REQUEST = (INVALID, MISDIRECTED, INTERNAL, CATALOG_UNAVAILABLE)
OF_BODIES = (MALFORMED, TOO_LARGE, UNSUPPORTED_BODY)
"""Problem types of every request that has a JSON body."""
OF_ARRAYS = (DAMAGED, STORE_UNAVAILABLE, BUSY)
"""Problem types of every request that reads the arrays of a version."""
OF_COUNTS = (NOT_FOUND, UNANSWERABLE, *OF_ARRAYS)
"""Problem types of every request about the counts of a dataset."""


def documented(*kinds: ProblemType) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of an operation: these problem types and those of every request."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in sorted({*kinds, *OF_EVERY_REQUEST}, key=lambda kind: (kind.status, kind.name)):
        response = responses.setdefault(kind.status, response_of(kind))
        response["description"] = "; ".join(dict.fromkeys([response["description"], kind.title]))
        response["content"][MEDIA_TYPE]["examples"].update(_example(kind))
    return responses


def response_of(kind: ProblemType) -> dict[str, Any]:
    """Return the OpenAPI response of a problem type."""
    retry = {
        "Retry-After": {"description": "seconds to wait before trying again", "schema": {"type": "integer"}}
    }
    return {
        "description": kind.title,
        "model": Problem,
        "content": {MEDIA_TYPE: {"examples": _example(kind)}},
        **({"headers": retry} if kind.retry_after is not None else {}),
    }


def _example(kind: ProblemType) -> dict[str, Any]:
    parameters = []
    if kind is INVALID:
        name, _, message = kind.example.partition(": ")
        parameters = [(name, message)]
    return {kind.name: {"summary": kind.title, "value": kind.body(kind.example, parameters)}}


def problem(
    kind: ProblemType,
    detail: str,
    parameters: Iterable[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    *,
    schema_valid: bool = False,
) -> Response:
    """Return a problem response, never to be cached; `parameters` are (parameter, message) pairs."""
    extra = {"Cache-Control": "no-store", **(headers or {})}
    if kind.retry_after is not None:
        extra["Retry-After"] = str(kind.retry_after)
    body = kind.body(detail, parameters) | ({"schema_valid": True} if schema_valid else {})
    return json_response(body, kind.status, extra, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make the application send a problem for every error."""
    app.add_exception_handler(HTTPException, _from_http_exception)
    app.add_exception_handler(RequestValidationError, _from_validation_error)
    for exception, _ in TABLE:
        app.add_exception_handler(exception, _from_table)


async def response_to(request: Request, error: Exception) -> Response:
    """Return the problem for an error of one of the `EXPECTED` classes, as the application would."""
    return await (_from_http_exception if isinstance(error, HTTPException) else _from_table)(request, error)


async def _from_table(request: Request, error: Exception) -> Response:
    kind = next(kind for exception, kind in TABLE if isinstance(error, exception))
    if isinstance(error, DatabaseError) and is_disk_full(error.orig):
        kind = _FULL
    if kind.status >= 500:
        log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    parameters = error.errors if isinstance(error, errors.InvalidParameter) else ()
    return problem(kind, str(error), parameters, schema_valid=isinstance(error, errors.Inapplicable))


async def _from_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _BY_STATUS.get(
        error.status_code, ProblemType("http-error", error.status_code, "The request was rejected")
    )
    headers = dict(error.headers or {})
    detail = error.detail
    if kind is METHOD_NOT_ALLOWED:
        headers["Allow"] = allow = ", ".join(_allowed_methods(request))
        detail = f"{request.url.path} supports {allow}"
    return problem(kind, detail, headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods that some route supports on the request's path."""
    methods = [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.router.routes
        )
    ]
    return ["GET", "HEAD", *methods[1:]] if "GET" in methods else methods


async def _from_validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    items = error.errors()
    for item in items:
        if item["type"] == "json_invalid":
            reason, position = item["ctx"]["error"], item["loc"][-1]
            return problem(MALFORMED, f"the request body is not valid JSON: {reason} at character {position}")
    parameters = parameters_of(items)
    return problem(INVALID, "; ".join(f"{name}: {message}" for name, message in parameters), parameters)


def parameters_of(items: Sequence[Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return (parameter, message) of the first errors of a validation by pydantic."""
    parameters: list[tuple[str, str]] = []
    for item in items[:MAX_ERRORS]:
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, errors.InvalidParameter):
            parameters.extend(cause.errors)
        else:
            parameters.append((_field_path((*prefix, *item["loc"])), item["msg"]))
    return parameters


def _field_path(location: tuple[Any, ...]) -> str:
    """Return `splits.train.0` for ("body", "splits", "train", 0)."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])
