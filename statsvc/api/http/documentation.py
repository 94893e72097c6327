"""Parameters, headers and responses of the OpenAPI document that several routes share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path

from statsvc.api.http import problems, query

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.api.http.problems import ProblemType
    from statsvc.api.http.query import QueryParameter
    from statsvc.api.schemas.base import ResponseModel

Responses = dict[int | str, dict[str, Any]]

DatasetName = Annotated[str, Path(description="name of the dataset", examples=["camvid"])]
JobId = Annotated[str, Path(description="job id")]

IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "ETags of copies that the client has (RFC 9110, 13.1.2): if one is current, 304",
    "schema": {"type": "string"},
}


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


CACHE_CONTROL = _header(
    "`no-cache`; `public, max-age=31536000, immutable` if the request names a version number "
    "(`private` if reads require a token)"
)
VALIDATORS = {
    "ETag": _header("strong entity tag, the same on every replica"),
    "Cache-Control": CACHE_CONTROL,
    "Age": _header("seconds since the catalog was read; only while it does not answer"),
    "Warning": _header("what to know about the age of the response; only if there is something"),
}
LOCATION = _header("path of the created resource")


def parameters(known: Mapping[str, QueryParameter], *others: dict[str, Any]) -> dict[str, Any]:
    """Return query parameters and other parameters for `openapi_extra`."""
    return {"parameters": [*query.documented(known)["parameters"], *others]}


def responses(
    model: type[ResponseModel],
    *kinds: ProblemType,
    description: str,
    status: int = 200,
    headers: Mapping[str, Any] | None = None,
) -> Responses:
    """Return the responses of an operation: JSON of a model, and problems.

    kinds  problem types beyond those of every request
    """
    return {
        status: {"model": model, "description": description, "headers": dict(headers or {})},
        **problems.documented(*kinds),
    }


def cacheable(
    model: type[ResponseModel],
    *kinds: ProblemType,
    description: str,
    others: Mapping[str, Any] | None = None,
    headers: Mapping[str, Any] | None = None,
) -> Responses:
    """Return the responses of an operation that supports conditional requests.

    others   the response in other media types than JSON
    headers  headers beyond the validators
    """
    known = {**VALIDATORS, **(headers or {})}
    documented = responses(model, *kinds, description=description, headers=known)
    # JSON comes first: generators of clients use the first media type that they support.
    documented[200]["content"] = {"application/json": {}, **(others or {})}
    documented[304] = {"description": "The client's copy is current (If-None-Match)", "headers": known}
    return documented


def no_content(*kinds: ProblemType, description: str) -> Responses:
    """Return the responses of an operation without a response body, and problems."""
    return {204: {"description": description}, **problems.documented(*kinds)}
