"""The body of a weights response, the JSON object that HTTP, the client and the command line share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from statsvc.dataset import class_counts as table_counts
from statsvc.errors import Unanswerable
from statsvc.weighting import estimate, weight_warnings
from statsvc.weighting.class_columns import class_counts
from statsvc.weighting.compute import compute_weights
from statsvc.weighting.image_sums import of_all_images
from statsvc.weighting.recipes import RECIPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table
    from statsvc.weighting.compute import ClassCounts, ComputedWeights
    from statsvc.weighting.parameters import WeightSpec

SCHEMA = 2
"""Part of every ETag. Rises whenever the bytes of a response change for the same version and spec."""


class Basis(Struct, frozen=True):
    """What the weights of a response are based on.

    dataset         name of the dataset, or the text of a mixture
    version         number; None for a table without versions and for a mixture
    spec            canonical JSON form of the spec, with the choices of the dataset filled in
    exact           False where the counts are those of a sample of the images, or approximations
    failed          label maps that could not be read
    pixels          counted pixels
    ignored_pixels  pixels of ignored ids
    unexpected      ids that do not map to a class, see `statsvc.dataset.class_counts.unexpected_ids`
    warnings        `{"code", "message"}` each
    stream          sampler, draws and datasets of a stream; None for the files themselves
    approximation   what the counts of crops are computed from; None for exact counts
    seen            for a stream, each class's share of the stream over its share of the files
    """

    dataset: str
    version: int | None
    spec: dict[str, Any]
    exact: bool
    failed: int
    pixels: float
    ignored_pixels: float
    unexpected: Sequence[dict[str, Any]]
    warnings: Sequence[dict[str, str]]
    stream: dict[str, Any] | None = None
    seen: Sequence[float | None] | None = None
    approximation: dict[str, Any] | None = None


def weights_body(
    spec: WeightSpec, basis: Basis, counts: ClassCounts, result: ComputedWeights
) -> dict[str, Any]:
    """Return the response body of computed weights.

    `weights[i]` and `classes[i]` belong to class id i; a class's `pixels` are the counted ones. A class has
    `ignored` or `absent` only where true. `loss_share` and `expected_weight` are null for methods that
    do not return class weights; `images` is null where unknown. `objects` is present with unit=objects only,
    and `seen` for a stream only; `seen` is null for a class that the files do not contain. Of a sample of the
    images, `pixels` and `images` are those of the sample; see `statsvc.weighting.estimate.describe`.
    """
    classes = _class_rows(counts, result)
    if spec.method == "effective_num" and spec.unit == "objects" and counts.objects is not None:
        for row, objects in zip(classes, counts.objects.tolist(), strict=True):
            row["objects"] = objects
    for row, seen in zip(classes, basis.seen or (), strict=basis.seen is not None):
        row["seen"] = seen
    return {
        "dataset": basis.dataset,
        "version": basis.version,
        "method": spec.method,
        "kind": spec.kind,
        "spec": basis.spec,
        "split": spec.split,
        **({} if spec.recipe is None else {"recipe": spec.recipe}),
        **({} if result.beta is None else {"beta": result.beta}),
        **({} if basis.stream is None else {"stream": basis.stream}),
        "exact": basis.exact,
        **({} if basis.approximation is None else {"approximation": basis.approximation}),
        "images": counts.samples,
        "failed": basis.failed,
        "pixels": basis.pixels,
        "ignored_pixels": basis.ignored_pixels,
        "expected_weight": result.expected_weight,
        "classes": classes,
        "weights": result.weights.tolist(),
        "unexpected": list(basis.unexpected),
        "warnings": list(basis.warnings),
        "schema": SCHEMA,
    }


def files_response(table: Table, spec: WeightSpec) -> dict[str, Any]:
    """Return the weights response for the files of a table, each counted once; see `weights_body`.

    A spec with a sampler or a crop needs `statsvc.sampling.weights.weights_response`.

    Raises `InvalidParameter` for a contradictory spec, `NotFound` for an unknown split, `Unanswerable`
    where these counts cannot answer the request.
    """
    spec = spec.resolved()
    if spec.sampler is not None or spec.crop is not None:
        raise ValueError("this request is about a stream; call statsvc.sampling.weights.weights_response")
    interpreted, unexpected = interpret_for(table, spec)
    counts = class_counts(interpreted, spec)
    all_counts = counts if table.exact else of_all_images(counts, estimate.fraction_of(table))
    try:
        result = compute_weights(all_counts, spec)
    except Unanswerable as problem:
        reason = ""
        if spec.unit == "objects" and table.totals().objects is None:
            reason = f" ({table.why_no_objects()})"
        elif counts.images is None and not table.has_rows:
            reason = f" ({table.why_no_rows()})"
        raise Unanswerable(f"{table.dataset}: {problem}{reason}") from None
    failures = table.failures(spec.split)
    basis = Basis(
        dataset=table.dataset,
        version=table.version,
        spec=spec.to_dict() | interpretation(interpreted),
        exact=table.exact,
        failed=failures[0],
        pixels=interpreted.pixels(interpreted.counted),
        ignored_pixels=interpreted.pixels(interpreted.ignored),
        unexpected=unexpected,
        warnings=weight_warnings.collect(table, interpreted, all_counts, spec, result, unexpected, failures),
    )
    body = weights_body(spec, basis, counts, result)
    if not table.exact:
        estimate.describe(body, table, interpreted, counts, spec)
    return body


def interpret_for(table: Table, spec: WeightSpec) -> tuple[InterpretedCounts, list[dict[str, Any]]]:
    """Return the table's counts as a resolved spec interprets them, and the unexpected ids.

    Raises `Unanswerable` for unexpected ids under `unexpected=error`, and as
    `statsvc.dataset.class_counts.interpret` does.
    """
    recipe = RECIPES.get(spec.recipe or "")
    interpreted = table_counts.interpret(
        table,
        split=spec.split,
        class_map=spec.class_map,
        ignore_index=spec.ignore_index,
        num_classes=spec.num_classes,
        count_void=recipe is not None and recipe.void_takes_part,
    )
    unexpected = table_counts.unexpected_ids(table, interpreted, spec.split)
    if unexpected and spec.unexpected == "error":
        raise Unanswerable(f"{table.dataset} has {weight_warnings.unexpected_text(unexpected, interpreted)}")
    return interpreted, unexpected


def interpretation(interpreted: InterpretedCounts) -> dict[str, Any]:
    """Return the ignored ids, number of classes and class map in effect, as parameters of a spec."""
    return {
        "ignore_index": list(interpreted.ignore),
        "num_classes": interpreted.num_classes,
        "class_map": class_map_name(interpreted),
    }


def class_map_name(interpreted: InterpretedCounts) -> str:
    """Return the name of the class map in effect, "none" for raw ids."""
    return "none" if interpreted.class_map is None else interpreted.class_map.name


def _class_rows(counts: ClassCounts, result: ComputedWeights) -> list[dict[str, Any]]:
    """Return the response's `classes`, one for each class id."""
    unknown = [None] * len(counts.pixels)
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
