"""Weights recorded in a checkpoint, returned to the resumed run without a request."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from statsvc.client.query import as_text, is_version_number
from statsvc.errors import InvalidParameter
from statsvc.sampling import mixtures
from statsvc.weighting.class_weights import ClassWeights
from statsvc.weighting.parameters import ALIASES, PARAMETERS, WeightSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def pinned_weights(record: dict[str, Any], query: Mapping[str, Any]) -> ClassWeights:
    """Return the weights of a record (`ClassWeights.to_dict()`) if the query agrees with them.

    A parameter that the query leaves out agrees, and so does a version given as a tag.

    Raises `InvalidParameter` for a malformed record, and for each parameter that contradicts it.
    """
    weights = ClassWeights.from_dict(record)
    conflicts = _conflicts(weights, {name: value for name, value in query.items() if value is not None})
    if conflicts:
        raise InvalidParameter(
            *(
                (
                    conflict.parameter,
                    f"the pinned weights have {conflict.recorded!r}, not {conflict.requested!r}. "
                    "To request new weights, leave out pinned",
                )
                for conflict in conflicts
            )
        )
    return weights


class _Conflict(NamedTuple):
    parameter: str
    recorded: Any
    requested: Any


def _conflicts(weights: ClassWeights, query: Mapping[str, Any]) -> list[_Conflict]:
    """Return every parameter of the query whose value differs from the record."""
    texts = {name: as_text(value) for name, value in query.items() if name not in ("dataset", "version")}
    conflicts = list(_method_conflicts(weights.spec, texts))
    if conflicts:
        return conflicts  # the parameters of another method would all differ
    requested_spec = _requested_spec(weights, texts)
    for name, value in query.items():
        if texts.get(name) == "auto":
            continue  # the record has the value that "auto" was resolved to
        recorded, requested = _compared_values(weights, requested_spec, name, value)
        if _comparable(recorded) != _comparable(requested):
            conflicts.append(_Conflict(name, recorded, requested))
    return conflicts


def _method_conflicts(spec: Mapping[str, Any], texts: Mapping[str, str]) -> Iterator[_Conflict]:
    for name in ("method", "recipe"):
        if name in texts and texts[name] != spec.get(name):
            yield _Conflict(name, spec.get(name), texts[name])


def _requested_spec(weights: ClassWeights, texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the query's parameters as a complete spec, so that defaults and notations do not differ."""
    spec = weights.spec
    method_parameters = {
        name: value
        for name, value in spec.items()
        if value is not None and name in PARAMETERS and PARAMETERS[name].method == weights.method
    }
    # A parameter that only the server knows is in the record's spec and is compared as it is. A misspelled
    # one is in neither, and the parser rejects it.
    known = {name: text for name, text in texts.items() if name in PARAMETERS or name not in spec}
    return WeightSpec.from_params({"method": weights.method, **method_parameters, **known}).to_dict()


def _compared_values(
    weights: ClassWeights, requested_spec: Mapping[str, Any], name: str, value: Any
) -> tuple[Any, Any]:
    """Return the recorded and the requested value of one parameter; equal ones if they agree."""
    if name == "dataset":
        same_mixture = _same_mixture(weights.dataset, str(value))
        return weights.dataset, weights.dataset if same_mixture else value
    if name == "version":
        return weights.version, int(value) if is_version_number(value) else weights.version
    key = ALIASES.get(name, name)
    return weights.spec.get(key, _default(key)), requested_spec.get(key, as_text(value))


def _default(name: str) -> Any:
    """Return the value of a parameter that the record does not contain, because it is older than it."""
    default = PARAMETERS[name].default if name in PARAMETERS else None
    return None if default is None else PARAMETERS[name].type.to_json(default)


def _same_mixture(recorded: str, requested: str) -> bool:
    """Return whether both mixtures have the same datasets and shares.

    The recorded mixture names every version. The requested one may leave versions out or name tags, which can
    have moved since.
    """
    recorded_parts, requested_parts = mixtures.parse(recorded), mixtures.parse(requested)
    return (
        recorded_parts is not None
        and requested_parts is not None
        and [part.dataset for part in recorded_parts] == [part.dataset for part in requested_parts]
        and all(
            (isinstance(new.number, str) or new.number in (None, old.number))
            and math.isclose(old.share, new.share, rel_tol=1e-9)
            for old, new in zip(recorded_parts, requested_parts, strict=True)
        )
    )


def _comparable(value: Any) -> Any:
    """Return a value without what makes no difference: the order of ids and the type of a sequence."""
    if isinstance(value, list | tuple) and all(isinstance(item, int) for item in value):
        return sorted(set(value))
    return list(value) if isinstance(value, tuple) else value
