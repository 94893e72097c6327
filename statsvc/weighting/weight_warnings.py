"""Warnings that an answer carries: what would otherwise go wrong in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.weighting.beta import Beta
from statsvc.weighting.compute import effective_num

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table
    from statsvc.weighting.compute import ClassCounts, Weights
    from statsvc.weighting.parameters import WeightSpec

    Notice = tuple[str, str]

_NEARLY = 1.01
_LARGE_RATIO = 1000


def collect(
    table: Table,
    read: InterpretedCounts,
    counts: ClassCounts,
    spec: WeightSpec,
    result: Weights,
    unexpected: Sequence[dict[str, Any]],
    failures: tuple[int, Sequence[tuple[str, str]]],
) -> list[dict[str, str]]:
    """Return the warnings about an answer as `{"code", "message"}`, in a fixed order."""
    found = [
        *about_files(read, unexpected, failures),
        *about_weights(counts, spec, result, exact=table.exact),
        *about_splits(table, spec),
    ]
    return as_dicts(found)


def as_dicts(found: Iterable[Notice]) -> list[dict[str, str]]:
    """Return notices as answers hold them."""
    return [{"code": code, "message": message} for code, message in found]


def about_files(
    read: InterpretedCounts,
    unexpected: Sequence[dict[str, Any]],
    failures: tuple[int, Sequence[tuple[str, str]]],
) -> Iterator[Notice]:
    """Yield what is to be said of a table's label maps and their ids."""
    if failures[0]:
        yield ("failed_samples", _failed_text(*failures))
    if unexpected:
        yield ("unexpected_ids", unexpected_text(unexpected, read))
    yield from _about_ids(read)


def about_weights(
    counts: ClassCounts, spec: WeightSpec, result: Weights, *, exact: bool = True
) -> Iterator[Notice]:
    """Yield what is to be said of the weights themselves."""
    yield from _about_absent(counts, spec, result, exact)
    if spec.method == "effective_num":
        yield from _about_effective_num(counts, spec, result)
    if result.loss_share is not None:
        yield from _about_weights(counts, result)


def about_splits(table: Table, spec: WeightSpec) -> Iterator[Notice]:
    """Yield a notice where all splits are counted together."""
    splits = table.configuration.splits
    if spec.split is None and "train" in splits and ("val" in splits or "test" in splits):
        there = ", ".join(name for name in ("train", "val", "test") if name in splits)
        yield ("all_splits", f"all splits are counted together ({there}); for training use split=train")


def unexpected_text(unexpected: Sequence[dict[str, Any]], read: InterpretedCounts) -> str:
    """Return a sentence that names unexpected ids, their pixels and example files, and what to do.

    Ids after a class map are training ids; one that the map does not know is a raw id.
    """
    mapped = read.class_map is not None
    strangers = set(read.histogram.class_id[read.unexpected & ~read.histogram.mapped].tolist())
    most = sorted(unexpected, key=lambda entry: -entry["pixels"])[:3]
    parts = []
    for entry in most:
        example = f", for instance in {entry['examples'][0]}" if entry["examples"] else ""
        kind = "id" if not mapped else "raw id" if entry["id"] in strangers else "training id"
        colour = entry.get("colour")
        named = f"{kind} {entry['id']}" if colour is None else f"colour {colour}, which the palette lacks,"
        parts.append(f"{named} ({entry['pixels']} pixels{example})")
    more = f" and {len(unexpected) - 3} more" if len(unexpected) > 3 else ""
    ids = "an unexpected id" if len(unexpected) == 1 else f"{len(unexpected)} unexpected ids"
    advice = "Ignore them with ignore_index, make them classes with num_classes, or "
    advice += "give them a place in the class map"
    if strangers:
        # ignore_index and num_classes speak of training ids, which a raw id outside the map never becomes.
        advice = "The class map has no place for the raw ids: give them one, as a class or as ignore"
    return f"{ids}, not counted: {'; '.join(parts)}{more}. {advice}"


def _failed_text(count: int, examples: Sequence[tuple[str, str]]) -> str:
    named = "; ".join(f"{path}: {reason}" for path, reason in examples)
    more = f"; and {count - len(examples)} more" if count > len(examples) else ""
    samples, are = ("1 sample", "is") if count == 1 else (f"{count} samples", "are")
    return f"{samples} could not be read and {are} not counted ({named}{more}); mend the files and scan again"


def _about_ids(read: InterpretedCounts) -> Iterator[Notice]:
    histogram = read.histogram
    ids = histogram.class_id[histogram.pixels > 0]
    if read.byte_class:
        yield (
            "id_255_is_a_class",
            f"ids up to {int(ids.max())} are counted, so 255 is a class here and not ignored; "
            "ignore_index=255 leaves it out",
        )
    if read.class_map is None and ids.tolist() == [0, 255]:
        yield (
            "binary_mask",
            "the only ids are 0 and 255: a binary mask? class_map=binary makes 255 class 1",
        )
    total = read.all_pixels()
    kind = "id" if read.class_map is None else "training id"
    for k in np.flatnonzero(read.ignored):
        if 2 * int(histogram.pixels[k]) > total:
            share = int(histogram.pixels[k]) / total
            yield (
                "ignored_majority",
                f"{kind} {int(histogram.class_id[k])} is ignored and covers {share:.1%} of all pixels; "
                "if it is a class, give ignore_index=none or other ids",
            )


def _about_absent(counts: ClassCounts, spec: WeightSpec, result: Weights, exact: bool) -> Iterator[Notice]:
    absent = np.flatnonzero(~result.present & ~counts.ignored)
    classes = int((~counts.ignored).sum())
    present = int(result.present.sum())
    if len(absent):
        names = listed(counts.name(int(c)) for c in absent)
        if spec.absent is None:
            got = "the smallest value of a present class"
        else:
            got = f"weight {result.weights[absent].max():.6g} (absent={spec.absent})"
        what = f"{len(absent)} of {classes} classes have no pixel and get {got}: {names}"
        if not exact:
            what = (
                f"{len(absent)} of {classes} classes were not seen in the sample and get {got}: {names}; "
                "they may be rare rather than absent: count every label, or choose absent=max"
            )
        yield ("absent_classes", what)
        if spec.absent == "eps":
            yield (
                "absent_eps",
                f"absent=eps gives classes without pixels up to {result.weights[absent].max():.3g} while the "
                f"largest weight of a real class is {result.weights[result.present].max():.3g}; it is there "
                "for comparison: train with absent=zero",
            )
        if 2 * len(absent) > classes:
            yield (
                "mostly_empty",
                f"only {present} of {classes} classes have pixels; is num_classes={len(counts.pixels)} "
                "right, or a class map missing?",
            )
    if present == 1:
        only = counts.name(int(np.flatnonzero(result.present)[0]))
        yield (
            "one_class",
            f"only one class is counted ({only}), so weights decide nothing; check ignore_index and the "
            "class map",
        )


def _about_effective_num(counts: ClassCounts, spec: WeightSpec, result: Weights) -> Iterator[Notice]:
    pixels = counts.pixels[result.present].astype(np.float64)
    images = None if counts.images is None else counts.images[result.present].astype(np.float64)
    n = images if spec.unit == "images" and images is not None else pixels
    assert isinstance(spec.beta, Beta)
    rest = spec.beta.complement_for(n)
    auto = spec.beta.complement is None
    # Equal counts give equal weights whatever beta is: nothing to warn of.
    if n.max() < _NEARLY * n.min() or (same := _same_as(n, rest)) is None:
        return
    advice = []
    for unit, m in (("pixels", pixels), ("images", images)):
        if m is None:
            continue
        median = float(np.median(m))
        for beta, other in ((f"1-{rest:g}", rest), (f"1-{1 / median:g}", 1 / median)):
            if (unit, other) != (spec.unit, rest) and _same_as(m, other) is None:
                # An equal beta is the unit's doing.
                change = f"unit={unit}" if other == rest else f"beta={beta} with unit={unit}"
                ratio = _ratio(effective_num(m, other))
                advice.append(f"{change} gives max/min {ratio:.4g}")
    better = "; ".join(advice) or "no beta changes that much for these counts"
    yield (
        "effective_num_" + ("uniform" if same.startswith("uniform") else "inverse"),
        f"effective_num with beta={f'1-{rest:g}' if auto else spec.beta} on {spec.unit} is {same}; {better}",
    )


def _same_as(n: NDArray[np.float64], rest: float) -> str | None:
    """Return which simpler method effective_num with 1−β = `rest` equals within 1 %, if any."""
    w = effective_num(n, rest)
    if _ratio(w) < _NEARLY:
        return f"uniform within 1 % (max/min {_ratio(w):.6f})"
    if _ratio(w * n) < _NEARLY:
        return f"inverse frequency within 1 % (max/min {_ratio(w):.4g})"
    return None


def _ratio(w: NDArray[np.float64]) -> float:
    return float(w.max() / w.min())


def _about_weights(counts: ClassCounts, result: Weights) -> Iterator[Notice]:
    ids = np.flatnonzero(result.present)
    w = result.weights[ids]
    low, high = counts.name(int(ids[w.argmin()])), counts.name(int(ids[w.argmax()]))
    if w.min() > 0 and w.max() / w.min() > _LARGE_RATIO:
        yield (
            "extreme_ratio",
            f"the largest weight is {_ratio(w):.4g} times the smallest ({high} {w.max():.4g}, {low} "
            f"{w.min():.4g}); training may be unstable: a gentler method (sqrt_inv_freq, enet) or clip=lo,hi",
        )
    zero = ids[w.astype(np.float32) == 0]
    if len(zero):
        yield (
            "zero_in_float32",
            f"{len(zero)} of {len(ids)} present classes have a weight that is 0 in float32, "
            f"and teach nothing: {listed(counts.name(int(c)) for c in zero)}; use another normalize, "
            "or clip=lo,hi",
        )
    if result.without_effect:
        yield (
            "multiply_without_effect",
            f"multiply names classes that are ignored or have no pixel: {', '.join(result.without_effect)}",
        )


def listed(names: Iterable[str], most: int = 10) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
