"""Reading query strings: unknown parameters are refused with the nearest name, repeated ones too."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from statsvc.errors import InvalidParameter, nearest
from statsvc.store.catalog.tags import validate_tag
from statsvc.weighting.parameters import ALIASES, PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.datastructures import QueryParams
    from starlette.requests import Request

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
INT64 = (-(2**63), 2**63 - 1)


@dataclass(frozen=True, slots=True)
class QueryParameter:
    """A query parameter: what it takes, its JSON schema, and whether repeating it adds to it."""

    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    repeatable: bool = False


def integer_parameter(description: str, low: int = 1, high: int = 2**31 - 1) -> QueryParameter:
    """Return a parameter that takes an integer."""
    return QueryParameter(description, {"type": "integer", "minimum": low, "maximum": high})


VERSION = QueryParameter(
    "number or tag of a version; the current one if left out",
    {"type": ["integer", "string"], "minimum": 0, "maximum": 2**31 - 1},
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
    """Return the parameters for OpenAPI."""
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": parameter.description,
                "schema": dict(parameter.schema),
            }
            for name, parameter in known.items()
        ]
    }


def read(request: Request, known: Mapping[str, QueryParameter]) -> dict[str, str]:
    """Return the given parameters as text; a repeated one that may be is joined with commas.

    Raises `InvalidParameter` naming every unknown or repeated one.
    """
    return checked_names(request.query_params, known)


def checked_names(parameters: QueryParams, known: Mapping[str, QueryParameter]) -> dict[str, str]:
    """Return parameters as `read` does."""
    given: dict[str, str] = {}
    problems: dict[str, str] = {}
    for name, value in parameters.multi_items():
        if name not in known:
            hint = nearest(name, known) or f"; there are {', '.join(known) or 'none'}"
            problems[name] = f"unknown parameter{hint}"
        elif name not in given:
            given[name] = value
        elif known[name].repeatable:
            given[name] += f",{value}"
        else:
            problems[name] = "given more than once: give it once"
    if problems:
        raise InvalidParameter(*problems.items())
    return given


def version(given: Mapping[str, str], known: Mapping[str, QueryParameter]) -> int | str | None:
    """Return the `version` parameter: a number, a tag, or None. Raises `InvalidParameter`."""
    text = given.get("version")
    if text is not None and text[:1].isalpha():
        return validate_tag(text, "version")
    return integer(given, "version", known)


def integer(given: Mapping[str, str], name: str, known: Mapping[str, QueryParameter]) -> int | None:
    """Return an integer parameter, None where it is left out. Raises `InvalidParameter`."""
    text = given.get(name)
    if text is None:
        return None
    low, high = known[name].schema["minimum"], known[name].schema["maximum"]
    if not _INTEGER.fullmatch(text):
        raise InvalidParameter((name, f"expected an integer, not {text!r}"))
    if not low <= int(text) <= high:
        raise InvalidParameter((name, f"{text} is out of range: from {low} to {high}"))
    return int(text)
