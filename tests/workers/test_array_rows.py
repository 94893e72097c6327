"""Arrays whose rows are indices or chunks, against NumPy; and an array far larger than memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import zarr

import statsvc as library
from statsvc.errors import InvalidParameter
from support.commands import scan_json, statsvc
from support.scans import counts_by_path
from support.waiting import wait_until_stable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def counted(array: NDArray[Any]) -> dict[int, int]:
    ids, pixels = np.unique(array, return_counts=True)
    return dict(zip(ids.tolist(), pixels.tolist(), strict=True))


ARRAY = np.random.default_rng(0).integers(0, 5, (11, 20, 30)).astype(np.int16)


def saved(folder: Path, form: str) -> Path:
    folder.mkdir()
    path = folder / f"a.{form}"
    if form == "npy":
        np.save(path, ARRAY)
    elif form == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("labels", data=ARRAY, chunks=(4, 8, 16), compression="gzip")
    else:
        version: Any = 2 if form == "v2.zarr" else 3
        shards: dict[str, Any] = {"shards": (8, 16, 32)} if form == "sharded.zarr" else {}
        stored = zarr.create_array(
            path,
            shape=ARRAY.shape,
            dtype=ARRAY.dtype,
            chunks=(4, 8, 16),
            zarr_format=version,
            fill_value=0,
            **shards,
        )
        stored[:] = ARRAY
    return folder


FORMS = ["npy", "h5", "v2.zarr", "v3.zarr", "sharded.zarr"]


@pytest.mark.parametrize("form", FORMS)
def test_an_index_along_the_first_axis_is_a_row(tmp_path: Path, form: Any) -> None:
    table = library.scan(saved(tmp_path / "d", form), rows="index")
    assert counts_by_path(table) == {f"a.{form}/{k:02}": counted(ARRAY[k]) for k in range(11)}


@pytest.mark.parametrize("form", FORMS)
def test_a_chunk_is_a_row_named_by_its_place(tmp_path: Path, form: Any) -> None:
    table = library.scan(saved(tmp_path / "d", form), rows="chunk")
    z, y, x = {"npy": (11, 20, 30), "sharded.zarr": (8, 16, 32)}.get(form, (4, 8, 16))
    expected = {}
    for k in range(-(-11 // z)):
        for j in range(-(-20 // y)):
            for i in range(-(-30 // x)):
                part = ARRAY[k * z : (k + 1) * z, j * y : (j + 1) * y, i * x : (i + 1) * x]
                expected[f"a.{form}/{k}.{j}.{i}"] = counted(part)
    assert counts_by_path(table) == expected


@pytest.mark.parametrize("form", ["v2.zarr", "v3.zarr"])
def test_only_the_changed_chunk_of_an_array_is_counted_again(tmp_path: Path, form: Any) -> None:
    folder = saved(tmp_path / "d", form)
    wait_until_stable(folder)
    first = scan_json(folder, "--name", "n", "--rows", "chunk")["scan"]
    assert (first["counted"], first["failed"]) == (18, 0)
    zarr.open_array(folder / f"a.{form}", mode="r+")[0, 0, 0] = 77
    second = scan_json("--name", "n")["scan"]
    assert (second["counted"], second["reused"]) == (1, 17)
    chunk = folder / f"a.{form}" / ("0.0.0" if form == "v2.zarr" else "c/0/0/0")
    chunk.unlink()
    third = scan_json("--name", "n", "--max-removed", "1")
    assert third["scan"]["reused"] >= 16
    expected = ARRAY.copy()
    expected[:4, :8, :16] = 0
    found = {row["id"]: row["pixels"] for row in third["weights"]["classes"] if row["pixels"]}
    assert found == counted(expected)


def test_a_damaged_chunk_fails_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path / "d", "v3.zarr")
    chunk = folder / "a.v3.zarr/c/1/1/1"
    chunk.write_bytes(chunk.read_bytes()[:-5])
    table = library.scan(folder, rows="chunk")
    assert [path for path, _ in table.failures()[1]] == ["a.v3.zarr/1.1.1"]
    assert len(counts_by_path(table)) == 18


def test_rows_are_rejected_for_files_that_are_not_arrays_and_for_too_many_rows(tmp_path: Path) -> None:
    folder = saved(tmp_path / "d", "npy")
    np.savez(folder / "b.npz", ARRAY)
    np.save(folder / "fortran.npy", np.asfortranarray(ARRAY))
    zarr.create_array(folder / "many.zarr", shape=(1 << 24, 4), chunks=(1, 4), dtype="u1")
    table = library.scan(folder, rows="index", pattern="*")
    failed = dict(table.failures(limit=9)[1])
    assert sorted(failed) == ["b.npz", "fortran.npy", "many.zarr"]
    assert "Fortran" in failed["fortran.npy"]
    assert "rows by index, more than" in failed["many.zarr"]
    with pytest.raises(InvalidParameter, match="'columns' is not one of array, index, chunk"):
        library.scan(folder, rows="columns")


def test_40_gigapixels_of_mostly_missing_and_constant_chunks_are_counted_within_500_mb_a_worker(
    tmp_path: Path,
) -> None:
    side, chunk = 200_000, 4_000
    array = zarr.create_array(
        tmp_path / "d/huge.zarr", shape=(side, side), chunks=(chunk, chunk), dtype="u1", fill_value=3
    )
    array[:chunk, :chunk] = np.random.default_rng(0).integers(0, 3, (chunk, chunk)).astype(np.uint8)
    written = counted(np.asarray(array[:chunk, :chunk]))
    array[chunk : 2 * chunk, :chunk] = 1
    for k in range(2, 40):  # the same constant chunk elsewhere
        target = tmp_path / f"d/huge.zarr/c/{k}/{k}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "d/huge.zarr/c/1/0", target)
    code = (
        "import json, resource, sys; from statsvc.cli import main\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "scan",
        str(tmp_path / "d"),
        "--name",
        "n",
        "--rows",
        "chunk",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)["weights"]
    found = {row["id"]: row["pixels"] for row in answer["classes"] if row["pixels"]}
    ones = 39 * chunk * chunk
    expected = {**written, 1: written[1] + ones, 3: side * side - ones - chunk * chunk}
    assert found == expected
    assert answer["images"] == 2500
    assert int(done.stderr.split()[-1]) < 500_000  # kB, the largest of the worker processes


def test_rows_are_remembered_with_the_dataset(tmp_path: Path) -> None:
    folder = saved(tmp_path / "d", "npy")
    scan_json(folder, "--name", "n", "--rows", "index")
    assert "rows index" in statsvc("scan", folder, "--name", "n", "--rows", "chunk", code=1).stderr
