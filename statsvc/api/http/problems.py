"""Errors as `application/problem+json` (RFC 9457), and the one table from exceptions to HTTP status."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import Match

from statsvc import errors
from statsvc.api.http.responses import json_response
from statsvc.api.http.roots import ForbiddenSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

DOCUMENTED: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem (RFC 9457); `errors` names each parameter that is not accepted",
        "content": {
            "application/problem+json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "type": {"type": "string", "example": "/problems/not-found"},
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string"},
                        "errors": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "parameter": {"type": "string"},
                                    "message": {"type": "string"},
                                },
                            },
                        },
                    },
                }
            }
        },
    }
}
"""Every endpoint's errors, for OpenAPI."""


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A problem type `/problems/<name>`; `says` replaces the exception's own text."""

    name: str
    status: int
    title: str
    says: str | None = None
    retry_after: int | None = None


INVALID = ProblemType("invalid-parameter", 422, "A parameter is not accepted")
MALFORMED = ProblemType("malformed-request", 400, "The request cannot be read")
MISDIRECTED = ProblemType("misdirected-request", 421, "This server does not answer for that host")
TOO_LARGE = ProblemType("content-too-large", 413, "The body is too large")
UNAUTHORIZED = ProblemType("unauthorized", 401, "A token is needed")
FORBIDDEN = ProblemType("forbidden", 403, "The token does not allow this")
UNAVAILABLE = ProblemType("catalog-unavailable", 503, "The catalog does not answer", retry_after=1)
_DATABASE = replace(UNAVAILABLE, says="its database does not answer as it should; try again in a moment")
_DEFECT = ProblemType(
    "internal-error", 500, "An unexpected error", "a defect of statsvc; its log has the details"
)

TABLE: tuple[tuple[type[Exception], ProblemType], ...] = (
    (errors.InvalidParameter, INVALID),
    (errors.NotFound, ProblemType("not-found", 404, "There is no such thing here")),
    (errors.Conflict, ProblemType("conflict", 409, "The present state does not allow this")),
    (errors.Unanswerable, ProblemType("unanswerable", 422, "These statistics cannot answer this")),
    (ForbiddenSource, ProblemType("forbidden-source", 403, "The source lies outside the allowed folders")),
    (errors.SourceError, ProblemType("source", 422, "The source cannot be used")),
    # 500, not 503: asking again, or asking another replica, finds the same bytes.
    (errors.DamagedVersion, ProblemType("damaged-version", 500, "A stored version is damaged")),
    (errors.CatalogError, UNAVAILABLE),
    (
        errors.StoreError,
        ProblemType("store-unavailable", 503, "The store of versions does not answer", retry_after=5),
    ),
    (IntegrityError, _DEFECT),
    (DBAPIError, _DATABASE),
    (PoolTimeout, _DATABASE),
    (Exception, _DEFECT),
)
"""The first row whose exception it is decides."""

_BY_STATUS = {
    kind.status: kind
    for kind in (
        MALFORMED,
        ProblemType(
            "not-found", 404, "There is no such thing here", "no such path; GET / lists where to begin"
        ),
        ProblemType("method-not-allowed", 405, "The path does not take this method"),
        ProblemType("not-acceptable", 406, "None of the formats is accepted"),
        TOO_LARGE,
        ProblemType("unsupported-media-type", 415, "The body's type is not supported"),
    )
}
"""What the framework, and the few checks that speak HTTP only, raise as `HTTPException`."""


def problem(
    kind: ProblemType,
    detail: str,
    parameters: Iterable[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem response, never to be cached; `parameters` are (parameter, message) pairs."""
    body = {
        "type": f"/problems/{kind.name}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.says or detail,
        "errors": [{"parameter": name, "message": message} for name, message in parameters],
    }
    extra = {"Cache-Control": "no-store", **(headers or {})}
    if kind.retry_after is not None:
        extra["Retry-After"] = str(kind.retry_after)
    return json_response(body, kind.status, extra, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Make the application answer every error with a problem."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    for exception, _ in TABLE:
        app.add_exception_handler(exception, _from_table)


async def _from_table(request: Request, error: Exception) -> Response:
    kind = next(kind for exception, kind in TABLE if isinstance(error, exception))
    if kind.status >= 500:
        log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    parameters = error.errors if isinstance(error, errors.InvalidParameter) else ()
    return problem(kind, str(error), parameters)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _BY_STATUS.get(
        error.status_code, ProblemType("http-error", error.status_code, "The request is refused")
    )
    headers = dict(error.headers or {})
    detail = error.detail
    if error.status_code == 405:
        headers["Allow"] = allow = ", ".join(_methods(request))
        detail = f"{request.url.path} takes {allow}"
    return problem(kind, detail, headers=headers)


def _methods(request: Request) -> list[str]:
    """Return the methods that some route takes on the request's path."""
    taken = [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.router.routes
        )
    ]
    return ["GET", "HEAD", *taken[1:]] if "GET" in taken else taken


async def _invalid_body(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    parameters: list[tuple[str, str]] = []
    for item in error.errors():
        if item["type"] == "json_invalid":
            return problem(MALFORMED, f"the body is not JSON: {item['ctx']['error']} at {item['loc'][-1]}")
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, errors.InvalidParameter):
            parameters.extend(cause.errors)
        else:
            parameters.append((_place(item["loc"]), item["msg"]))
    return problem(INVALID, "; ".join(f"{name}: {message}" for name, message in parameters), parameters)


def _place(location: tuple[Any, ...]) -> str:
    """Return `splits.train.0` for ("body", "splits", "train", 0)."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])
