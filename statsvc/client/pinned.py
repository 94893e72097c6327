"""The weights that a run was started with, for the same run resumed: no question, and no other answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from statsvc.client.query import is_number, text
from statsvc.errors import InvalidParameter
from statsvc.sampling import mixtures
from statsvc.weighting.class_weights import ClassWeights
from statsvc.weighting.parameters import ALIASES, PARAMETERS, WeightSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


def recorded(record: dict[str, Any], question: Mapping[str, Any]) -> ClassWeights:
    """Return the weights of a record (`ClassWeights.to_dict()`), unless they answer another question.

    What is left out of the question, and a version that is a tag, is as in the record.

    Raises `InvalidParameter` for a record that is none, and for each parameter that contradicts it.
    """
    weights = ClassWeights.from_dict(record)
    differing = _differences(weights, {name: value for name, value in question.items() if value is not None})
    if differing:
        raise InvalidParameter(
            *(
                (name, f"the pinned weights have {there!r}, not {asked!r}; leave out pinned for new weights")
                for name, there, asked in differing
            )
        )
    return weights


def _differences(weights: ClassWeights, question: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (parameter, value in the record, value asked for) where they differ."""
    spec = weights.spec
    given = {name: text(value) for name, value in question.items() if name not in ("dataset", "version")}
    others = [(name, spec.get(name), given.get(name)) for name in ("method", "recipe")]
    if differing := [one for one in others if one[2] is not None and one[1] != one[2]]:
        return differing  # every parameter of the method would differ too
    own = {
        name: value
        for name, value in spec.items()
        if value is not None and name in PARAMETERS and PARAMETERS[name].method is not None
    }
    # What only the server knows can be compared where the record has it; a misspelt name is in neither.
    known = {name: value for name, value in given.items() if name in PARAMETERS or name not in spec}
    asked = WeightSpec.from_params({"method": weights.method, **own, **known}).to_dict()
    found: list[tuple[str, Any, Any]] = []
    there: Any
    wanted: Any
    for name, value in question.items():
        key = ALIASES.get(name, name)
        if given.get(name) == "auto":
            continue  # the record has what auto came to
        if key == "dataset":
            if _same_mixture(weights.dataset, str(value)):
                continue
            there, wanted = weights.dataset, value
        elif key == "version":
            there, wanted = weights.version, int(value) if is_number(value) else weights.version
        else:
            there, wanted = spec.get(key), asked.get(key, text(value))
        if _plain(wanted) != _plain(there):
            found.append((name, there, wanted))
    return found


def _same_mixture(there: str, wanted: str) -> bool:
    """Whether a record's mixture, which names every version, is the one asked for.

    That need not name them, and a tag may have moved.
    """
    known, asked = mixtures.parse(there), mixtures.parse(wanted)
    return (
        known is not None
        and asked is not None
        and [part.dataset for part in known] == [part.dataset for part in asked]
        and all(
            (isinstance(other.number, str) or other.number in (None, one.number))
            and math.isclose(one.share, other.share, rel_tol=1e-9)
            for one, other in zip(known, asked, strict=True)
        )
    )


def _plain(value: Any) -> Any:
    """Return a value in which the order of ids and the type of sequence make no difference."""
    if isinstance(value, list | tuple) and all(isinstance(item, int) for item in value):
        return sorted(set(value))
    return list(value) if isinstance(value, tuple) else value
