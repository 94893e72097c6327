"""The default weights of a version and their warnings, computed once and kept in a file of the home.

They follow from the version and from the code alone, so an unchanged scan prints them without loading NumPy.
A file that is damaged or of another version is ignored and replaced. One that cannot be written is not kept.
"""

from __future__ import annotations

import importlib.util
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import statsvc
from statsvc.store.versions import durable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, VersionRecord
    from statsvc.store.home import Home

FOLDER = "answers"
"""Folder of the home with a file for each dataset."""

CODE = ("classes", "common", "dataset", "sampling", "weighting", "store/versions", "cli")
"""Folders of this package whose code the answer depends on: between releases, its number stays the same."""


def default_answer(home: Home, catalog: Catalog, dataset: Dataset) -> dict[str, Any]:
    """Return the default weights of a dataset's current version.

    The result has `weights`, the response, or None and in `reason` why there are none; and `warnings` about
    the configuration.

    Raises `DamagedVersion` and `StoreError` if the version must be read and cannot be.
    """
    record = catalog.version(dataset)
    file = home.folder / FOLDER / f"{dataset.uid}.json"
    key = _key(dataset, record)
    if key is not None and (known := _read(file, key)) is not None:
        return known
    text = json.dumps(_compute(home, dataset, record))
    if key is not None:
        with suppress(OSError):
            file.parent.mkdir(exist_ok=True)
            content = text.encode()
            durable.replace(file, f"{key} {_digest(content)}\n".encode() + content, lasting=False)
    answer: dict[str, Any] = json.loads(text)  # so that an answer is the same whether or not it was kept
    return answer


def remove_others(home: Home, uids: Collection[str]) -> None:
    """Remove the files of datasets other than these."""
    with suppress(OSError):
        for file in (home.folder / FOLDER).iterdir():
            if file.stem not in uids:
                file.unlink()


def _compute(home: Home, dataset: Dataset, record: VersionRecord) -> dict[str, Any]:
    from statsvc.dataset.configuration_warnings import find_warnings
    from statsvc.errors import Unanswerable
    from statsvc.sampling.weights import weights_response
    from statsvc.store.publication import open_version
    from statsvc.weighting.parameters import WeightSpec

    table = open_version(home.store, dataset.name, record)
    warnings = find_warnings(table)
    try:
        return {"warnings": warnings, "weights": weights_response(table, WeightSpec()), "reason": None}
    except Unanswerable as error:
        return {"warnings": warnings, "weights": None, "reason": str(error)}


def _read(file: Path, key: str) -> dict[str, Any] | None:
    try:
        header, _, content = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    if header != f"{key} {_digest(content)}".encode():
        return None
    answer: dict[str, Any] = json.loads(content)
    return answer


def _key(dataset: Dataset, record: VersionRecord) -> str | None:
    """Return a digest of everything that the answer depends on; None if that cannot be said of the code."""
    try:
        code = list(code_files())
    except OSError:
        return None
    version = [record.number, record.expired_at is None, record.to_row()]
    return _digest(json.dumps([statsvc.__version__, code, dataset.uid, dataset.name, version]).encode())


def code_files() -> Iterator[tuple[str, int, int]]:
    """Yield name, size and mtime of the files of `CODE`, and of NumPy's first one. Raises `OSError`."""
    package = Path(statsvc.__file__).parent
    for folder in CODE:
        with os.scandir(package / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    yield f"{folder}/{entry.name}", status.st_size, status.st_mtime_ns
    numpy = importlib.util.find_spec("numpy")
    status = Path(str(numpy and numpy.origin)).stat()
    yield "numpy", status.st_size, status.st_mtime_ns


def _digest(content: bytes) -> str:
    import xxhash  # not installed without the extras

    return xxhash.xxh3_128_hexdigest(content)
