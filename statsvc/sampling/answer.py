"""What a sampler needs to know: how probable each image is, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import InvalidParameter, Unanswerable, nearest
from statsvc.sampling import draws as drawing
from statsvc.sampling import stream_weights
from statsvc.weighting import schemes, weight_warnings
from statsvc.weighting.answers import SCHEMA, answer, read_as_asked
from statsvc.weighting.parameters import ALIASES, COUNTS, PARAMETERS, STREAM, WeightSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table
    from statsvc.sampling.draws import Draws

_PARAMETERS = {*COUNTS, *STREAM} - {"sampler"}
"""The parameters of a sampler that does not use class weights."""


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """A sampler and a resolved spec: its reading, the sampler's parameters; all of it for image_weights."""

    sampler: str
    spec: WeightSpec

    @classmethod
    def from_params(cls, sampler: Any, params: Mapping[str, Any]) -> SamplingRequest:
        """Read parameters as `WeightSpec.from_params` does.

        Raises `InvalidParameter` with every problem found; weighting parameters are for `image_weights`.
        """
        if not isinstance(sampler, str) or sampler not in schemes.SCHEMES:
            there = ", ".join(schemes.SCHEMES)
            hint = nearest(sampler, schemes.SCHEMES) if isinstance(sampler, str) else ""
            given = "" if sampler is None else f", not {sampler!r}{hint}"
            raise InvalidParameter(("sampler", f"expected one of {there}{given}"))
        scheme = schemes.SCHEMES[sampler]
        if not scheme.stream:
            spec = WeightSpec.from_params(params)
            if spec.kind != "weights":
                raise InvalidParameter(("method", f"{spec.method} gives {spec.kind}, not class weights"))
            return cls(sampler, spec.resolved())
        known = {*_PARAMETERS, *(alias for alias, name in ALIASES.items() if name in _PARAMETERS)}
        unknown = [name for name, value in params.items() if value is not None and name not in known]
        if unknown:
            raise InvalidParameter(
                *(
                    (name, f"it is for sampler=image_weights{nearest(name, known)}: leave it out")
                    if name in PARAMETERS
                    else (name, f"unknown parameter{nearest(name, known)}")
                    for name in unknown
                )
            )
        return cls(sampler, WeightSpec.from_params({**params, "sampler": sampler}).resolved())

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical JSON form of the parameters."""
        asked = self.spec.to_dict()
        if schemes.SCHEMES[self.sampler].stream:
            asked = {name: value for name, value in asked.items() if name in _PARAMETERS}
        return asked


@dataclass(frozen=True, slots=True)
class Sampled:
    """How a table is drawn from, and what is the same on every page of the answer."""

    read: InterpretedCounts
    draws: Draws
    head: dict[str, Any]


def sampled(table: Table, question: SamplingRequest) -> Sampled:
    """Return how a sampler draws from a table.

    The head has the question with what it came to, the images drawn from, `epoch`, the draws after which
    an image of average probability has been drawn once (repeat_factor: the sum of all repeat factors), and
    what the sampler knows of each class.

    Raises as `statsvc.weighting.answers.answer` does.
    """
    if not table.exact:
        raise Unanswerable(
            f"{table.dataset}: the counts are of some of the images, and a sampler draws from all of them: "
            "count them all"
        )
    spec = question.spec
    read, unexpected = read_as_asked(table, spec)
    weights = None
    if not schemes.SCHEMES[question.sampler].stream:
        weights = np.array(answer(table, spec)["weights"])

    def make() -> Draws:
        return drawing.plan(table, read, spec, sampler=question.sampler, weights=weights)

    key = (spec, drawing.key(read, spec, question.sampler))
    draws = table.remembered(key, make)
    failures = table.failures(spec.split)
    asked = question.to_dict()
    asked |= {name: value for name, value in draws.parameters.items() if name in asked}
    asked["ignore_index"] = list(read.ignore)
    asked["num_classes"] = read.num_classes
    asked["class_map"] = "none" if read.class_map is None else read.class_map.name
    found = [
        *weight_warnings.about_files(read, unexpected, failures),
        *weight_warnings.about_splits(table, spec),
    ]
    found += stream_weights.about_draws(read, draws, 0)
    head = {
        "dataset": table.dataset,
        "version": table.version,
        "sampler": question.sampler,
        "spec": asked,
        "images": draws.images,
        "failed": failures[0],
        "epoch": draws.total if question.sampler == "repeat_factor" else float(draws.images),
        "classes": _classes(read, draws),
        "warnings": weight_warnings.as_dicts(found),
        "schema": SCHEMA,
    }
    return Sampled(read, draws, head)


def _classes(read: InterpretedCounts, draws: Draws) -> list[dict[str, Any]]:
    """Return what the sampler knows of each class that occurs."""
    ids = read.histogram.class_id[draws.columns].tolist()
    known = {name: values.tolist() for name, values in draws.per_class.items()}
    return [
        {
            "id": class_id,
            "name": read.names[class_id] if class_id < len(read.names) else str(class_id),
            **{name: values[k] for name, values in known.items()},
        }
        for k, class_id in enumerate(ids)
    ]
