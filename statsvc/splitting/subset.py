"""Choice of a subset of images whose classes have wanted shares of the pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.common.plurals import plural
from statsvc.errors import InvalidParameter, Unanswerable, nearest
from statsvc.splitting import search
from statsvc.splitting.request import NATURAL, UNIFORM, described, interpret
from statsvc.splitting.result import SplitResult
from statsvc.splitting.units import MAX_UNITS, count_units, find_units
from statsvc.weighting.class_names import class_name
from statsvc.weighting.response import SCHEMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.dataset.table import Table
    from statsvc.splitting.request import SubsetRequest
    from statsvc.splitting.units import UnitCounts, Units

    Float = NDArray[np.float64]
    Int64 = NDArray[np.int64]

SUBSET = "subset"
"""Name of the chosen part."""

NAMED_WEIGHT = 10.0
"""Importance of a class that a request names, compared with the other classes."""

DRAWN = 64
"""Images of which the choice takes the best one at a time."""


def choose_subset(table: Table, request: SubsetRequest) -> SplitResult:
    """Choose a subset as requested.

    The result depends on the counts, the paths, and the request only. Raises `InvalidParameter` for an
    unknown class, `NotFound` for an unknown split, and `Unanswerable` if there are no rows or too few images.
    """
    spec = request.spec
    interpreted = interpret(table, spec)
    units = find_units(table, interpreted, spec.split, None)
    names = [class_name(interpreted.names, class_id) for class_id in units.class_id.tolist()]
    natural = units.pixels / units.pixels.sum(dtype=np.float64)
    target, named = _target(request, natural, units.class_id, names)
    total = len(units.paths)
    if request.images > total:
        raise Unanswerable(
            f"the dataset has only {plural(total, 'image')}, so {request.images} cannot be chosen; ask for "
            f"at most {total}"
        )
    goal = search.ClassShares(units.pixels.astype(np.float64), target, np.where(named, NAMED_WEIGHT, 1.0))
    rng = np.random.default_rng([request.seed, 2])
    pool = units.heaviest(MAX_UNITS, rng)
    chosen = np.zeros(total, bool)
    if request.images > len(pool) // 2 and total > len(pool):
        rest = np.setdiff1d(np.arange(total), pool, assume_unique=True)
        most = min(len(rest), request.images - min(len(pool) // 2, request.images // 2))
        chosen[rng.permutation(rest)[:most]] = True
    counts = count_units(table, interpreted, spec.split, units, pool, [np.where(chosen, 0, -1)], 1)
    chosen[pool[_choose(units, counts, goal, request.images - int(chosen.sum()), rng)]] = True
    paths = [units.paths[row] for row in np.flatnonzero(chosen)]
    final = count_units(table, interpreted, spec.split, units, pool[:0], [np.where(chosen, 0, -1)], 1)
    pixels, images = final.sums[0][0][0], final.sums[0][1][0]
    shares = pixels / max(int(pixels.sum()), 1)
    report = {
        **described(table, spec, interpreted, request.seed),
        "images": request.images,
        "of": total,
        "target": request.target if isinstance(request.target, str) else dict(request.target),
        "difference": float(np.abs(shares - target).sum() / 2),
        "classes": [
            {
                "id": class_id,
                "name": names[c],
                "share": float(shares[c]),
                "target": float(target[c]),
                "dataset_share": float(natural[c]),
                "pixels": int(pixels[c]),
                "images": int(images[c]),
            }
            for c, class_id in enumerate(units.class_id.tolist())
        ],
        "schema": SCHEMA,
    }
    return SplitResult({SUBSET: paths}, report)


def _target(
    request: SubsetRequest, natural: Float, class_id: Int64, names: list[str]
) -> tuple[Float, NDArray[np.bool_]]:
    """Return the wanted share of each class, float64 [C], and which classes the request names, bool [C]."""
    if request.target == NATURAL:
        return natural, np.zeros(len(natural), bool)
    if request.target == UNIFORM:
        return np.full(len(natural), 1 / len(natural)), np.zeros(len(natural), bool)
    assert not isinstance(request.target, str)
    target = np.full(len(natural), np.nan)
    ids = [str(number) for number in class_id.tolist()]
    for name, share in request.target.items():
        if name not in names and name not in ids:
            raise InvalidParameter(
                ("target", f"there is no class {name!r}{nearest(name, names)}; classes: {', '.join(names)}")
            )
        target[names.index(name) if name in names else ids.index(name)] = share
    free = np.isnan(target)
    rest = 1 - float(target[~free].sum())
    if not free.any():
        if abs(rest) > 1e-6:
            raise InvalidParameter(("target", "the shares of all classes must add up to 1"))
        return target, ~free
    target[free] = rest * natural[free] / natural[free].sum()
    return target, ~free


def _choose(
    units: Units, counts: UnitCounts, goal: search.ClassShares, number: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which units of the pool to add to those that are chosen already, bool [U]."""
    zeros = np.zeros((len(counts.chosen), 1))
    features = np.concatenate(
        [zeros, counts.pixels / units.pixels, counts.images / units.images], axis=1
    ).astype(np.float32)
    base = np.zeros((2, features.shape[1]))
    base[0, 1:] = np.concatenate([counts.sums[0][0][0] / units.pixels, counts.sums[0][1][0] / units.images])
    part = np.ones(len(features), np.int64)
    available, sums = rng.permutation(len(features)), base[0].copy()
    for step in range(number):
        # The best of a few random images; the first part of `available` is already chosen.
        drawn = np.unique(rng.integers(step, len(available), size=DRAWN))
        rows = available[drawn]
        costs = goal.cost(0, sums + features[rows])
        best = int(drawn[int(costs.argmin())])
        available[[step, best]] = available[[best, step]]
        part[available[step]] = 0
        sums += features[available[step]]
    search.exchange(features, goal, base, part, rng)
    return np.asarray(part == 0, np.bool_)
