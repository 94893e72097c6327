"""Weights of a stream: of what a trainer sees that draws images by a sampler, or from several datasets.

With q_i the probability that image i is the next one drawn, a class's share of the stream is
p'_c = Σ_i q_i·n_ic / Σ_i q_i·N_i. In a mixture q_i is the share of its dataset times the probability of
the image there. All numbers of the answer are expectations over as many draws as there are images; a
stream that draws every image equally often has the numbers of the files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.sampling import draws as drawing
from statsvc.sampling import mixtures
from statsvc.sampling.mixtures import Part
from statsvc.weighting import compute, weight_warnings
from statsvc.weighting.answers import SCHEMA, class_rows, read_as_asked
from statsvc.weighting.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table
    from statsvc.sampling.draws import Draws, Expected
    from statsvc.weighting.parameters import WeightSpec
    from statsvc.weighting.weight_warnings import Notice

    Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Source:
    """One dataset of a stream: how it is read and drawn from, and what a draw shows."""

    table: Table
    share: float
    read: InterpretedCounts
    unexpected: list[dict[str, Any]]
    draws: Draws | None
    expected: Expected

    @property
    def images(self) -> int:
        return self.read.histogram.samples or 0


def answer(parts: Sequence[tuple[Table, float]], spec: WeightSpec) -> dict[str, Any]:
    """Return the weights of a stream drawn from one table or several, as `statsvc.weighting.answers.answer`.

    parts  each table with the share of draws that are from it; the shares add up to 1

    Beside what every answer has: `stream`, with the number of draws that the expectations are over and,
    for each dataset, share, images and those never drawn; and in each class `seen`, its share of the
    stream over its share of the files, None where the files do not have it. `exact` says that the counts
    behind the expectations are. A mixture's `dataset` names each version, and `version` is None.

    Raises as `statsvc.weighting.answers.answer` does, and `Unanswerable` where the datasets disagree on
    classes.
    """
    spec = spec.resolved()
    method = METHODS[spec.method]
    if method.needs_absolute_counts:
        raise InvalidParameter(("method", method.unusable_for_streams()))
    sources = [_source(table, share, spec) for table, share in parts]
    read = _agreed(sources)
    counts = _counts(sources, read, spec)
    name = _name(sources)
    try:
        result = compute.compute(counts, spec)
    except Unanswerable as problem:
        raise Unanswerable(f"{name}: {problem}") from None
    failures = [source.table.failures(spec.split) for source in sources]
    mixed = len(sources) > 1
    rows = class_rows(counts, result)
    for row, seen in zip(rows, _seen(sources, counts), strict=True):
        row["seen"] = seen
    return {
        "dataset": name,
        "version": None if mixed else sources[0].table.version,
        "method": spec.method,
        "kind": method.kind,
        "spec": _asked(spec, sources, read),
        "split": spec.split,
        **({} if spec.recipe is None else {"recipe": spec.recipe}),
        "stream": {
            "sampler": spec.sampler,
            "draws": counts.samples,
            "datasets": [_described(source) for source in sources],
        },
        "exact": True,
        "images": counts.samples,
        "failed": sum(count for count, _ in failures),
        "pixels": _total(sources, "counted"),
        "ignored_pixels": _total(sources, "ignored"),
        "expected_weight": result.expected_weight,
        "classes": rows,
        "weights": result.weights.tolist(),
        "unexpected": [
            {**({"dataset": source.table.dataset} if mixed else {}), **entry}
            for source in sources
            for entry in source.unexpected
        ],
        "warnings": weight_warnings.as_dicts(_notices(sources, failures, counts, spec, result)),
        "schema": SCHEMA,
    }


def _source(table: Table, share: float, spec: WeightSpec) -> _Source:
    if not table.exact:
        raise Unanswerable(
            f"{table.dataset}: the counts are of some of the images, and a stream is drawn from all of them: "
            "count every image, or leave the sampler out"
        )
    read, unexpected = read_as_asked(table, spec)

    def make() -> tuple[Draws | None, Expected]:
        draws = None if spec.sampler is None else drawing.plan(table, read, spec, sampler=spec.sampler)
        return draws, drawing.expected(table, read, spec.split, draws)

    draws, expected = table.remembered(drawing.key(read, spec, spec.sampler), make)
    return _Source(table, share, read, unexpected, draws, expected)


def _agreed(sources: Sequence[_Source]) -> InterpretedCounts:
    """Return a reading with the classes' number, names and ignored ids. Raises `Unanswerable`."""
    first = sources[0]
    classes, names = first.read.num_classes, first.read.names
    for source in sources[1:]:
        one, other = first.table.dataset, source.table.dataset
        if source.read.num_classes != classes:
            raise Unanswerable(
                f"{one} has {classes} classes and {other} {source.read.num_classes}: give num_classes or a "
                "class_map under which they are the same"
            )
        for class_id, (mine, its) in enumerate(zip(names, source.read.names, strict=False)):
            if mine != its:
                raise Unanswerable(
                    f"class {class_id} is {mine!r} in {one} and {its!r} in {other}: give the datasets the "
                    "same class map and names (PATCH /datasets/NAME), or class_map= for both"
                )
        for class_id in {*first.read.ignore} ^ {*source.read.ignore}:
            if 0 <= class_id < classes:
                ignores, counts = (one, other) if class_id in first.read.ignore else (other, one)
                raise Unanswerable(
                    f"{ignores} ignores class {class_id} and {counts} counts it: give ignore_index for both"
                )
        names = max(names, source.read.names, key=len)
    ignore = tuple(sorted({i for source in sources for i in source.read.ignore}))
    return replace(first.read, names=names, ignore=ignore)


def _counts(sources: Sequence[_Source], read: InterpretedCounts, spec: WeightSpec) -> compute.ClassCounts:
    classes = read.num_classes
    samples = sum(source.images for source in sources)
    pixels, images, together = (np.zeros(classes) for _ in range(3))
    for source in sources:
        histogram, part = source.read.histogram, source.expected
        placed = histogram.mapped & (histogram.class_id >= 0) & (histogram.class_id < classes)
        at = histogram.class_id[placed]
        pixels[at] += source.share * part.pixels[placed]
        images[at] += source.share * part.images[placed]
        of = part.counted if spec.denominator == "counted" else part.all
        together[at] += source.share * of[placed]
    ignored = np.zeros(classes, bool)
    ignored[[i for i in read.ignore if 0 <= i < classes]] = True
    return compute.ClassCounts(
        pixels=_rounded(pixels * samples),
        ignored=ignored,
        total=_total(sources, "counted" if spec.denominator == "counted" else "all"),
        images=_rounded(images * samples),
        image_pixels=_rounded(together * samples),
        samples=samples,
        names=read.names,
    )


def _total(sources: Sequence[_Source], which: str) -> float:
    """Return the expected pixels of all draws: of counted, of ignored or of all ids."""
    samples = sum(source.images for source in sources)
    total = 0.0
    for source in sources:
        read, pixels = source.read, source.expected.pixels
        chosen = {"counted": read.counted, "ignored": read.ignored}.get(which, np.ones(len(pixels), bool))
        total += source.share * float(pixels[chosen].sum())
    return float(_rounded(np.array([total * samples]))[0])


def _rounded(values: Float64) -> Float64:
    """Return the values to 12 digits: the last bits of a sum of products differ between processors."""
    return np.array([float(f"{value:.12g}") for value in values.tolist()])


def _seen(sources: Sequence[_Source], counts: compute.ClassCounts) -> Iterator[float | None]:
    """Yield each class's share of the stream over its share of the files."""
    files = np.zeros(len(counts.pixels))
    total = 0
    for source in sources:
        histogram = source.read.histogram
        at = source.read.counted
        files[histogram.class_id[at]] += histogram.pixels[at]
        total += source.read.pixels(at)
    # Of counted pixels on both sides, whatever the denominator of the frequencies is.
    stream = np.where(counts.ignored, 0.0, counts.pixels / _total(sources, "counted"))
    for mine, of_files in zip(stream.tolist(), files.tolist(), strict=True):
        yield mine / (of_files / total) if of_files else None


def _asked(spec: WeightSpec, sources: Sequence[_Source], read: InterpretedCounts) -> dict[str, Any]:
    asked = spec.to_dict()
    asked["ignore_index"] = list(read.ignore)
    asked["num_classes"] = read.num_classes
    maps = {"none" if s.read.class_map is None else s.read.class_map.name for s in sources}
    asked["class_map"] = maps.pop() if len(maps) == 1 else spec.class_map
    chosen = {s.draws.parameters.get("min_pixels") for s in sources if s.draws is not None}
    if spec.sampler == "rare_class" and len(chosen) == 1:
        asked["min_pixels"] = chosen.pop()
    return asked


def _name(sources: Sequence[_Source]) -> str:
    if len(sources) == 1:
        return sources[0].table.dataset
    return mixtures.text_of(tuple(Part(s.table.dataset, s.table.version, s.share) for s in sources))


def _described(source: _Source) -> dict[str, Any]:
    return {
        "dataset": source.table.dataset,
        "version": source.table.version,
        "share": source.share,
        "images": source.images,
        "never_drawn": source.expected.never,
        **({} if source.draws is None else source.draws.parameters),
    }


def _notices(
    sources: Sequence[_Source],
    failures: Sequence[tuple[int, list[tuple[str, str]]]],
    counts: compute.ClassCounts,
    spec: WeightSpec,
    result: compute.Weights,
) -> Iterator[Notice]:
    mixed = len(sources) > 1

    def of(source: _Source, found: Iterator[Notice]) -> Iterator[Notice]:
        for code, message in found:
            yield code, f"{source.table.dataset}: {message}" if mixed else message

    for source, failed in zip(sources, failures, strict=True):
        yield from of(source, weight_warnings.about_files(source.read, source.unexpected, failed))
    yield from weight_warnings.about_weights(counts, spec, result)
    for source in sources:
        yield from of(source, weight_warnings.about_splits(source.table, spec))
        if source.draws is not None:
            yield from of(source, about_draws(source.read, source.draws, source.expected.never))


def about_draws(read: InterpretedCounts, draws: Draws, never: int) -> Iterator[Notice]:
    """Yield what is to be said of how a sampler draws from one table."""
    if draws.lowered is not None:
        yield (
            "min_pixels_lowered",
            f"the images have {draws.lowered:.0f} pixels on average, so an image counts for a class from "
            f"{draws.parameters['min_pixels']} pixels of it on, not from 3000; min_pixels= chooses",
        )
    if draws.sampler == "rare_class":
        class_id = read.histogram.class_id[draws.columns]
        there = read.histogram.pixels[draws.columns] > 0
        left = class_id[there & (draws.per_class["images"] == 0)].tolist()
        if left:
            names = weight_warnings.listed(read.names[c] if c < len(read.names) else str(c) for c in left)
            yield (
                "classes_never_chosen",
                f"no image has {draws.parameters['min_pixels']} pixels of {names}: rare_class never chooses "
                "an image for them; a smaller min_pixels does",
            )
    if never:
        yield (
            "images_never_drawn",
            f"{never} of {draws.images} images are never drawn: no class has enough pixels or weight there",
        )
