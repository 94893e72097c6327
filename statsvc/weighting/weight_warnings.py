"""Warnings in a weights response, about results that are probably not what the user expects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.plurals import part_with_verb, plural
from statsvc.dataset.splits import advised_split
from statsvc.weighting.beta import Beta
from statsvc.weighting.class_names import class_name, listed
from statsvc.weighting.compute import compute_weights, effective_num
from statsvc.weighting.parameters import WeightSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table
    from statsvc.weighting.compute import ClassCounts, ComputedWeights

    WarningText = tuple[str, str]
    """A code that programs can rely on, and a message."""

_NEARLY_EQUAL = 1.01
"""Ratio of the largest to the smallest value below which values count as equal."""

_DIFFERENT = 1.1
"""Ratio of the largest to the smallest count above which classes should not have nearly equal weights."""

_LARGE_RATIO = 1000
"""Ratio of the largest to the smallest weight above which training may become unstable."""

_UNEXPECTED_EXAMPLES = 3
"""Number of unexpected ids that a message names."""

_LARGE_POS_WEIGHT = 100
"""pos_weight above which training may become unstable."""

_GENTLE_METHODS = ("sqrt_inv_freq", "enet")


def collect(
    table: Table,
    interpreted: InterpretedCounts,
    counts: ClassCounts,
    spec: WeightSpec,
    result: ComputedWeights,
    unexpected: Sequence[dict[str, Any]],
    failures: tuple[int, Sequence[tuple[str, str]]],
) -> list[dict[str, str]]:
    """Return the warnings of a response as `{"code", "message"}`, in a fixed order."""
    return as_dicts(
        [
            *about_files(interpreted, unexpected, failures),
            *about_objects(interpreted, spec),
            *about_weights(counts, spec, result, exact=table.exact),
            *about_splits(table, spec),
        ]
    )


def as_dicts(warnings: Iterable[WarningText]) -> list[dict[str, str]]:
    """Return warnings in their JSON form."""
    return [{"code": code, "message": message} for code, message in warnings]


def about_files(
    interpreted: InterpretedCounts,
    unexpected: Sequence[dict[str, Any]],
    failures: tuple[int, Sequence[tuple[str, str]]],
) -> Iterator[WarningText]:
    """Yield the warnings about label maps and their ids.

    failures  number of label maps that could not be read; path and reason of some of them
    """
    if failures[0]:
        yield ("failed_samples", _failed_text(*failures))
    if unexpected:
        yield ("unexpected_ids", unexpected_text(unexpected, interpreted))
    yield from _about_ids(interpreted)


def about_objects(interpreted: InterpretedCounts, spec: WeightSpec) -> Iterator[WarningText]:
    """Yield a warning where objects are asked for, and some classes are not divided into objects."""
    objects = interpreted.histogram.objects
    if spec.unit != "objects" or objects is None:
        return
    undivided = interpreted.counted & (interpreted.histogram.pixels > 0) & (objects.count == 0)
    if undivided.any():
        ids = interpreted.histogram.class_id[undivided].tolist()
        yield (
            "without_objects",
            f"the label maps do not divide {listed([class_name(interpreted.names, each) for each in ids])} "
            "into objects; each counts once per image that contains it",
        )


def about_weights(
    counts: ClassCounts, spec: WeightSpec, result: ComputedWeights, *, exact: bool = True
) -> Iterator[WarningText]:
    """Yield the warnings about the weights themselves."""
    yield from _about_absent(counts, spec, result, exact)
    if spec.method == "effective_num" and spec.strength != 0:
        yield from _about_effective_num(counts, spec, result)
    if spec.kind == "weights":
        yield from _about_extremes(counts, spec, result)
    elif spec.kind == "pos_weight":
        yield from _about_pos_weight(counts, spec, result)


def about_splits(table: Table, spec: WeightSpec) -> Iterator[WarningText]:
    """Yield a warning where the counts of all splits are added up."""
    splits = table.configuration.splits
    if spec.split is None and (advised := advised_split(splits)) is not None:
        names = ", ".join(name for name in ("train", "val", "test") if name in splits)
        yield (
            "all_splits",
            f"the counts are those of all splits together ({names}); for training, use split={advised}",
        )


def unexpected_text(unexpected: Sequence[dict[str, Any]], interpreted: InterpretedCounts) -> str:
    """Return a sentence that names unexpected ids, their pixels and example files, and what to do.

    After a class map, ids are training ids; an id that the map does not contain is a raw id.
    """
    has_map = interpreted.class_map is not None
    outside_map = set(
        interpreted.histogram.class_id[interpreted.unexpected & ~interpreted.histogram.mapped].tolist()
    )
    most = sorted(unexpected, key=lambda entry: -entry["pixels"])[:_UNEXPECTED_EXAMPLES]
    parts = []
    for entry in most:
        example = f", for example in {entry['examples'][0]}" if entry["examples"] else ""
        kind = "id" if not has_map else "raw id" if entry["id"] in outside_map else "training id"
        color = entry.get("colour")
        name = f"{kind} {entry['id']}" if color is None else f"color {color}, which is not in the palette,"
        parts.append(f"{name} ({plural(entry['pixels'], 'pixel')}{example})")
    more = len(unexpected) - len(most)
    ids = "1 unexpected id" if len(unexpected) == 1 else f"{len(unexpected)} unexpected ids"
    # ignore_index and num_classes refer to training ids, which a raw id outside the map never becomes.
    advice = (
        "Add the raw ids to the class map, as a class or as ignored"
        if outside_map
        else "Ignore them with ignore_index, make them classes with num_classes, or add them to the class map"
    )
    return f"{ids}, not counted: {'; '.join(parts)}{f' and {more} more' if more else ''}. {advice}"


def _failed_text(count: int, examples: Sequence[tuple[str, str]]) -> str:
    named = "; ".join(f"{path}: {reason}" for path, reason in examples)
    more = f"; and {count - len(examples)} more" if count > len(examples) else ""
    samples, are = ("1 sample", "is") if count == 1 else (f"{count} samples", "are")
    return f"{samples} could not be read and {are} not counted ({named}{more}). Fix the files and scan again"


def _about_ids(interpreted: InterpretedCounts) -> Iterator[WarningText]:
    histogram = interpreted.histogram
    ids = histogram.class_id[histogram.pixels > 0]
    if interpreted.byte_class:
        yield (
            "id_255_is_a_class",
            f"ids up to {int(ids.max())} occur, so id 255 is counted as a class; to ignore it, use "
            "ignore_index=255",
        )
    if interpreted.class_map is None and ids.tolist() == [0, 255]:
        yield (
            "binary_mask",
            "the only ids are 0 and 255, as in binary masks, and 255 is not class 1; for masks, use "
            "class_map=binary",
        )
    total = interpreted.all_pixels()
    kind = "id" if interpreted.class_map is None else "training id"
    for k in np.flatnonzero(interpreted.ignored):
        if 2 * int(histogram.pixels[k]) > total:
            share = int(histogram.pixels[k]) / total
            yield (
                "ignored_majority",
                f"{kind} {int(histogram.class_id[k])} is ignored but covers {share:.1%} of all pixels; if "
                "it is a class, set ignore_index to none or to other ids",
            )


def _about_absent(
    counts: ClassCounts, spec: WeightSpec, result: ComputedWeights, exact: bool
) -> Iterator[WarningText]:
    absent = np.flatnonzero(~result.present & ~counts.ignored)
    classes = int((~counts.ignored).sum())
    present = int(result.present.sum())
    if len(absent):
        yield ("absent_classes", _absent_text(absent, classes, counts, spec, result, exact))
        if spec.absent == "eps":
            yield (
                "absent_eps",
                f"absent=eps gives classes without pixels weights up to {result.weights[absent].max():.3g}, "
                f"while the largest weight of a present class is {result.weights[result.present].max():.3g}; "
                "use it only for comparisons, and absent=zero for training",
            )
        if 2 * len(absent) > classes:
            yield (
                "mostly_empty",
                f"only {part_with_verb(present, classes, 'class', 'has', 'have')} pixels; check num_classes "
                f"({len(counts.pixels)}) and whether a class map is missing",
            )
    if present == 1:
        only = counts.name(int(np.flatnonzero(result.present)[0]))
        yield (
            "one_class",
            f"only one class has pixels ({only}), so weights have no effect; check ignore_index and the "
            "class map",
        )


def _absent_text(
    absent: NDArray[np.intp],
    classes: int,
    counts: ClassCounts,
    spec: WeightSpec,
    result: ComputedWeights,
    exact: bool,
) -> str:
    names = listed(counts.name(int(c)) for c in absent)
    if spec.absent is None:
        value = "the smallest value of a present class"
    else:
        value = f"weight {result.weights[absent].max():.6g} (absent={spec.absent})"
    if exact:
        subject = part_with_verb(
            len(absent), classes, "class", "has no pixels and gets", "have no pixels and get"
        )
        return f"{subject} {value}: {names}"
    advice = "count every label map" + ("" if spec.absent == "max" else ", or use absent=max")
    return (
        f"{part_with_verb(len(absent), classes, 'class', 'does', 'do')} not occur in the sampled images and "
        f"{'gets' if len(absent) == 1 else 'get'} {value}: {names}. "
        f"{'It' if len(absent) == 1 else 'They'} may be rare instead of absent; {advice}"
    )


def _about_effective_num(
    counts: ClassCounts, spec: WeightSpec, result: ComputedWeights
) -> Iterator[WarningText]:
    """Warn where effective_num equals a simpler method, and suggest parameters with which it does not."""
    pixels = counts.pixels[result.present].astype(np.float64)
    images, objects = (
        None if values is None else values[result.present].astype(np.float64)
        for values in (counts.images, counts.objects)
    )
    n = {"images": images, "objects": objects}.get(str(spec.unit))
    n = pixels if n is None else n
    assert isinstance(spec.beta, Beta)
    complement = spec.beta.complement_for(n)
    # Equal counts give equal weights with every beta, so there is nothing to warn about.
    if n.max() < _NEARLY_EQUAL * n.min() or (equivalent := _equivalent(n, complement)) is None:
        return
    suggestions = []
    for unit, unit_counts in (("pixels", pixels), ("images", images), ("objects", objects)):
        if unit_counts is None:
            continue
        automatic = 1 / float(np.median(unit_counts))
        for beta, other in ((f"1-{complement:g}", complement), (f"1-{automatic:g}", automatic)):
            if (unit, other) != (spec.unit, complement) and _equivalent(unit_counts, other) is None:
                # With the same beta, the unit alone makes the difference.
                change = f"unit={unit}" if other == complement else f"beta={beta} with unit={unit}"
                ratio = _ratio(effective_num(unit_counts, other))
                suggestions.append(f"{change} gives max/min {ratio:.4g}")
    beta_text = f"1-{complement:g}" if spec.beta.complement is None else str(spec.beta)
    code, text = equivalent
    yield (
        f"effective_num_{code}",
        f"effective_num with beta={beta_text} and unit={spec.unit} {text}; "
        + ("; ".join(suggestions) or "no beta changes that for these counts"),
    )


def _equivalent(n: NDArray[np.float64], complement: float) -> tuple[str, str] | None:
    """Return a code and a text for a simpler method that effective_num equals within 1 %, or None.

    n           number of pixels, images or objects of each present class, [classes]
    complement  1 − β
    """
    w = effective_num(n, complement)
    if _ratio(w) < _NEARLY_EQUAL:
        return "uniform", f"equals uniform within 1 % (max/min {_ratio(w):.6f})"
    if _ratio(w * n) < _NEARLY_EQUAL:
        return "inverse", f"equals inverse frequency within 1 % (max/min {_ratio(w):.4g})"
    # A single rare class can separate the largest weight from the smallest while the others are all equal.
    group = _largest_nearly_equal_group(w)
    if 2 * group.sum() >= len(n) and n[group].max() > _DIFFERENT * n[group].min():
        return "flat", (
            f"gives {group.sum()} of {len(n)} classes the same weight within 1 %, although the largest of "
            f"their counts is {_ratio(n[group]):.4g} times the smallest"
        )
    return None


def _largest_nearly_equal_group(w: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which classes are in the largest group of weights within 1 % of each other, bool [classes]."""
    ascending = np.sort(w)
    sizes = np.searchsorted(ascending, _NEARLY_EQUAL * ascending) - np.arange(len(w))
    smallest = ascending[sizes.argmax()]
    group: NDArray[np.bool_] = (w >= smallest) & (w < _NEARLY_EQUAL * smallest)
    return group


def _ratio(w: NDArray[np.float64]) -> float:
    return float(w.max() / w.min())


def _about_extremes(counts: ClassCounts, spec: WeightSpec, result: ComputedWeights) -> Iterator[WarningText]:
    ids = np.flatnonzero(result.present)
    w = result.weights[ids]
    if w.min() > 0 and w.max() / w.min() > _LARGE_RATIO:
        smallest, largest = counts.name(int(ids[w.argmin()])), counts.name(int(ids[w.argmax()]))
        yield (
            "extreme_ratio",
            f"the largest weight is {_ratio(w):.4g} times the smallest ({largest} {w.max():.4g}, {smallest} "
            f"{w.min():.4g}), so training may be unstable; use "
            f"{_any_of(*_gentler_methods(counts, spec, _ratio(w)), *_weaker(spec))}",
        )
    zero = ids[w.astype(np.float32) == 0]
    if len(zero):
        at_floor = spec.method == "log_inv_freq" and spec.floor == 0
        advice = (
            "use a larger k or offset, or a floor above 0"
            if at_floor
            else f"use another value of normalize, or {_weaker(spec)[1]}"
        )
        yield (
            "zero_in_float32",
            f"{part_with_verb(len(zero), len(ids), 'present class', 'has', 'have')} a weight that rounds to "
            f"0 in float32, which removes {'it' if len(zero) == 1 else 'them'} from the loss: "
            f"{listed(counts.name(int(c)) for c in zero)}; {advice}",
        )
    if result.without_effect:
        yield (
            "multiply_without_effect",
            "multiply has no effect on classes that are ignored or have no pixels: "
            f"{', '.join(result.without_effect)}",
        )


def _gentler_methods(counts: ClassCounts, spec: WeightSpec, ratio: float) -> Iterator[str]:
    """Yield `method=…` of gentle methods whose weights are more equal for these counts than `ratio`."""
    for method in _GENTLE_METHODS:
        if method == spec.method:
            continue
        gentle = compute_weights(counts, WeightSpec(method=method, denominator=spec.denominator))
        weights = gentle.weights[gentle.present]
        # Methods that are equal for these counts differ in rounding.
        if 0 < _NEARLY_EQUAL * weights.max() < ratio * weights.min():
            yield f"method={method}"


def _weaker(spec: WeightSpec) -> tuple[str, str]:
    """Return changes of the parameters that bring the weights of any method closer together."""
    return (
        "a strength below 1" if spec.strength == 1 else f"a strength below {spec.strength:g}",
        "clip=lo,hi" if spec.clip is None else "narrower bounds of clip",
    )


def _any_of(*options: str) -> str:
    return options[0] if len(options) == 1 else f"{', '.join(options[:-1])} or {options[-1]}"


def _about_pos_weight(
    counts: ClassCounts, spec: WeightSpec, result: ComputedWeights
) -> Iterator[WarningText]:
    ids = np.flatnonzero(result.present)
    values = result.weights[ids]
    large = ids[values > _LARGE_POS_WEIGHT]
    if len(large):
        largest = int(ids[values.argmax()])
        yield (
            "large_pos_weight",
            f"{part_with_verb(len(large), len(ids), 'present class', 'has', 'have')} a pos_weight above "
            f"{_LARGE_POS_WEIGHT}, so one positive pixel of {counts.name(largest)} counts as much as "
            f"{values.max():.4g} others and training may be unstable; use {_any_of(*_weaker(spec))}",
        )
    zero = ids[values.astype(np.float32) == 0]
    if len(zero):
        yield (
            "zero_in_float32",
            f"{listed(counts.name(int(c)) for c in zero)} covers every pixel, so its pos_weight is 0 and its "
            "pixels do not contribute to the loss; check ignore_index and the class map",
        )
