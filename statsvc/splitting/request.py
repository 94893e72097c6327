"""Requests for a division or a subset: one table of checks for Python, HTTP and the command line."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from statsvc.common.plain_values import plain
from statsvc.dataset import class_counts
from statsvc.errors import Inapplicable, InvalidParameter
from statsvc.weighting.parameters import COUNTS, WeightSpec
from statsvc.weighting.response import class_map_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.groups import Grouping
    from statsvc.dataset.table import Table

MAX_PARTS = 100
"""Largest number of parts."""

COUNT_PARAMETERS = tuple(name for name in COUNTS if name != "unexpected")
"""The parameters of a `WeightSpec` that select and interpret the counts to balance."""

UNIFORM, NATURAL = "uniform", "natural"

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_ROUNDING = 1e-6


def interpret(table: Table, spec: WeightSpec) -> InterpretedCounts:
    """Return the counts that a request selects. Raises as `statsvc.dataset.class_counts.interpret` does."""
    return class_counts.interpret(table, **{name: getattr(spec, name) for name in COUNT_PARAMETERS})


def described(table: Table, spec: WeightSpec, counts: InterpretedCounts, seed: int) -> dict[str, Any]:
    """Return the fields that begin every report: of what, and with which parameters."""
    return {
        "dataset": table.dataset,
        "version": table.version,
        "split": spec.split,
        "class_map": class_map_name(counts),
        "ignore_index": list(counts.ignore),
        "seed": seed,
    }


class DivisionRequest(Struct, frozen=True):
    """How to divide a dataset.

    shares    wanted share of the images by name of the part; adds up to 1
    folds     True for folds of equal size, each of which is the val split of one training
    seed      seed of the search
    grouping  rule of groups that are never divided; None to divide single images
    spec      what is counted: split, class map, ignored ids, number of classes
    """

    shares: Mapping[str, float]
    folds: bool
    seed: int
    grouping: Grouping | None
    spec: WeightSpec

    @classmethod
    def from_params(
        cls,
        *,
        folds: int | None = None,
        parts: Mapping[str, float] | str | None = None,
        seed: int = 0,
        grouping: Grouping | None = None,
        **counts: Any,
    ) -> DivisionRequest:
        """Return a checked request. Raises `InvalidParameter`."""
        folds, parts = plain(folds), plain(parts)
        if (folds is None) == (parts is None):
            raise Inapplicable(
                ("folds", "give either a number of folds, such as 5, or parts, such as train=0.8,val=0.2")
            )
        if folds is None:
            shares = _shares(parts_of(parts) if isinstance(parts, str) else dict(parts or {}))
        else:
            if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= MAX_PARTS:
                raise InvalidParameter(("folds", f"expected a number from 2 to {MAX_PARTS}, not {folds!r}"))
            shares = {f"fold{k}": 1 / folds for k in range(folds)}
        return cls(shares, folds is not None, _seed(seed), grouping, _counts(counts))


class SubsetRequest(Struct, frozen=True):
    """Which subset to choose.

    images  number of images
    target  "uniform", "natural", or the wanted share by class name or id; the other classes share the rest
            as in the dataset
    seed    seed of the search
    spec    what is counted, see `DivisionRequest`
    """

    images: int
    target: str | Mapping[str, float]
    seed: int
    spec: WeightSpec

    @classmethod
    def from_params(
        cls, *, images: int, target: str | Mapping[str, float] = NATURAL, seed: int = 0, **counts: Any
    ) -> SubsetRequest:
        """Return a checked request. Raises `InvalidParameter`."""
        images, target = plain(images), plain(target)
        if isinstance(images, bool) or not isinstance(images, int) or images < 1:
            raise InvalidParameter(("images", f"expected a number of images, not {images!r}"))
        if isinstance(target, str) and target not in (UNIFORM, NATURAL):
            target = parts_of(target, "target")
        if not isinstance(target, str):
            shares = {str(name): share for name, share in target.items()}
            wrong = [name for name, share in shares.items() if not _is_share(share, low=0)]
            if not shares or wrong or sum(shares.values()) > 1 + _ROUNDING:
                raise InvalidParameter(
                    (
                        "target",
                        "expected uniform, natural or CLASS=SHARE with shares from 0 to 1 that add up to at "
                        f"most 1, not {target!r}",
                    )
                )
            target = shares
        return cls(images, target, _seed(seed), _counts(counts))


def parts_of(text: str, name: str = "parts") -> dict[str, float]:
    """Parse `train=0.8,val=0.1,test=0.1`. Raises `InvalidParameter`."""
    result: dict[str, float] = {}
    for item in text.split(","):
        key, equals, value = item.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not equals or not key.strip() or math.isnan(number):
            raise InvalidParameter((name, f"{item!r} has the wrong form; write NAME=SHARE, such as val=0.1"))
        if key.strip() in result:
            raise InvalidParameter((name, f"{key.strip()} appears more than once"))
        result[key.strip()] = number
    return result


def _shares(parts: Mapping[str, float]) -> dict[str, float]:
    problems = [
        f"{name!r} is not a valid name: use letters, digits, '-', '_' and '.'"
        for name in parts
        if not isinstance(name, str) or not _NAME.fullmatch(name)
    ]
    problems += [
        f"the share of {name} must be a number between 0 and 1, not {share!r}"
        for name, share in parts.items()
        if not _is_share(share, low=1e-9)
    ]
    if not problems and not 2 <= len(parts) <= MAX_PARTS:
        problems.append(f"expected 2 to {MAX_PARTS} parts, not {len(parts)}")
    if problems:
        raise InvalidParameter(*(("parts", problem) for problem in problems))
    if abs(sum(parts.values()) - 1) > _ROUNDING:
        raise Inapplicable(("parts", f"the shares add up to {sum(parts.values()):g}; they must add up to 1"))
    total = sum(parts.values())
    return {name: share / total for name, share in parts.items()}


def _is_share(value: Any, low: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= 1


def _seed(seed: Any) -> int:
    seed = plain(seed)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InvalidParameter(("seed", f"expected a number from 0 to 2**63 - 1, not {seed!r}"))
    return int(seed)


def _counts(params: Mapping[str, Any]) -> WeightSpec:
    unknown = [name for name in params if name not in COUNT_PARAMETERS]
    if unknown:
        raise InvalidParameter(*((name, "unknown parameter") for name in unknown))
    return WeightSpec.from_params(params)
