"""Class weights of a stream: what a trainer sees that samples images, crops them, or mixes datasets.

With q_i the probability that image i is the next one drawn, the share of class c in the stream is
p'_c = Σ_i q_i·n_ic / Σ_i q_i·N_i. Where the trainer crops, n_ic and N_i are the expected pixels of a crop of
the image. In a mixture, q_i is the share of the image's dataset times its probability within that dataset.
All numbers of the response are expectations over as many draws as there are images, so a stream that draws
every image equally often has the numbers of the files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from statsvc.common.plurals import plural
from statsvc.errors import Inapplicable, Unanswerable
from statsvc.sampling import draws as drawing
from statsvc.sampling import mixtures
from statsvc.sampling.draw_warnings import about_draws
from statsvc.sampling.mixtures import MixturePart
from statsvc.weighting import weight_warnings
from statsvc.weighting.class_columns import ClassColumns, ignored_classes
from statsvc.weighting.compute import ClassCounts, ComputedWeights, compute_weights
from statsvc.weighting.methods import METHODS
from statsvc.weighting.response import Basis, class_map_name, interpret_for, interpretation, weights_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table
    from statsvc.sampling.draws import Draws, Expected
    from statsvc.weighting.parameters import WeightSpec
    from statsvc.weighting.weight_warnings import WarningText

    Float64 = NDArray[np.float64]


class _Source(Struct, frozen=True):
    """One dataset of a stream: its counts, how images are drawn from it, and what one draw contains."""

    table: Table
    share: float
    interpreted: InterpretedCounts
    unexpected: list[dict[str, Any]]
    draws: Draws | None
    expected: Expected

    @property
    def images(self) -> int:
        return self.interpreted.histogram.samples or 0


def stream_response(parts: Sequence[tuple[Table, float]], spec: WeightSpec) -> dict[str, Any]:
    """Return the weights response of a stream drawn from one table or several; see `weights_body`.

    parts  tables with the share of draws from each; the shares add up to 1

    `stream` has the number of draws that the expectations refer to and, for each dataset, its share, its
    images and how many of them are never drawn. `exact` refers to the counts behind the expectations. A
    mixture names each version in `dataset`, and its `version` is null.

    Raises as `statsvc.weighting.response.files_response` does, and `Unanswerable` where the datasets disagree
    on classes.
    """
    spec = spec.resolved()
    method = METHODS[spec.method]
    if method.needs_absolute_counts:
        raise Inapplicable(("method", method.unusable_for_streams()))
    sources = [_source(table, share, spec) for table, share in parts]
    interpreted = _common_classes(sources)
    counts = _class_counts(sources, interpreted, spec)
    name = _name(sources)
    try:
        result = compute_weights(counts, spec)
    except Unanswerable as problem:
        raise Unanswerable(f"{name}: {problem}") from None
    failures = [source.table.failures(spec.split) for source in sources]
    is_mixture = len(sources) > 1
    basis = Basis(
        dataset=name,
        version=None if is_mixture else sources[0].table.version,
        spec=_reported_spec(spec, sources, interpreted),
        exact=spec.crop is None,
        failed=sum(count for count, _ in failures),
        pixels=_expected_pixels(sources, "counted"),
        ignored_pixels=_expected_pixels(sources, "ignored"),
        unexpected=[
            {**({"dataset": source.table.dataset} if is_mixture else {}), **entry}
            for source in sources
            for entry in source.unexpected
        ],
        warnings=weight_warnings.as_dicts(_warnings(sources, failures, counts, spec, result)),
        stream={
            "sampler": spec.sampler,
            **({} if spec.crop is None else {"crop": list(spec.crop)}),
            "draws": counts.samples,
            "datasets": [_described(source) for source in sources],
        },
        seen=_seen(sources, counts),
        approximation=_approximation(sources, spec),
    )
    return weights_body(spec, basis, counts, result)


def _source(table: Table, share: float, spec: WeightSpec) -> _Source:
    if not table.exact:
        raise Unanswerable(
            f"{table.dataset}: only some of the images were counted, but a stream is drawn from all of them. "
            "Count every image, or leave out sampler"
        )
    interpreted, unexpected = interpret_for(table, spec)

    def make() -> tuple[Draws | None, Expected]:
        draws = None
        if spec.sampler is not None:
            draws = drawing.plan_draws(table, interpreted, spec, sampler=spec.sampler)
        return draws, drawing.expected(table, interpreted, spec, draws)

    draws, expected = table.cached(drawing.cache_key(interpreted, spec, spec.sampler), make)
    return _Source(table, share, interpreted, unexpected, draws, expected)


def _common_classes(sources: Sequence[_Source]) -> InterpretedCounts:
    """Return interpreted counts with the number, names and ignored ids that the sources have in common.

    Raises `Unanswerable` where the sources disagree.
    """
    first = sources[0]
    names = first.interpreted.names
    for source in sources[1:]:
        _require_same_classes(first, source, names)
        names = max(names, source.interpreted.names, key=len)
    ignored = tuple(sorted({i for source in sources for i in source.interpreted.ignore}))
    return replace(first.interpreted, names=names, ignore=ignored)


def _require_same_classes(first: _Source, other: _Source, names: Sequence[str]) -> None:
    classes = first.interpreted.num_classes
    first_name, other_name = first.table.dataset, other.table.dataset
    if other.interpreted.num_classes != classes:
        raise Unanswerable(
            f"{first_name} has {plural(classes, 'class')} but {other_name} has "
            f"{other.interpreted.num_classes}. Use num_classes, or a class_map with which the numbers are "
            "equal"
        )
    for class_id, (name, other_class) in enumerate(zip(names, other.interpreted.names, strict=False)):
        if name != other_class:
            raise Unanswerable(
                f"class {class_id} is {name!r} in {first_name} but {other_class!r} in {other_name}. Give "
                "both datasets the same class map and names (PATCH /datasets/NAME), or use class_map for both"
            )
    for class_id in {*first.interpreted.ignore} ^ {*other.interpreted.ignore}:
        if 0 <= class_id < classes:
            ignoring, counting = first_name, other_name
            if class_id not in first.interpreted.ignore:
                ignoring, counting = other_name, first_name
            raise Unanswerable(
                f"{ignoring} ignores class {class_id} but {counting} counts it. Use ignore_index for both"
            )


def _class_counts(
    sources: Sequence[_Source], interpreted: InterpretedCounts, spec: WeightSpec
) -> ClassCounts:
    """Return the expected counts of classes 0 … C−1 in all draws."""
    classes = interpreted.num_classes
    draws = sum(source.images for source in sources)

    def total(values_of: Callable[[Expected], Float64 | None]) -> Float64 | None:
        """Return the sum over the sources, [C]; None where it was not computed."""
        result = np.zeros(classes)
        for source in sources:
            values = values_of(source.expected)
            if values is None:
                return None
            result += source.share * ClassColumns.of(source.interpreted).by_class(values)
        return drawing.rounded(result * draws)

    pixels = total(lambda expected: expected.pixels)
    assert pixels is not None
    counted = spec.denominator == "counted"
    return ClassCounts(
        pixels=pixels,
        ignored=ignored_classes(interpreted.ignore, classes),
        total=_expected_pixels(sources, "counted" if counted else "all"),
        images=total(lambda expected: expected.images),
        image_pixels=total(lambda expected: expected.counted if counted else expected.all),
        samples=draws,
        names=interpreted.names,
    )


def _expected_pixels(sources: Sequence[_Source], which: str) -> float:
    """Return the expected pixels of all draws: of "counted", "ignored" or "all" ids."""
    draws = sum(source.images for source in sources)
    per_draw = 0.0
    for source in sources:
        interpreted, pixels = source.interpreted, source.expected.pixels
        selected = {"counted": interpreted.counted, "ignored": interpreted.ignored}.get(
            which, np.ones(len(pixels), bool)
        )
        per_draw += source.share * float(pixels[selected].sum())
    return float(drawing.rounded(np.array([per_draw * draws]))[0])


def _seen(sources: Sequence[_Source], counts: ClassCounts) -> list[float | None]:
    """Return each class's share of the stream over its share of the files; None where the files have none."""
    file_pixels = np.zeros(len(counts.pixels))
    file_total = 0
    for source in sources:
        histogram, counted = source.interpreted.histogram, source.interpreted.counted
        file_pixels[histogram.class_id[counted]] += histogram.pixels[counted]
        file_total += source.interpreted.pixels(counted)
    # Both shares refer to counted pixels, whatever the denominator of the frequencies is.
    shares = np.where(counts.ignored, 0.0, counts.pixels / _expected_pixels(sources, "counted"))
    return [
        share / (pixels / file_total) if pixels else None
        for share, pixels in zip(shares.tolist(), file_pixels.tolist(), strict=True)
    ]


def _approximation(sources: Sequence[_Source], spec: WeightSpec) -> dict[str, Any] | None:
    """Return what the counts of crops are computed from; None without crops."""
    if spec.crop is None:
        return None
    grids = dict.fromkeys(str(source.table.grid) for source in sources)
    rejected = sum(source.share * source.expected.redrawn for source in sources)
    redrawn = {} if spec.cat_max_ratio == 1 else {"redrawn": float(drawing.rounded(np.array([rejected]))[0])}
    return {"grid": ", ".join(grids), **redrawn}


def _reported_spec(
    spec: WeightSpec, sources: Sequence[_Source], interpreted: InterpretedCounts
) -> dict[str, Any]:
    """Return the canonical spec with the choices of the datasets, where they have made the same."""
    reported = spec.to_dict() | interpretation(interpreted)
    class_maps = {class_map_name(source.interpreted) for source in sources}
    if len(class_maps) > 1:
        reported["class_map"] = spec.class_map
    min_pixels = {source.draws.parameters.get("min_pixels") for source in sources if source.draws is not None}
    if spec.sampler == "rare_class" and len(min_pixels) == 1:
        reported["min_pixels"] = min_pixels.pop()
    return reported


def _name(sources: Sequence[_Source]) -> str:
    if len(sources) == 1:
        return sources[0].table.dataset
    return mixtures.text_of(
        tuple(MixturePart(source.table.dataset, source.table.version, source.share) for source in sources)
    )


def _described(source: _Source) -> dict[str, Any]:
    return {
        "dataset": source.table.dataset,
        "version": source.table.version,
        "share": source.share,
        "images": source.images,
        "never_drawn": source.expected.never,
        **({} if source.draws is None else source.draws.parameters),
    }


def _warnings(
    sources: Sequence[_Source],
    failures: Sequence[tuple[int, list[tuple[str, str]]]],
    counts: ClassCounts,
    spec: WeightSpec,
    result: ComputedWeights,
) -> Iterator[WarningText]:
    is_mixture = len(sources) > 1

    def named(source: _Source, texts: Iterator[WarningText]) -> Iterator[WarningText]:
        for code, message in texts:
            yield code, f"{source.table.dataset}: {message}" if is_mixture else message

    for source, failed in zip(sources, failures, strict=True):
        yield from named(source, weight_warnings.about_files(source.interpreted, source.unexpected, failed))
        yield from named(source, weight_warnings.about_objects(source.interpreted, spec))
    yield from weight_warnings.about_weights(counts, spec, result)
    for source in sources:
        yield from named(source, weight_warnings.about_splits(source.table, spec))
        if source.draws is not None:
            yield from named(source, about_draws(source.interpreted, source.draws, source.expected.never))
