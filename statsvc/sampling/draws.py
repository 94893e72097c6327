"""How a sampler draws from a table: its choices for these images, and what is then seen on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import Unanswerable
from statsvc.sampling import scores
from statsvc.weighting.schemes import MIN_PIXELS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from numpy.typing import NDArray

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table
    from statsvc.weighting.parameters import WeightSpec

    Int64 = NDArray[np.int64]
    Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Draws:
    """How often each image of a table is drawn.

    parameters  the sampler's, as they came out: `min_pixels` is a number here
    columns     which of the K ids of the reading's histogram are classes, int64 [C']
    score       scores of images, float64 [n], of their counts over `columns`, int64 [n, C']
    total       the scores of all images added up
    images      how many images there are
    per_class   what the sampler knows of each of these classes: names of columns to arrays [C']
    lowered     mean pixels of an image, where `min_pixels` was lowered because of it
    """

    sampler: str
    parameters: dict[str, float | int]
    columns: Int64
    score: Callable[[Int64], Float64]
    total: float
    images: int
    per_class: dict[str, np.ndarray[Any, Any]]
    lowered: float | None = None

    def probability(self, counts: Int64) -> Float64:
        """Return q of images, float64 [n], from their counts over all K ids, int64 [n, K]."""
        return self.score(counts[:, self.columns]) / self.total


@dataclass(frozen=True, slots=True)
class Expected:
    """What one draw shows on average, over the K ids of a reading's histogram.

    pixels   float64 [K], Σ q·n
    images   float64 [K], probability that the id occurs in the image drawn
    counted  float64 [K], counted pixels of the image drawn, where the id occurs in it: Σ q·[n > 0]·size
    all      float64 [K], the same with pixels of all ids
    never    images that are never drawn
    """

    pixels: Float64
    images: Float64
    counted: Float64
    all: Float64
    never: int


def key(read: InterpretedCounts, spec: WeightSpec, sampler: str | None) -> Hashable:
    """Return what `plan` and `expected` follow from, but for the table and the weights."""
    return (
        sampler,
        spec.split,
        read.class_map,
        read.ignore,
        read.num_classes,
        spec.temperature,
        spec.min_pixels,
        spec.threshold,
    )


def plan(
    table: Table, read: InterpretedCounts, spec: WeightSpec, *, sampler: str, weights: Float64 | None = None
) -> Draws:
    """Return how a sampler draws from the images of a reading of the table.

    spec     resolved; its split, and the sampler's parameters, are used
    weights  float64 [C], for `image_weights`

    Raises `Unanswerable` where rows are not kept, or no image would ever be drawn.
    """
    columns = np.flatnonzero(read.counted)
    if read.histogram.samples == 0 or not len(columns):
        raise Unanswerable(f"{table.dataset}: no pixel is counted, so there is nothing to draw from")
    match sampler:
        case "rare_class":
            return _rare_class(table, read, spec, columns)
        case "repeat_factor":
            return _repeat_factor(table, read, spec, columns)
        case _:
            assert weights is not None
            per_class = weights[read.histogram.class_id[columns]]
            return _normalised(
                table,
                read,
                spec,
                Draws(
                    "image_weights",
                    {},
                    columns,
                    lambda counts: scores.image_weight_scores(counts, per_class),
                    1.0,
                    0,
                    {"weight": per_class},
                ),
            )


def _rare_class(table: Table, read: InterpretedCounts, spec: WeightSpec, columns: Int64) -> Draws:
    assert isinstance(spec.temperature, float)
    histogram = read.histogram
    lowered = None
    if spec.min_pixels == "auto":
        samples = histogram.samples or 1
        size = read.all_pixels() / samples
        min_pixels = scores.automatic_min_pixels(size)
        lowered = size if min_pixels < MIN_PIXELS else None
    else:
        min_pixels = int(spec.min_pixels or 1)
    images, eligible = 0, np.zeros(len(columns), np.int64)
    for _, counts in table.sample_counts(spec.split, read.class_map):
        images += len(counts)
        eligible += scores.eligible(counts[:, columns], min_pixels)
    try:
        probability = scores.class_probabilities(histogram.pixels[columns], eligible, spec.temperature)
    except ValueError:
        raise Unanswerable(
            f"{table.dataset}: no image has {min_pixels} pixels of any class, so rare_class draws none; "
            "give a smaller min_pixels"
        ) from None
    return Draws(
        "rare_class",
        {"temperature": spec.temperature, "min_pixels": min_pixels},
        columns,
        lambda counts: scores.rare_class_scores(counts, probability, eligible, min_pixels),
        1.0,
        images,
        {"images": eligible, "probability": probability},
        lowered,
    )


def _repeat_factor(table: Table, read: InterpretedCounts, spec: WeightSpec, columns: Int64) -> Draws:
    assert spec.threshold is not None
    histogram = read.histogram
    if histogram.images is None or histogram.samples is None:
        raise Unanswerable(table.why_no_rows())
    images = histogram.images[columns]
    factors = scores.repeat_factors(images, histogram.samples, spec.threshold)
    draws = Draws(
        "repeat_factor",
        {"threshold": spec.threshold},
        columns,
        lambda counts: scores.repeat_factor_scores(counts, factors),
        1.0,
        0,
        {"images": images, "repeats": factors},
    )
    return _normalised(table, read, spec, draws)


def _normalised(table: Table, read: InterpretedCounts, spec: WeightSpec, draws: Draws) -> Draws:
    """Return the draws with the total of all scores."""
    total, images = 0.0, 0
    for _, counts in table.sample_counts(spec.split, read.class_map):
        images += len(counts)
        total += float(draws.score(counts[:, draws.columns]).sum())
    if not total > 0:
        raise Unanswerable(
            f"{table.dataset}: every image has the weight 0, so {draws.sampler} draws none; are the classes "
            "that it has all ignored or absent?"
        )
    return Draws(draws.sampler, draws.parameters, draws.columns, draws.score, total, images, draws.per_class)


def expected(table: Table, read: InterpretedCounts, split: str | None, draws: Draws | None) -> Expected:
    """Return what one draw shows on average; without `draws`, every image is drawn equally often.

    Raises `Unanswerable` where the table does not tell.
    """
    if draws is None:
        return _evenly(table, read)
    ids = len(read.histogram.class_id)
    pixels, images, counted, all_ = (np.zeros(ids) for _ in range(4))
    never = 0
    for _, counts in table.sample_counts(split, read.class_map):
        q = draws.probability(counts)
        present = (counts > 0).astype(np.float64)
        pixels += q @ counts
        images += q @ present
        counted += (q * counts[:, draws.columns].sum(axis=1)) @ present
        all_ += (q * counts.sum(axis=1)) @ present
        never += int((q == 0).sum())
    return Expected(pixels, images, counted, all_, never)


def _evenly(table: Table, read: InterpretedCounts) -> Expected:
    histogram = read.histogram
    if histogram.samples == 0:
        raise Unanswerable(f"{table.dataset}: there is no image to draw from")
    if histogram.samples is None or histogram.images is None or histogram.cooccurrence is None:
        raise Unanswerable(table.why_no_rows())
    together, samples = histogram.cooccurrence, float(histogram.samples)
    return Expected(
        histogram.pixels / samples,
        histogram.images / samples,
        together[:, read.counted].sum(axis=1, dtype=np.float64) / samples,
        together.sum(axis=1, dtype=np.float64) / samples,
        0,
    )
