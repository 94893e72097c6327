"""Answers to questions about a table, as the JSON objects that the HTTP interface and the client share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset import class_counts
from statsvc.errors import Unanswerable
from statsvc.weighting import compute, weight_warnings
from statsvc.weighting.methods import METHODS
from statsvc.weighting.recipes import RECIPES

if TYPE_CHECKING:
    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table
    from statsvc.weighting.parameters import WeightSpec

SCHEMA = 1
"""Rises whenever the bytes of an answer would change for the same version and spec."""


def answer(table: Table, spec: WeightSpec) -> dict[str, Any]:
    """Return the weights of a table's classes under a spec, with everything that they rest on.

    `weights[i]` and `classes[i]` belong to class id i; `pixels` are the counted ones, `ignored_pixels`
    those of ignored ids. A class has `ignored` or `absent` only where true. `loss_share` and
    `expected_weight` are null for methods that give no class weights, `images` where unknown.

    Raises `InvalidParameter` for a contradictory spec, `NotFound` for an unknown split, `Unanswerable`
    where these counts cannot answer.

    With a sampler, the numbers are those of the stream that it draws: see `statsvc.sampling.stream_weights`.
    """
    spec = spec.resolved()
    if spec.sampler is not None:
        from statsvc.sampling import stream_weights

        return stream_weights.answer([(table, 1.0)], spec)
    method = METHODS[spec.method]
    read, unexpected = read_as_asked(table, spec)
    counts = _class_counts(read, spec)
    try:
        result = compute.compute(counts, spec)
    except Unanswerable as problem:
        why = "" if counts.images is not None or table.has_rows else f": {table.why_no_rows()}"
        raise Unanswerable(f"{table.dataset}: {problem}{why}") from None
    failures = table.failures(spec.split)

    asked = spec.to_dict()
    asked["ignore_index"] = list(read.ignore)
    asked["num_classes"] = read.num_classes
    asked["class_map"] = "none" if read.class_map is None else read.class_map.name
    body: dict[str, Any] = {
        "dataset": table.dataset,
        "version": table.version,
        "method": spec.method,
        "kind": method.kind,
        "spec": asked,
        "split": spec.split,
    }
    if spec.recipe is not None:
        body["recipe"] = spec.recipe
    if result.beta is not None:
        body["beta"] = result.beta
    body |= {
        "exact": table.exact,
        "images": read.histogram.samples,
        "failed": failures[0],
        "pixels": read.pixels(read.counted),
        "ignored_pixels": read.pixels(read.ignored),
        "expected_weight": result.expected_weight,
        "classes": class_rows(counts, result),
        "weights": result.weights.tolist(),
        "unexpected": unexpected,
        "warnings": weight_warnings.collect(table, read, counts, spec, result, unexpected, failures),
        "schema": SCHEMA,
    }
    return body


def _class_counts(read: InterpretedCounts, spec: WeightSpec) -> compute.ClassCounts:
    histogram, classes = read.histogram, read.num_classes
    placed = histogram.mapped & (histogram.class_id >= 0) & (histogram.class_id < classes)
    at = histogram.class_id[placed]
    pixels = np.zeros(classes, np.int64)
    pixels[at] = histogram.pixels[placed]
    ignored = np.zeros(classes, bool)
    ignored[[i for i in read.ignore if 0 <= i < classes]] = True
    images = image_pixels = None
    if histogram.images is not None:
        images = np.zeros(classes, np.int64)
        images[at] = histogram.images[placed]
    if histogram.cooccurrence is not None and METHODS[spec.method].needs_images:
        image_pixels = np.zeros(classes)
        together = histogram.cooccurrence[placed]
        if spec.denominator == "counted":
            together = together[:, read.counted]
        image_pixels[at] = together.sum(axis=1, dtype=np.float64)
    return compute.ClassCounts(
        pixels=pixels,
        ignored=ignored,
        total=read.pixels(read.counted) if spec.denominator == "counted" else read.all_pixels(),
        images=images,
        image_pixels=image_pixels,
        samples=histogram.samples,
        names=read.names,
    )


def read_as_asked(table: Table, spec: WeightSpec) -> tuple[InterpretedCounts, list[dict[str, Any]]]:
    """Return the table's counts as a resolved spec reads them, and the unexpected ids.

    Raises `Unanswerable` for these under `unexpected=error`, and as `reading.read` does.
    """
    recipe = RECIPES.get(spec.recipe or "")
    read = class_counts.interpret(
        table,
        split=spec.split,
        class_map=spec.class_map,
        ignore_index=spec.ignore_index,
        num_classes=spec.num_classes,
        void_takes_part=recipe is not None and recipe.void_takes_part,
    )
    unexpected = class_counts.unexpected_ids(table, read, spec.split)
    if unexpected and spec.unexpected == "error":
        raise Unanswerable(f"{table.dataset} has {weight_warnings.unexpected_text(unexpected, read)}")
    return read, unexpected


def class_rows(counts: compute.ClassCounts, result: compute.Weights) -> list[dict[str, Any]]:
    """Return the answer's `classes`, one for each class id."""
    classes = len(counts.pixels)
    unknown = [None] * classes
    columns = zip(
        counts.pixels.tolist(),
        unknown if counts.images is None else counts.images.tolist(),
        result.frequency.tolist(),
        result.weights.tolist(),
        unknown if result.loss_share is None else result.loss_share.tolist(),
        counts.ignored.tolist(),
        result.present.tolist(),
        strict=True,
    )
    rows: list[dict[str, Any]] = []
    for class_id, (pixels, images, frequency, weight, loss_share, ignored, present) in enumerate(columns):
        row = {
            "id": class_id,
            "name": counts.name(class_id),
            "pixels": pixels,
            "images": images,
            "frequency": frequency,
            "weight": weight,
            "loss_share": loss_share,
        }
        if ignored:
            row["ignored"] = True
        elif not present:
            row["absent"] = True
        rows.append(row)
    return rows


def histogram_answer(
    table: Table,
    *,
    split: str | None = None,
    class_map: str | None = None,
    ignore_index: tuple[int, ...] | None = None,
    num_classes: int | None = None,
) -> dict[str, Any]:
    """Return the counts of every id of a table, after the class map (`class_map="none"`: raw ids).

    `share` is of all pixels. An id has `ignored` or `unexpected` only where true.

    Raises `NotFound` for an unknown split or class map, `Unanswerable` where rows are needed and not kept.
    """
    read = class_counts.interpret(
        table, split=split, class_map=class_map, ignore_index=ignore_index, num_classes=num_classes
    )
    histogram = read.histogram
    total = read.all_pixels()
    images = [None] * len(histogram.class_id) if histogram.images is None else histogram.images.tolist()
    rows: list[dict[str, Any]] = []
    for k, (class_id, pixels) in enumerate(
        zip(histogram.class_id.tolist(), histogram.pixels.tolist(), strict=True)
    ):
        named = histogram.mapped[k] and 0 <= class_id < len(read.names)
        row = {
            "id": class_id,
            "name": read.names[class_id] if named else str(class_id),
            "pixels": pixels,
            "images": images[k],
            "share": pixels / total if total else 0.0,
        }
        if read.ignored[k]:
            row["ignored"] = True
        elif read.unexpected[k]:
            row["unexpected"] = True
        rows.append(row)
    return {
        "dataset": table.dataset,
        "version": table.version,
        "exact": table.exact,
        "split": split,
        "class_map": "none" if read.class_map is None else read.class_map.name,
        "ignore_index": list(read.ignore),
        "num_classes": read.num_classes,
        "images": histogram.samples,
        "failed": table.failures(split)[0],
        "pixels": total,
        "classes": rows,
        "unexpected": class_counts.unexpected_ids(table, read, split),
        "schema": SCHEMA,
    }
