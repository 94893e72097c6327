"""Versions with histograms on a grid: scans, incremental scans, verification and retention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from PIL import Image

from statsvc.dataset.counting_rule import Counting
from statsvc.dataset.grid import Grid
from statsvc.errors import DamagedVersion, Unanswerable
from statsvc.store import retention
from statsvc.store.publication import configure
from statsvc.store.reconfigure import configuration_change
from support.label_maps import expected_counts, write_folder, write_png
from support.scans import Workspace, scan_numbers
from support.waiting import wait_until_stable

if TYPE_CHECKING:
    from pathlib import Path

GRID = Grid(4, 3)


def assert_tiles_match(workspace: Workspace, folder: Path, number: int | None = None) -> None:
    """Compare the tiles of every sample of a version with what NumPy counts in slices of the files."""
    version = workspace.version(number=number)
    assert version.grid == GRID
    version.verify()
    samples = 0
    for block, places, cells in version.placed_blocks():
        for row, path in enumerate(block.path):
            part = cells.take(np.array([row]))
            found = {
                (tile, raw): pixels
                for tile, raw, pixels in zip(
                    part.tile.tolist(), part.class_id.tolist(), part.pixels.tolist(), strict=True
                )
            }
            if block.status[row]:
                assert not found
                continue
            samples += 1
            labels = np.asarray(Image.open(folder / path))
            assert labels.shape == tuple(places[row, 4:6])
            wanted = {}
            for tile in range(GRID.tiles):
                r, c = divmod(tile, GRID.columns)
                h, w = labels.shape
                inside = labels[
                    r * h // GRID.rows : (r + 1) * h // GRID.rows,
                    c * w // GRID.columns : (c + 1) * w // GRID.columns,
                ]
                for raw, pixels in zip(*np.unique(inside, return_counts=True), strict=True):
                    wanted[tile, int(raw)] = int(pixels)
            assert found == wanted
    assert samples == len(expected_counts(folder).counts)


def change_grid(workspace: Workspace, grid: Grid | None) -> None:
    dataset = workspace.catalog.dataset("streets")
    change = configuration_change(workspace.catalog, workspace.store, dataset, {"grid": grid})
    configure(workspace.catalog, workspace.store, dataset, change)


def test_a_grid_is_counted_kept_and_dropped(workspace: Workspace, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "labels")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    wait_until_stable(folder)
    workspace.add(folder)
    workspace.scan()
    assert workspace.version().grid is None
    with pytest.raises(Unanswerable, match=r"without a grid.*statsvc scan --name streets --grid 8x8"):
        next(workspace.version().placed_blocks())

    # An existing dataset gets a grid: everything is counted again.
    change_grid(workspace, GRID)
    assert workspace.version().grid is None  # the new configuration describes the next scan
    outcome, _ = workspace.scan()
    assert outcome.error is None
    assert outcome.progress.reused == 0
    assert_tiles_match(workspace, folder)

    # Rows that are reused keep their tiles, next to new, changed and removed ones with other ids.
    paths = sorted(path.name for path in folder.glob("**/*.png") if path.name != "broken.png")
    random = np.random.default_rng(7)
    write_png(folder / "0 first.png", random.integers(0, 9, (31, 17), dtype=np.uint8))
    kept = [path for path in sorted(folder.glob("**/*.png")) if path.name in paths]
    kept[3].unlink()
    write_png(kept[5], random.integers(200, 210, (20, 30), dtype=np.uint8))
    wait_until_stable(folder)
    outcome, _ = workspace.scan()
    assert scan_numbers(outcome)["reused"] == len(paths) - 2
    assert_tiles_match(workspace, folder)
    outcome, _ = workspace.scan()
    assert outcome.version is None

    change_grid(workspace, None)
    workspace.scan()
    assert workspace.version().grid is None
    workspace.version().verify()


def test_verify_finds_damaged_tiles_and_retention_removes_them(workspace: Workspace, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "labels")
    wait_until_stable(folder)
    workspace.add(folder, counting=Counting(grid=GRID))
    workspace.scan()
    first = workspace.record()
    assert_tiles_match(workspace, folder)
    write_png(folder / "another.png", np.ones((8, 8), np.uint8))
    wait_until_stable(folder)
    workspace.scan()

    dataset = workspace.catalog.set_keep(workspace.catalog.dataset("streets"), 1)
    retention.collect(workspace.catalog, workspace.store, grace=0)
    retention.collect(workspace.catalog, workspace.store, grace=0)
    left = {array.name for array in (workspace.store / first.arrays_uri).folders()}
    assert not {name for name in left if name.startswith("grid_")}
    expired = workspace.version(number=1)
    assert expired.grid is None
    with pytest.raises(Unanswerable, match="removed by retention"):
        next(expired.placed_blocks())
    assert_tiles_match(workspace, folder, dataset.current_number)

    uri = workspace.files / workspace.record().arrays_uri
    for name in ("grid_tile", "grid_class_id", "grid_pixels", "grid_entries"):
        array = zarr.open_array(str(uri / name), mode="r+")
        values = np.asarray(array[:])
        array[1] = values[1] + 1
        with pytest.raises(DamagedVersion, match="grid_"):
            workspace.version().verify()
        array[:] = values
    workspace.version().verify()
    assert "entry" in str(
        zarr.open_group(workspace.files / workspace.record().arrays_uri, mode="r")["grid_tile"].metadata
    )
