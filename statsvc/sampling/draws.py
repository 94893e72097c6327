"""How often a sampler draws each image of a table, and what one draw contains on average."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.common.plurals import plural
from statsvc.errors import Unanswerable
from statsvc.sampling import crops, scores
from statsvc.sampling.crops import Crop
from statsvc.weighting.class_columns import object_counts
from statsvc.weighting.methods import METHODS
from statsvc.weighting.parameters import CROP, STREAM
from statsvc.weighting.schemes import MIN_PIXELS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from numpy.typing import NDArray

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table
    from statsvc.weighting.parameters import WeightSpec

    Int64 = NDArray[np.int64]
    Float64 = NDArray[np.float64]


# The last bits of a sum of products differ between processors; these digits are the same everywhere.
_SIGNIFICANT_DIGITS = 12


class Draws(Struct, frozen=True):
    """How often each image of a table is drawn.

    parameters  the sampler's parameters in effect; `min_pixels` is always a number
    columns     int64 [C'], columns of the interpreted histogram, of K ids, that are classes
    score       function from counts over `columns`, int64 [n, C'], to scores of the images, float64 [n]
    total       sum of the scores of all images
    images      number of images
    per_class   name → array [C'] of the sampler's numbers for each of these classes
    lowered     mean pixels of an image if `min_pixels` was lowered because images are small, else None
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


class Expected(Struct, frozen=True):
    """What one draw contains on average, over the K ids of an interpreted histogram.

    pixels   float64 [K], Σ q·n
    images   float64 [K], probability that the id occurs in the image drawn
    counted  float64 [K], counted pixels of the image drawn, where the id occurs in it: Σ q·[n > 0]·size
    all      float64 [K], the same with pixels of all ids
    never    number of images that are never drawn
    redrawn  crops that are rejected, per draw; 0 without crops

    Under crops, "image" stands for the crop of an image. `images`, `counted` and `all` are None where they
    were not computed.
    """

    pixels: Float64
    images: Float64 | None
    counted: Float64 | None
    all: Float64 | None
    never: int
    redrawn: float = 0.0


def cache_key(interpreted: InterpretedCounts, spec: WeightSpec, sampler: str | None) -> Hashable:
    """Return what `plan_draws` and `expected` depend on besides the table and the weights."""
    return (
        sampler,
        spec.split,
        spec.unit,
        interpreted.class_map,
        interpreted.ignore,
        interpreted.num_classes,
        *(getattr(spec, name) for name in (*STREAM, *CROP) if name != "sampler"),
        spec.crop is not None and needs_presence(spec),
    )


def plan_draws(
    table: Table,
    interpreted: InterpretedCounts,
    spec: WeightSpec,
    *,
    sampler: str,
    weights: Float64 | None = None,
) -> Draws:
    """Return how a sampler draws from the images of a table.

    spec     resolved; only its split and the sampler's parameters are used
    weights  float64 [C], for `image_weights`

    Raises `Unanswerable` where counts of each sample are missing, or where no image would ever be drawn.
    """
    columns = np.flatnonzero(interpreted.counted)
    if interpreted.histogram.samples == 0 or not len(columns):
        raise Unanswerable(f"{table.dataset}: no pixel is counted, so no image can be drawn")
    match sampler:
        case "rare_class":
            return _rare_class(table, interpreted, spec, columns)
        case "repeat_factor":
            return _repeat_factor(table, interpreted, spec, columns)
        case _:
            assert weights is not None
            per_class = weights[interpreted.histogram.class_id[columns]]
            return _with_total(
                table,
                interpreted,
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


def _rare_class(table: Table, interpreted: InterpretedCounts, spec: WeightSpec, columns: Int64) -> Draws:
    assert isinstance(spec.temperature, float)
    histogram = interpreted.histogram
    lowered = None
    if spec.min_pixels == "auto":
        samples = histogram.samples or 1
        size = interpreted.all_pixels() / samples
        min_pixels = scores.automatic_min_pixels(size)
        lowered = size if min_pixels < MIN_PIXELS else None
    else:
        min_pixels = int(spec.min_pixels or 1)
    images, eligible = 0, np.zeros(len(columns), np.int64)
    for _, counts in table.sample_counts(spec.split, interpreted.class_map):
        images += len(counts)
        eligible += scores.eligible(counts[:, columns], min_pixels)
    try:
        probability = scores.class_probabilities(histogram.pixels[columns], eligible, spec.temperature)
    except ValueError:
        raise Unanswerable(
            f"{table.dataset}: no image has {plural(min_pixels, 'pixel')} of any class, so rare_class draws "
            "none. Use a smaller min_pixels"
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


def _repeat_factor(table: Table, interpreted: InterpretedCounts, spec: WeightSpec, columns: Int64) -> Draws:
    assert spec.threshold is not None
    histogram = interpreted.histogram
    if histogram.images is None or histogram.samples is None:
        raise Unanswerable(table.why_no_rows())
    images = histogram.images[columns]
    numbers = {"images": images}
    if spec.unit == "objects":
        objects = object_counts(histogram)
        if objects is None:
            raise Unanswerable(table.why_no_objects())
        numbers["objects"] = objects[columns]
        factors = scores.repeat_factors(numbers["objects"], int(numbers["objects"].sum()), spec.threshold)
    elif spec.unit == "pixels":
        pixels = histogram.pixels[columns]
        factors = scores.repeat_factors(pixels, int(pixels.sum()), spec.threshold)
    else:
        factors = scores.repeat_factors(images, histogram.samples, spec.threshold)
    draws = Draws(
        "repeat_factor",
        {"threshold": spec.threshold},
        columns,
        lambda counts: scores.repeat_factor_scores(counts, factors),
        1.0,
        0,
        {**numbers, "repeats": factors},
    )
    return _with_total(table, interpreted, spec, draws)


def _with_total(table: Table, interpreted: InterpretedCounts, spec: WeightSpec, draws: Draws) -> Draws:
    """Return the draws with the total of all scores and the number of images."""
    total, images = 0.0, 0
    for _, counts in table.sample_counts(spec.split, interpreted.class_map):
        images += len(counts)
        total += float(draws.score(counts[:, draws.columns]).sum())
    if not total > 0:
        raise Unanswerable(
            f"{table.dataset}: every image has weight 0, so {draws.sampler} draws none. Check whether all "
            "of its classes are ignored or absent"
        )
    return Draws(draws.sampler, draws.parameters, draws.columns, draws.score, total, images, draws.per_class)


def needs_presence(spec: WeightSpec) -> bool:
    """Whether the weights of a resolved spec depend on the images in which a class occurs."""
    method = METHODS[spec.method]
    return method.needs_images or (method.name == "effective_num" and spec.unit == "images")


def crop_of(spec: WeightSpec) -> Crop | None:
    """Return how a resolved spec crops images; None if it does not."""
    if spec.crop is None:
        return None
    assert spec.scale is not None
    ratio = spec.cat_max_ratio
    return Crop(*spec.crop, spec.scale, None if ratio is None or ratio >= 1 else ratio)


def expected(table: Table, interpreted: InterpretedCounts, spec: WeightSpec, draws: Draws | None) -> Expected:
    """Return what one draw contains on average; without `draws`, every image is drawn equally often.

    spec  resolved; only its split and crop are used

    Raises `Unanswerable` where the table lacks the counts that this needs.
    """
    crop = crop_of(spec)
    if crop is not None:
        return _expected_of_crops(table, interpreted, spec, draws, crop)
    split = spec.split
    if draws is None:
        return _expected_of_even_draws(table, interpreted)
    ids = len(interpreted.histogram.class_id)
    pixels, images, counted, all_ = (np.zeros(ids) for _ in range(4))
    never = 0
    for _, counts in table.sample_counts(split, interpreted.class_map):
        q = draws.probability(counts)
        present = (counts > 0).astype(np.float64)
        pixels += q @ counts
        images += q @ present
        counted += (q * counts[:, draws.columns].sum(axis=1)) @ present
        all_ += (q * counts.sum(axis=1)) @ present
        never += int((q == 0).sum())
    return Expected(pixels, images, counted, all_, never)


def _expected_of_crops(
    table: Table, interpreted: InterpretedCounts, spec: WeightSpec, draws: Draws | None, crop: Crop
) -> Expected:
    """Return what one crop contains on average: an image is drawn first, then a crop of it."""
    images = interpreted.histogram.samples
    if images == 0:
        raise Unanswerable(f"{table.dataset}: the table has no image to draw from")
    grid, presence = table.grid, needs_presence(spec)
    if not presence and crop.cat_max_ratio is None:
        return _expected_pixels_of_crops(table, interpreted, spec.split, draws, crop)
    sums = [np.zeros(len(interpreted.histogram.class_id)) for _ in range(4)]
    never, redrawn = 0, 0.0
    for counts, shapes, tiles in table.sample_tiles(spec.split, interpreted.class_map):
        assert grid is not None
        assert images is not None
        q = np.full(len(counts), 1 / images) if draws is None else draws.probability(counts)
        contents = crops.contents(tiles, *shapes, grid, interpreted.counted, crop)
        parts = (contents.pixels, contents.present, contents.counted, contents.all)
        sums = [total + q @ values for total, values in zip(sums, parts, strict=True)]
        redrawn += float(q @ contents.redrawn)
        never += int((q == 0).sum())
    pixels, present, of_counted, of_all = sums
    if presence:
        return Expected(pixels, present, of_counted, of_all, never, redrawn)
    return Expected(pixels, None, None, None, never, redrawn)


def _expected_pixels_of_crops(
    table: Table, interpreted: InterpretedCounts, split: str | None, draws: Draws | None, crop: Crop
) -> Expected:
    """Return the pixels of a crop, which are linear in the pixels of the tiles."""
    grid, images, class_map = table.grid, interpreted.histogram.samples, interpreted.class_map
    if grid is None:
        raise Unanswerable(table.why_no_grid())
    assert images is not None
    ids, never = table.raw_ids(), 0
    pixels = np.zeros(len(ids))
    for counts, shapes, cells in table.image_cells(split):
        mapped = table.apply_class_map(counts, class_map)
        q = np.full(len(counts), 1 / images) if draws is None else draws.probability(mapped)
        never += int((q == 0).sum())
        sizes, group = np.unique(np.stack(shapes), axis=1, return_inverse=True)
        factors = np.array([crops.expected_factors(h, w, grid, crop) for h, w in sizes.T.tolist()])
        row = cells.row
        expected = q[row] * cells.pixels * factors.reshape(-1, grid.tiles)[group.reshape(-1)[row], cells.tile]
        pixels += np.bincount(np.searchsorted(ids, cells.class_id), expected, len(ids))
    return Expected(table.apply_class_map(pixels[None], class_map)[0], None, None, None, never, 0.0)


def _expected_of_even_draws(table: Table, interpreted: InterpretedCounts) -> Expected:
    histogram = interpreted.histogram
    if histogram.samples == 0:
        raise Unanswerable(f"{table.dataset}: the table has no image to draw from")
    if histogram.samples is None or histogram.images is None or histogram.cooccurrence is None:
        raise Unanswerable(table.why_no_rows())
    cooccurrence, samples = histogram.cooccurrence, float(histogram.samples)
    return Expected(
        histogram.pixels / samples,
        histogram.images / samples,
        cooccurrence[:, interpreted.counted].sum(axis=1, dtype=np.float64) / samples,
        cooccurrence.sum(axis=1, dtype=np.float64) / samples,
        0,
    )


def rounded(values: Float64) -> Float64:
    """Return expectations with the digits that are the same on every processor."""
    return np.array([float(f"{value:.{_SIGNIFICANT_DIGITS}g}") for value in values.tolist()])
