"""How a sampler draws from a table: the probability of each image, and what it follows from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.errors import Inapplicable, InvalidParameter, Unanswerable, nearest
from statsvc.sampling import draws as drawing
from statsvc.sampling.draw_warnings import about_draws
from statsvc.sampling.weights import weights_response
from statsvc.weighting import schemes, weight_warnings
from statsvc.weighting.class_names import class_name
from statsvc.weighting.parameters import ALIASES, COUNTS, PARAMETERS, STREAM, WeightSpec
from statsvc.weighting.response import SCHEMA, interpret_for, interpretation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table
    from statsvc.sampling.draws import Draws

_PARAMETERS = {*COUNTS, *STREAM, *(name for name, each in PARAMETERS.items() if each.too)} - {"sampler"}
"""The parameters of samplers that do not use class weights."""


class SamplingRequest(Struct, frozen=True):
    """A sampler and its parameters, as a resolved spec; for image_weights also those of class weights."""

    sampler: str
    spec: WeightSpec

    @classmethod
    def from_params(cls, sampler: Any, params: Mapping[str, Any]) -> SamplingRequest:
        """Return the request of parameters, parsed as `WeightSpec.from_params` does.

        Raises `InvalidParameter` with every problem found; only `image_weights` takes weighting parameters.
        """
        if not isinstance(sampler, str) or sampler not in schemes.SCHEMES:
            hint = nearest(sampler, schemes.SCHEMES) if isinstance(sampler, str) else ""
            actual = "" if sampler is None else f", not {sampler!r}{hint}"
            raise InvalidParameter(("sampler", f"expected one of {', '.join(schemes.SCHEMES)}{actual}"))
        if not schemes.SCHEMES[sampler].stream:
            spec = WeightSpec.from_params(params)
            if spec.kind != "weights":
                raise Inapplicable(
                    ("method", f"{spec.method} returns {spec.kind}, but {sampler} needs class weights")
                )
            return cls(sampler, spec.resolved())
        _refuse_unknown(params)
        return cls(sampler, WeightSpec.from_params({**params, "sampler": sampler}).resolved())

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical JSON form of the parameters."""
        params = self.spec.to_dict()
        if schemes.SCHEMES[self.sampler].stream:
            params = {name: value for name, value in params.items() if name in _PARAMETERS}
        return params


def _refuse_unknown(params: Mapping[str, Any]) -> None:
    known = {*_PARAMETERS, *(alias for alias, name in ALIASES.items() if name in _PARAMETERS)}
    others = [name for name, value in params.items() if value is not None and name not in known]
    unknown = [name for name in others if name not in PARAMETERS]
    if unknown:
        raise InvalidParameter(*((name, f"unknown parameter{nearest(name, known)}") for name in unknown))
    if others:
        reason = "only sampler=image_weights takes {}{}; leave it out"
        raise Inapplicable(*((name, reason.format(name, nearest(name, known))) for name in others))


class SamplingPlan(Struct, frozen=True):
    """How a sampler draws from a table.

    head  the part of the response that is the same on every page: the request with all choices filled in,
          the images, the classes, and `epoch`, the number of draws after which an image of average
          probability was drawn once (repeat_factor: the sum of all repeat factors)
    """

    interpreted: InterpretedCounts
    draws: Draws
    head: dict[str, Any]


def plan_sampling(table: Table, request: SamplingRequest) -> SamplingPlan:
    """Return how a sampler draws from a table.

    Raises as `statsvc.weighting.response.files_response` does.
    """
    if not table.exact:
        raise Unanswerable(
            f"{table.dataset}: only some of the images were counted, but a sampler draws from all of them. "
            "Count every image"
        )
    spec = request.spec
    interpreted, unexpected = interpret_for(table, spec)
    weights = None
    if not schemes.SCHEMES[request.sampler].stream:
        weights = np.array(weights_response(table, spec)["weights"])

    def make() -> Draws:
        return drawing.plan_draws(table, interpreted, spec, sampler=request.sampler, weights=weights)

    key = (spec, drawing.cache_key(interpreted, spec, request.sampler))
    draws = table.cached(key, make)
    failures = table.failures(spec.split)
    params = request.to_dict()
    params |= {name: value for name, value in draws.parameters.items() if name in params}
    warnings = [
        *weight_warnings.about_files(interpreted, unexpected, failures),
        *weight_warnings.about_objects(interpreted, spec),
        *weight_warnings.about_splits(table, spec),
        *about_draws(interpreted, draws, 0),
    ]
    head = {
        "dataset": table.dataset,
        "version": table.version,
        "sampler": request.sampler,
        "spec": params | interpretation(interpreted),
        "images": draws.images,
        "failed": failures[0],
        "epoch": draws.total if request.sampler == "repeat_factor" else float(draws.images),
        "classes": _classes(interpreted, draws),
        "warnings": weight_warnings.as_dicts(warnings),
        "schema": SCHEMA,
    }
    return SamplingPlan(interpreted, draws, head)


def _classes(interpreted: InterpretedCounts, draws: Draws) -> list[dict[str, Any]]:
    """Return id, name and the sampler's numbers of each class that occurs."""
    ids = interpreted.histogram.class_id[draws.columns].tolist()
    numbers = {name: values.tolist() for name, values in draws.per_class.items()}
    return [
        {
            "id": class_id,
            "name": class_name(interpreted.names, class_id),
            **{name: values[k] for name, values in numbers.items()},
        }
        for k, class_id in enumerate(ids)
    ]
