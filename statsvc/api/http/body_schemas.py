"""Types of the values in request bodies, with JSON schemas that describe what is refused.

A request that conforms to the OpenAPI document is rejected as invalid only if its values contradict each
other or the dataset (`statsvc.errors.Inapplicable`). The functions that parse the values check them.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from statsvc.classes import palettes
from statsvc.classes.class_maps import BUILTIN, MAX_CLASSES, MIN_CLASS_ID
from statsvc.common.globs import MAX_GLOB
from statsvc.common.object_urls import SCHEMES
from statsvc.dataset import counting_rule, groups, splits
from statsvc.dataset.grid import MAX_SIDE
from statsvc.dataset.known_layouts import LAYOUTS
from statsvc.splitting.request import MAX_PARTS
from statsvc.store.catalog.catalog import MOST_KEPT

_INT64 = {"minimum": -(2**63), "exclusiveMaximum": 2**63}
_COUNT = {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**63}
_ID = "^-?(0|[1-9][0-9]{0,17})$"
_NAME = "^[A-Za-z0-9_.-]{1,%d}$"
_FOLDERS = sorted(set(splits.FOLDERS.values()))
_EXPRESSION = {"type": "string", "format": "re2", "maxLength": groups.MAX_LENGTH}


def whole(value: Any) -> Any:
    """Return 3 for 3.0: in a JSON schema both are integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _object(required: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [required],
        "additionalProperties": False,
    }


def _map(names: str, values: dict[str, Any], **limits: int) -> dict[str, Any]:
    return {"type": "object", "propertyNames": {"pattern": names}, "additionalProperties": values, **limits}


_WHOLE = BeforeValidator(whole)
Whole = Annotated[int, _WHOLE]
"""An integer."""

NumClasses = Annotated[int, Field(ge=1, le=MAX_CLASSES), _WHOLE]
Folds = Annotated[Whole, WithJsonSchema({"type": "integer", "minimum": 2, "maximum": MAX_PARTS})]
Keep = Annotated[int, Field(ge=1, le=MOST_KEPT), _WHOLE]
Seed = Annotated[int, Field(ge=0, lt=2**63), _WHOLE]
SampleSize = Annotated[int, Field(ge=2, lt=2**31), _WHOLE]
VersionNumber = Annotated[int, Field(ge=1, le=2**31 - 1), _WHOLE]

Id = Annotated[Whole, WithJsonSchema({"type": "integer", **_INT64})]
ClassName = Annotated[str, WithJsonSchema({"type": "string", "pattern": r"\S"})]
BuiltinClassMap = Annotated[str, WithJsonSchema({"type": "string", "enum": [*BUILTIN, "none"]})]

DatasetName = Annotated[
    str, WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"})
]
Source = Annotated[
    str, WithJsonSchema({"type": "string", "pattern": rf"^(/[^\x00]*|({'|'.join(SCHEMES)})://.*)$"})
]
Pattern = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^[^/\x00][^\x00]*$",
            "not": {"pattern": r"(^|/)\.\.(/|$)|^[./]*$"},
            "maxLength": MAX_GLOB,
        }
    ),
]
Rule = Annotated[
    str,
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "string",
                    "enum": [
                        counting_rule.VALUE,
                        *counting_rule.ARITHMETIC,
                        counting_rule.MASKS,
                        *(f"{counting_rule.MASKS}:{by}" for by in counting_rule.MASKS_BY),
                        *palettes.BUILTIN,
                    ],
                },
                {"type": "string", "pattern": "^(channel:([rgba]|[0-9]{1,4})|argmax:-?[0-9])$"},
            ]
        }
    ),
]
Key = Annotated[str, WithJsonSchema({"type": "string", "pattern": r"\S"})]
LayoutName = Annotated[str, WithJsonSchema({"type": "string", "enum": [layout.name for layout in LAYOUTS]})]
Rows = Annotated[str, WithJsonSchema({"type": "string", "enum": list(counting_rule.ROWS)})]
_SIDE = "|".join(str(side) for side in range(MAX_SIDE, 0, -1))
GridText = Annotated[
    str, WithJsonSchema({"type": "string", "pattern": f"^(none|(({_SIDE})x)?({_SIDE})x({_SIDE}))$"})
]
Interval = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^(none|[1-9]([0-9]{0,6}s|[0-9]{0,4}m|[0-9]{0,2}h|[0-9]?d)|[12][0-9]{2}d)$",
        }
    ),
]
RelativePath = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^[^/\x00][^\x00]*$",
            "not": {"pattern": r"(^|/)\.\.(/|$)|^[./]*$"},
            "maxLength": 4096,
        }
    ),
]
ClassMapValue = Annotated[
    str | dict[str, Any],
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(BUILTIN)},
                _object(
                    "map",
                    {
                        "map": _map(
                            _ID,
                            {
                                "anyOf": [
                                    {"type": "integer", "minimum": MIN_CLASS_ID, "maximum": MAX_CLASSES - 1},
                                    {"type": "string", "enum": ["ignore"]},
                                ]
                            },
                            minProperties=1,
                        ),
                        "name": {"type": "string"},
                        "names": {"type": "array", "items": {"type": "string"}},
                        "source": {"type": "string"},
                        "otherwise": {"type": "string", "enum": ["unexpected", "minus_one"]},
                    },
                ),
            ]
        }
    ),
]
_TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
Splits = Annotated[
    dict[str, Any],
    WithJsonSchema(
        _map(
            _NAME % 100,
            {
                "anyOf": [
                    _TEXTS,
                    _object("folder", {"folder": {"type": "string", "enum": _FOLDERS}}),
                    _object("glob", {"glob": {"type": "string", "pattern": "[^/]", "maxLength": MAX_GLOB}}),
                    _object("paths", {"paths": _TEXTS}),
                    _object("names", {"names": _TEXTS, "paths": _TEXTS}),
                ]
            },
        )
    ),
]
Groups = Annotated[
    dict[str, Any],
    WithJsonSchema(
        _map(
            _NAME % 100,
            {
                "anyOf": [
                    _object("pattern", {"pattern": _EXPRESSION}),
                    _object(
                        "folder",
                        {
                            "folder": {
                                "anyOf": [
                                    {"type": "integer", "minimum": 1, "maximum": groups.MAX_LEVEL},
                                    {"type": "integer", "minimum": -groups.MAX_LEVEL, "maximum": -1},
                                ]
                            }
                        },
                    ),
                    _object(
                        "values",
                        {
                            "values": {
                                "type": "object",
                                "additionalProperties": {"type": "string", "minLength": 1},
                                "minProperties": 1,
                            }
                        },
                    ),
                ]
            },
        )
    ),
]
Expression = Annotated[str, WithJsonSchema(_EXPRESSION)]
Parts = Annotated[
    dict[str, float],
    WithJsonSchema(
        _map(
            _NAME % 80,
            {"type": "number", "minimum": 1e-9, "maximum": 1},
            minProperties=2,
            maxProperties=MAX_PARTS,
        )
    ),
]
Totals = Annotated[dict[str, Any], WithJsonSchema(_map(_ID, _COUNT, minProperties=1))]
_SAMPLE_NAME = {"type": "string", "format": "sample-path", "minLength": 1, "maxLength": 4096}
Samples = Annotated[
    list[Any] | dict[str, Any],
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "properties": {"file": _SAMPLE_NAME},
                        "patternProperties": {_ID: _COUNT},
                        "required": ["file"],
                        "additionalProperties": False,
                    },
                },
                {
                    "type": "object",
                    "minProperties": 1,
                    "propertyNames": _SAMPLE_NAME,
                    "additionalProperties": _map(_ID, _COUNT),
                },
            ]
        }
    ),
]
