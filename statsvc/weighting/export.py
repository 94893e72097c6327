"""Export to files of other projects: DAFormer's statistics, weights in configuration files, and tables."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.csv_cells import csv_text
from statsvc.common.one_line import one_line
from statsvc.errors import InvalidParameter, StatsvcError, Unanswerable
from statsvc.weighting.response import files_response, interpret_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from statsvc.dataset.table import Table
    from statsvc.weighting.parameters import WeightSpec

DAFORMER = ("sample_class_stats.json", "sample_class_stats_dict.json", "samples_with_class.json")
"""The files that DAFormer's `tools/convert_datasets/*.py` write and `mmseg/datasets/uda_dataset.py` reads."""

CSV_COLUMNS = ("id", "pixels", "images", "class", "name", "weight")


def daformer(table: Table, spec: WeightSpec) -> dict[str, bytes]:
    """Return DAFormer's three files for a split: name → JSON in the format of its converters.

    Class ids are those after the class map. Ignored and unexpected ids are left out, as in DAFormer. `file`
    is the sample's path; DAFormer compares its last component with the name of its own label map.

    Raises `Unanswerable` for a table without counts of each sample.
    """
    interpreted, _ = interpret_for(table, spec)
    classes = interpreted.histogram.class_id[interpreted.counted].tolist()
    columns = np.flatnonzero(interpreted.counted)
    paths: list[str] = []
    stats: list[dict[str, int]] = []
    for block_paths, counts in table.sample_counts(spec.split, interpreted.class_map):
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

    Its `CrossEntropyLoss` multiplies each pixel's loss by the weight of its class and divides by the number
    of pixels, while Torch divides by the sum of weights. The scale of the weights is therefore a factor of
    the loss; `normalize=expected` (Σp·w = 1) keeps the loss at its unweighted scale.
    """
    return json.dumps(_loss_weights(table, spec)).encode() + b"\n"


def _loss_weights(table: Table, spec: WeightSpec) -> list[float]:
    response = files_response(table, spec)
    if response["kind"] != "weights":
        raise Unanswerable(
            f"{response['method']} returns {response['kind']}, but class_weight needs class weights. Use "
            "another method"
        )
    weights: list[float] = response["weights"]
    return weights


def npy(table: Table, spec: WeightSpec) -> bytes:
    """Return the weights as NPY, float64 [C]."""
    return _array(files_response(table, spec)["weights"])


def _array(weights: list[float]) -> bytes:
    data = io.BytesIO()
    np.lib.format.write_array(data, np.array(weights, np.float64), allow_pickle=False)
    return data.getvalue()


def pth(table: Table, spec: WeightSpec) -> bytes:
    """Return the weights as a float32 tensor [C], written by `torch.save`.

    Raises `StatsvcError` where Torch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise StatsvcError(
            "PyTorch is not installed, and .pth needs it. Run: pip install 'statsvc[torch]', or export .npy"
        ) from error
    data = io.BytesIO()
    torch.save(torch.tensor(files_response(table, spec)["weights"], dtype=torch.float32), data)
    return data.getvalue()


def yaml_list(table: Table, spec: WeightSpec) -> bytes:
    """Return YAML, `class_weight` as a list of C numbers, for configuration files such as PaddleSeg's."""
    import yaml

    # PyYAML's own numbers: 1e-05 would be a string in YAML 1.1.
    return _config(table, spec, "class_weight:", lambda row: yaml.safe_dump([row["weight"]]).rstrip(), "")


def python_dict(table: Table, spec: WeightSpec) -> bytes:
    """Return Python, `class_weight` as a dict from class id to weight, for configuration files in Python."""
    return _config(table, spec, "class_weight = {", lambda row: f"    {row['id']}: {row['weight']!r},", "}\n")


def json_dict(table: Table, spec: WeightSpec) -> bytes:
    """Return JSON, an object from class id, a string, to weight."""
    rows = files_response(table, spec)["classes"]
    return json.dumps({str(row["id"]): row["weight"] for row in rows}, indent=2).encode() + b"\n"


def _config(table: Table, spec: WeightSpec, first: str, line_of: Callable[[Any], str], last: str) -> bytes:
    """Return a line for each class, with its name, after a comment that says what the weights are."""
    response = files_response(table, spec)
    version = "" if response["version"] is None else f" version {response['version']}"
    split = f", split {response['split']}" if response["split"] else ""
    title = one_line(f"{response['kind']} by {response['method']} of {response['dataset']}{version}{split}")
    lines = [f"{line_of(row)}  # {one_line(row['name'])}" for row in response["classes"]]
    return "\n".join([f"# {title}", first, *lines, last]).encode("utf-8", "replace")


def counts_csv(table: Table, spec: WeightSpec) -> bytes:
    """Return one line for each raw id: its pixels and images, and its class and weight where it has them.

    `statsvc import` reads the file and restores the counts, those of ignored and unexpected ids included.
    """
    response = files_response(table, spec)
    interpreted, _ = interpret_for(table, spec)
    totals = table.histogram(spec.split)
    classes, is_class = totals.class_id, np.ones(len(totals.class_id), bool)
    if interpreted.class_map is not None:
        classes, is_class = interpreted.class_map.apply(totals.class_id)
    is_class &= np.isin(classes, interpreted.histogram.class_id[interpreted.counted])
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(CSV_COLUMNS)
    for k, raw_id in enumerate(totals.class_id.tolist()):
        images = "" if totals.images is None else int(totals.images[k])
        class_cells: tuple[Any, ...] = ("", "", "")
        if is_class[k]:
            class_id = int(classes[k])
            name = csv_text(response["classes"][class_id]["name"])
            class_cells = (class_id, name, response["weights"][class_id])
        rows.writerow([raw_id, int(totals.pixels[k]), images, *class_cells])
    return text.getvalue().encode("utf-8", "replace")


FILES: dict[tuple[str, str], Callable[[Table, WeightSpec], bytes]] = {
    ("csv", ".csv"): counts_csv,
    ("dict", ".json"): json_dict,
    ("dict", ".py"): python_dict,
    ("mmseg", ".json"): mmseg_json,
    ("mmseg", ".npy"): mmseg_npy,
    ("npy", ".npy"): npy,
    ("pth", ".pth"): pth,
    ("yaml", ".yaml"): yaml_list,
    ("yaml", ".yml"): yaml_list,
}
"""(format, file suffix) → function that returns the file's content; `daformer` writes a folder instead."""

FORMATS = ("daformer", "mmseg", "csv", "npy", "pth", "yaml", "dict")


def files(form: str, table: Table, spec: WeightSpec, output: Path) -> dict[Path, bytes]:
    """Return the files of an export: path → content.

    Raises `InvalidParameter` for an unsuitable file name.
    """
    if form == "daformer":
        if output.exists() and not output.is_dir():
            raise InvalidParameter(
                ("output", f"{output} is a file, but daformer writes three files; use a folder")
            )
        return {output / name: content for name, content in daformer(table, spec).items()}
    content_of = FILES.get((form, output.suffix.lower()))
    if content_of is None:
        suffixes = " or ".join(suffix for name, suffix in FILES if name == form)
        raise InvalidParameter(("output", f"format {form} writes {suffixes} files; rename {output}"))
    return {output: content_of(table, spec)}
