"""Methods and samplers with their parameters, as `GET /methods` and `GET /samplers` return them."""

from __future__ import annotations

from typing import Any

from statsvc.weighting.methods import METHODS
from statsvc.weighting.parameters import PARAMETERS
from statsvc.weighting.schemes import SCHEMES


def describe_methods() -> list[dict[str, Any]]:
    """Return every method with formula, parameters, ranges and reference, as JSON."""
    return [
        {
            "name": method.name,
            "kind": method.kind,
            "formula": method.formula,
            "summary": method.summary,
            "parameters": [
                parameter.to_dict() for parameter in PARAMETERS.values() if parameter.method == method.name
            ],
            "reference": method.reference,
            "needs_images": method.needs_images,
        }
        for method in METHODS.values()
    ]


def describe_samplers() -> list[dict[str, Any]]:
    """Return every sampler with formula, parameters, ranges and reference, as JSON."""
    return [
        {
            "name": scheme.name,
            "formula": scheme.formula,
            "summary": scheme.summary,
            "parameters": [
                {key: value for key, value in parameter.to_dict(scheme.name).items() if key != "required"}
                for parameter in PARAMETERS.values()
                if parameter.suits_sampler(scheme.name)
            ],
            "reference": scheme.reference,
            "stream": scheme.stream,
        }
        for scheme in SCHEMES.values()
    ]
