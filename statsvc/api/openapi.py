"""The OpenAPI document of an application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statsvc.api.http import problems
from statsvc.api.schemas.base import ResponseModel, examples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI
    from fastapi.routing import APIRoute

    from statsvc.api.http.access import Policy

TAGS = [
    {"name": "weights", "description": "Class weights, weighting methods and samplers."},
    {"name": "datasets", "description": "Registering and configuring datasets."},
    {"name": "versions", "description": "Published versions of a dataset, and tags that name them."},
    {"name": "statistics", "description": "Counts of a version and findings on it."},
    {"name": "jobs", "description": "Scans that count changed label maps and publish a version."},
    {"name": "service", "description": "The page, and probes for load balancers."},
]


def operation_id(route: APIRoute) -> str:
    """Return the name of the route's function, which is a stable operation id."""
    return route.name


def install(app: FastAPI, policy: Policy) -> None:
    """Complete the OpenAPI document that FastAPI generates for an application."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate(), policy)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: dict[str, Any], policy: Policy) -> dict[str, Any]:
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["token"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "Create a token with: statsvc token create --scope read|write|admin",
    }
    _restore_integers(document["components"]["schemas"])
    _restore_examples(document["components"]["schemas"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _split_docstring(operation)
            _use_problem_media_type(operation["responses"])
            if method != "get":
                _add_problems(operation, problems.CROSS_ORIGIN)
            if policy.scope(method.upper(), path) is not None:
                _require_token(operation)
    return document


def _restore_integers(schema: Any) -> None:
    """FastAPI turns limits into floating-point numbers, which do not have the digits of 64-bit integers."""
    if isinstance(schema, list):
        for item in schema:
            _restore_integers(item)
    elif isinstance(schema, dict):
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            value = schema.get(key)
            if isinstance(value, float) and value.is_integer():
                schema[key] = int(value)
        for item in schema.values():
            _restore_integers(item)


def _restore_examples(schemas: dict[str, Any]) -> None:
    """FastAPI removes null from the document, and so from examples, too."""
    for model in _models(ResponseModel):
        if model.__name__ in schemas and (values := examples(model)):
            schemas[model.__name__]["examples"] = values


def _models(base: type[ResponseModel]) -> Iterator[type[ResponseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _split_docstring(operation: dict[str, Any]) -> None:
    """Use the first line of the function's docstring as summary, the rest as description."""
    summary, _, description = operation.pop("description").partition("\n")
    operation["summary"] = summary
    if description.strip():
        operation["description"] = description.strip()


def _use_problem_media_type(responses: dict[str, Any]) -> None:
    """FastAPI documents models as application/json; problems have a media type of their own."""
    for status, response in responses.items():
        if int(status) >= 400:
            schema = response["content"].pop("application/json")
            response["content"][problems.MEDIA_TYPE].update(schema)


def _require_token(operation: dict[str, Any]) -> None:
    operation["security"] = [{"token": []}]
    _add_problems(operation, problems.UNAUTHORIZED, problems.FORBIDDEN)


def _add_problems(operation: dict[str, Any], *kinds: problems.ProblemType) -> None:
    """Document responses of the middleware."""
    for kind in kinds:
        response = problems.response_of(kind)
        del response["model"]
        content = response["content"][problems.MEDIA_TYPE]
        content["schema"] = {"$ref": "#/components/schemas/Problem"}
        existing = operation["responses"].setdefault(str(kind.status), response)
        if existing is not response:
            existing["description"] += f"; {kind.title}"
            existing["content"][problems.MEDIA_TYPE]["examples"].update(content["examples"])
