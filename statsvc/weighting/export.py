"""Files that other projects read: DAFormer's statistics, MMSegmentation's class weights, and tables."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import InvalidParameter, StatsvcError, Unanswerable
from statsvc.weighting import answers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from statsvc.dataset.table import Table
    from statsvc.weighting.parameters import WeightSpec

DAFORMER = ("sample_class_stats.json", "sample_class_stats_dict.json", "samples_with_class.json")
"""What DAFormer's `tools/convert_datasets/*.py` write and `mmseg/datasets/uda_dataset.py` reads."""

CSV_COLUMNS = ("id", "pixels", "images", "class", "name", "weight")


def daformer(table: Table, spec: WeightSpec) -> dict[str, bytes]:
    """Return DAFormer's three files of a split's samples: name → JSON, laid out as its converters do.

    Classes are those after the class map; ignored and unexpected ids are left out, as there. `file` is the
    sample's path, of which DAFormer compares the last part with its own label map's name.

    Raises `Unanswerable` for a table without rows.
    """
    read, _ = answers.read_as_asked(table, spec)
    classes, columns = read.histogram.class_id[read.counted].tolist(), np.flatnonzero(read.counted)
    paths: list[str] = []
    stats: list[dict[str, int]] = []
    for block_paths, counts in table.sample_counts(spec.split, read.class_map):
        paths += block_paths
        stats += [_occurring(classes, row) for row in counts[:, columns]]
    with_class: dict[str, list[tuple[str, int]]] = {}
    for path, row in zip(paths, stats, strict=True):
        for class_id, pixels in row.items():
            with_class.setdefault(class_id, []).append((path, pixels))
    contents = (
        [row | {"file": path} for path, row in zip(paths, stats, strict=True)],
        dict(zip(paths, stats, strict=True)),
        with_class,
    )
    return {
        name: json.dumps(content, indent=2).encode() for name, content in zip(DAFORMER, contents, strict=True)
    }


def _occurring(classes: list[int], row: NDArray[np.int64]) -> dict[str, int]:
    return {str(class_id): pixels for class_id, pixels in zip(classes, row.tolist(), strict=True) if pixels}


def mmseg_npy(table: Table, spec: WeightSpec) -> bytes:
    """Return `class_weight` for MMSegmentation as NPY, float64 [C]; see `mmseg_json`."""
    return _array(_loss_weights(table, spec))


def mmseg_json(table: Table, spec: WeightSpec) -> bytes:
    """Return `class_weight` for MMSegmentation as a JSON list of C numbers.

    Its `CrossEntropyLoss` multiplies each pixel's loss by the class's weight and divides by the number of
    pixels, not by the sum of weights as Torch does. So the weights' scale is a factor of the loss, and
    `normalize=expected` (Σp·w = 1), which keeps the loss what it was, is the one to export with.
    """
    return json.dumps(_loss_weights(table, spec)).encode() + b"\n"


def _loss_weights(table: Table, spec: WeightSpec) -> list[float]:
    answer = answers.answer(table, spec)
    if answer["kind"] != "weights":
        raise Unanswerable(f"{answer['method']} gives no weights of a loss, so it is no class_weight")
    weights: list[float] = answer["weights"]
    return weights


def npy(table: Table, spec: WeightSpec) -> bytes:
    """Return the weights as NPY, float64 [C]."""
    return _array(answers.answer(table, spec)["weights"])


def _array(weights: list[float]) -> bytes:
    data = io.BytesIO()
    np.lib.format.write_array(data, np.array(weights, np.float64), allow_pickle=False)
    return data.getvalue()


def pth(table: Table, spec: WeightSpec) -> bytes:
    """Return the weights as `torch.save` writes a float32 tensor [C].

    Raises `StatsvcError` where Torch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise StatsvcError(".pth is Torch's: pip install 'statsvc[torch]', or export .npy") from error
    data = io.BytesIO()
    torch.save(torch.tensor(answers.answer(table, spec)["weights"], dtype=torch.float32), data)
    return data.getvalue()


def counts_csv(table: Table, spec: WeightSpec) -> bytes:
    """Return a line for each raw id: its pixels, images, and the class and weight that it gets, if any.

    `statsvc import` reads it: the counts come back whole, ignored and unexpected ids too.
    """
    answer = answers.answer(table, spec)
    read, _ = answers.read_as_asked(table, spec)
    totals = table.histogram(spec.split)
    classes, known = totals.class_id, np.ones(len(totals.class_id), bool)
    if read.class_map is not None:
        classes, known = read.class_map.apply(totals.class_id)
    known &= np.isin(classes, read.histogram.class_id[read.counted])
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(CSV_COLUMNS)
    for k, raw_id in enumerate(totals.class_id.tolist()):
        images = "" if totals.images is None else int(totals.images[k])
        placed: tuple[Any, ...] = ("", "", "")
        if known[k]:
            class_id = int(classes[k])
            placed = (class_id, answer["classes"][class_id]["name"], answer["weights"][class_id])
        rows.writerow([raw_id, int(totals.pixels[k]), images, *placed])
    return text.getvalue().encode("utf-8", "replace")


FILES: dict[tuple[str, str], Callable[[Table, WeightSpec], bytes]] = {
    ("csv", ".csv"): counts_csv,
    ("mmseg", ".json"): mmseg_json,
    ("mmseg", ".npy"): mmseg_npy,
    ("npy", ".npy"): npy,
    ("pth", ".pth"): pth,
}
"""What a format writes to a file that ends so; `daformer` fills a folder."""

FORMATS = ("daformer", "mmseg", "csv", "npy", "pth")


def files(form: str, table: Table, spec: WeightSpec, output: Path) -> dict[Path, bytes]:
    """Return the files of an export, by place. Raises `InvalidParameter` for a name that does not fit."""
    if form == "daformer":
        if output.exists() and not output.is_dir():
            raise InvalidParameter(("output", f"{output} is a file; daformer writes three, so give a folder"))
        return {output / name: content for name, content in daformer(table, spec).items()}
    make = FILES.get((form, output.suffix.lower()))
    if make is None:
        endings = " or ".join(suffix for known, suffix in FILES if known == form)
        raise InvalidParameter(("output", f"{output}: end its name in {endings} for the format {form}"))
    return {output: make(table, spec)}
