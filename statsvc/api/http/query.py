"""Query strings: parameters, their JSON schemas, and checks for unknown and repeated names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from statsvc.errors import InvalidParameter, nearest
from statsvc.store.catalog.tags import TAG, validate_tag
from statsvc.weighting.parameters import ALIASES, PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.datastructures import QueryParams
    from starlette.requests import Request

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
MAX_PROBLEMS = 10
"""Unknown names that one error lists."""

MAX_SHOWN = 100
"""Characters of an unknown name that an error shows."""

INT64 = (-(2**63), 2**63 - 1)


class QueryParameter(Struct, frozen=True):
    """A query parameter: description, JSON schema, and whether it may be repeated."""

    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    repeatable: bool = False
    required: bool = False


def integer_parameter(description: str, low: int = 1, high: int = 2**31 - 1) -> QueryParameter:
    """Return an integer parameter."""
    return QueryParameter(description, {"type": "integer", "minimum": low, "maximum": high})


VERSION = QueryParameter(
    "version number or tag; the current version if left out",
    {
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
            {"type": "string", "pattern": f"^{TAG.pattern}$"},
        ]
    },
)

SPEC = {
    name: QueryParameter(parameter.documentation(), parameter.schema(), parameter.repeatable)
    for name, parameter in PARAMETERS.items()
} | {
    alias: QueryParameter(f"Alias of {name}.", PARAMETERS[name].schema(), PARAMETERS[name].repeatable)
    for alias, name in ALIASES.items()
}
"""The parameters of a `WeightSpec`, which reads and checks their values."""


def documented(known: Mapping[str, QueryParameter]) -> dict[str, Any]:
    """Return the parameters as OpenAPI."""
    return {"parameters": [_documented_parameter(name, parameter) for name, parameter in known.items()]}


def _documented_parameter(name: str, parameter: QueryParameter) -> dict[str, Any]:
    # Generated clients send the default of a schema in every request, even with a method that rejects the
    # parameter. Hence the default is part of the description instead.
    schema = {key: value for key, value in parameter.schema.items() if key != "default"}
    default = f" Default: {parameter.schema['default']}." if "default" in parameter.schema else ""
    return {
        "name": name,
        "in": "query",
        "required": parameter.required,
        "description": parameter.description + default,
        "schema": schema,
    }


def read(request: Request, known: Mapping[str, QueryParameter]) -> dict[str, str]:
    """Return the parameters of a request as text; values of a repeatable parameter are joined with commas.

    Raises `InvalidParameter` with the first unknown or repeated parameters.
    """
    return checked_names(request.query_params, known)


def checked_names(parameters: QueryParams, known: Mapping[str, QueryParameter]) -> dict[str, str]:
    """Return the parameters of a query string, like `read`."""
    values: dict[str, str] = {}
    problems: dict[str, str] = {}
    for name, value in parameters.multi_items():
        if len(problems) == MAX_PROBLEMS:
            break
        if name not in known:
            hint = nearest(name, known) or f"; valid parameters: {', '.join(known) or 'none'}"
            problems[name[:MAX_SHOWN]] = f"unknown parameter{hint}"
        elif name not in values:
            values[name] = value
        elif known[name].repeatable:
            values[name] += f",{value}"
        else:
            problems[name] = "appears more than once; send it only once"
    if problems:
        raise InvalidParameter(*problems.items())
    return values


def version(values: Mapping[str, str], known: Mapping[str, QueryParameter]) -> int | str | None:
    """Return the `version` parameter: a number, a tag, or None. Raises `InvalidParameter`."""
    text = values.get("version")
    if text is not None and text[:1].isalpha():
        return validate_tag(text, "version")
    return integer(values, "version", known)


def integer(values: Mapping[str, str], name: str, known: Mapping[str, QueryParameter]) -> int | None:
    """Return the value of an integer parameter, None if it is left out. Raises `InvalidParameter`."""
    text = values.get(name)
    if text is None:
        return None
    schema = known[name].schema
    schema = schema.get("anyOf", [schema])[0]
    low, high = schema["minimum"], schema["maximum"]
    if not _INTEGER.fullmatch(text):
        raise InvalidParameter((name, f"expected an integer, not {text!r}"))
    if not low <= int(text) <= high:
        raise InvalidParameter((name, f"{text} is out of range: expected {low} to {high}"))
    return int(text)
