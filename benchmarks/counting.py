"""Counting label maps on one core, compared with the usual ways: ratios of medians of one run.

    python benchmarks/counting.py [--size 2048x1024] [--images 6] [--repeats 9] [--json FILE]

The label maps are generated with a fixed seed and read from disk. The peers are Pillow, OpenCV, nibabel and
`torch.bincount`; those that are not installed are skipped. The kernels are compiled before the measurements;
the time for it is printed separately.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from measuring import Row, at_most, faster, installed, medians_ms, not_installed, report
from msgspec.structs import replace
from PIL import Image

from statsvc.dataset.counting_rule import Counting
from statsvc.dataset.grid import Grid
from statsvc.local.demo import make_demo
from statsvc_workers.cluster.tasks import CountOptions, count_samples
from statsvc_workers.formats import open_label_map
from statsvc_workers.kernels.histogram import Counter

if TYPE_CHECKING:
    from collections.abc import Callable

    Count = Callable[[Path], np.ndarray]

CLASSES = 19


def by_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.bincount(np.asarray(image).ravel(), minlength=256)


def by_opencv(path: Path) -> np.ndarray:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.bincount(image.ravel(), minlength=256)


def by_statsvc(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        histogram = open_label_map(path.name, file, 1 << 30).histogram
        assert histogram is not None
        ids, pixels = histogram()
    counts = np.zeros(256, np.int64)
    counts[ids] = pixels
    return counts


def count_array(array: np.ndarray) -> np.ndarray:
    counter = Counter()
    counter.add(array)
    return counter.result()[1]


def image_data(path: Path) -> bytes:
    """Return the zlib stream of a PNG."""
    data, chunks, offset = path.read_bytes(), [], 8
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        if data[offset + 4 : offset + 8] == b"IDAT":
            chunks.append(data[offset + 8 : offset + 8 + length])
        offset += 12 + length
    return b"".join(chunks)


def write_maps(folder: Path, maps: list[np.ndarray]) -> dict[str, list[Path]]:
    """Write the label maps with each encoder; return {encoder: files}."""
    files: dict[str, list[Path]] = {"Pillow, gray": [], "palette": []}
    for number, array in enumerate(maps):
        gray, palette = folder / f"gray-{number}.png", folder / f"palette-{number}.png"
        image = Image.fromarray(array)
        image.save(gray)
        files["Pillow, gray"].append(gray)
        image.putpalette(list(range(256)) * 3)
        image.save(palette)
        files["palette"].append(palette)
    if not installed("cv2"):
        return files
    import cv2

    files["OpenCV, gray"] = []
    for number, array in enumerate(maps):
        path = folder / f"opencv-{number}.png"
        cv2.imwrite(str(path), array)
        files["OpenCV, gray"].append(path)
    return files


def ms_per_file(theirs: Count, ours: Count, paths: list[Path], repeats: int) -> tuple[float, float]:
    """Return the CPU time per file of both sides in milliseconds. Each pass counts all files."""
    total = medians_ms(
        lambda: [theirs(path) for path in paths], lambda: [ours(path) for path in paths], repeats
    )
    return total[0] / len(paths), total[1] / len(paths)


def png_rows(size: str, maps: list[np.ndarray], repeats: int, least: float) -> list[Row]:
    """Compare PNG files: each encoder, their geometric mean, another decoder, and only inflating the data."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        files = write_maps(Path(folder), maps)
        for encoder, paths in files.items():
            theirs, ours = ms_per_file(by_pillow, by_statsvc, paths, repeats)
            for path in paths:
                assert np.array_equal(by_pillow(path), by_statsvc(path))
            rows.append(faster(f"PNG {size}, {encoder}: Pillow + np.bincount", theirs, ours))
        mean = math.prod(row.ratio for row in rows) ** (1 / len(rows))
        theirs = statistics.mean(row.theirs for row in rows)
        rows.append(faster(f"PNG {size}: geometric mean of the above", theirs, theirs / mean, least))
        first = next(iter(files.values()))
        if "OpenCV, gray" in files:
            theirs, ours = ms_per_file(by_opencv, by_statsvc, first, repeats)
            rows.append(faster(f"PNG {size}: OpenCV + np.bincount", theirs, ours))
        import deflate

        for name, inflate in (("zlib", zlib.decompress), ("libdeflate", None)):
            pairs = []
            for path, array in zip(first, maps, strict=True):
                stream, length = image_data(path), array.shape[0] * (1 + array.shape[1])
                run = (
                    partial(inflate, stream) if inflate else partial(deflate.zlib_decompress, stream, length)
                )
                pairs.append(medians_ms(run, partial(by_statsvc, path), repeats))
            theirs, ours = (statistics.mean(side) for side in zip(*pairs, strict=True))
            rows.append(faster(f"PNG {size}: {name}'s inflate alone", theirs, ours))
    return rows


def array_rows(array: np.ndarray, repeats: int) -> list[Row]:
    """Compare arrays in memory: label map and noise of each dtype, and other peers."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, array.shape)
    rows: list[Row] = []
    goals = {
        ("uint8", "label map"): 8,
        ("uint8", "noise"): 2,
        ("uint16", "label map"): 3,
        ("int32", "label map"): 3,
    }
    for kind in ("uint8", "uint16", "int32", "int64"):
        for what, values in (("label map", array), ("noise", noise)):
            typed = values.astype(kind)
            assert np.array_equal(count_array(typed), np.unique(typed, return_counts=True)[1])
            theirs, ours = medians_ms(
                partial(np.bincount, typed.ravel()), partial(count_array, typed), repeats
            )
            rows.append(faster(f"{kind} {what}: np.bincount", theirs, ours, goals.get((kind, what), 1)))
    loop = partial(lambda labels: [(labels == c).sum() for c in range(CLASSES)], array)
    theirs, ours = medians_ms(loop, partial(count_array, array), repeats)
    rows.append(faster(f"uint8 label map: (label == c).sum() of {CLASSES} classes", theirs, ours))
    import dask.array

    lazy = dask.array.bincount(dask.array.from_array(array.ravel(), chunks=1 << 18), minlength=256)
    theirs, ours = medians_ms(
        partial(lazy.compute, scheduler="threads"), partial(count_array, array), repeats
    )
    rows.append(faster("uint8 label map: dask.array.bincount", theirs, ours))
    if installed("torch"):
        import torch

        tensor = torch.from_numpy(array.copy()).flatten()
        theirs, ours = medians_ms(partial(torch.bincount, tensor), partial(count_array, array), repeats)
        rows.append(faster("uint8 label map: torch.bincount", theirs, ours))
    return rows


def noise_rows(shape: tuple[int, int], repeats: int) -> list[Row]:
    """Compare arrays without long runs with OpenCV's `calcHist`."""
    import cv2

    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    squares = rng.integers(0, CLASSES, (shape[0] // 4, shape[1] // 4)).repeat(4, 0).repeat(4, 1)
    arrays = {
        "noise of 256 ids": (rng.integers(0, 256, shape), 1),
        f"noise of {CLASSES} ids": (rng.integers(0, CLASSES, shape), 1),
        "noise of two ids": (rng.integers(0, 2, shape), None),
        f"squares of 4x4 of {CLASSES} ids": (squares, None),
    }
    rows = []
    for name, (values, least) in arrays.items():
        array = values.astype(np.uint8)
        run = partial(cv2.calcHist, [array], [0], None, [256], [0, 256])
        assert np.array_equal(run().ravel()[np.unique(array)], count_array(array))
        theirs, ours = medians_ms(run, partial(count_array, array), repeats)
        rows.append(faster(f"uint8 {name}: cv2.calcHist", theirs, ours, least))
    return rows


def volume_rows(repeats: int) -> list[Row]:
    """Compare compressed NIfTI volumes of 256³ voxels with balls that resemble organs."""
    import nibabel

    rng, edge = np.random.default_rng(0), 256
    axes = np.ogrid[:edge, :edge, :edge]
    volume = np.zeros((edge, edge, edge), np.uint8)
    for organ in range(1, 8):
        center, radius = rng.integers(40, edge - 40, 3), rng.integers(12, 50)
        volume[sum((axis - c) ** 2 for axis, c in zip(axes, center, strict=True)) < radius**2] = organ
    rows = []
    for kind in ("uint8", "int16"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "volume.nii.gz"
            nibabel.save(nibabel.Nifti1Image(volume.astype(kind), np.eye(4), dtype=kind), path)
            assert np.array_equal(by_nibabel(path), by_stream(path))
            theirs, ours = medians_ms(partial(by_nibabel, path), partial(by_stream, path), repeats)
            rows.append(faster(f"NIfTI {edge}³ {kind}, .nii.gz: nibabel + np.bincount", theirs, ours, 4))
    return rows


def with_grid(
    name: str, options: tuple[CountOptions, CountOptions], files: list[str], repeats: int, most: float
) -> Row:
    """Compare counting files without a grid and with one."""
    plain, gridded = options
    theirs, ours = medians_ms(
        partial(count_samples, plain, files), partial(count_samples, gridded, files), repeats
    )
    entries = len(count_samples(gridded, files).tile) / len(files)
    title = f"{name}, {gridded.counting.grid} grid ({entries:.0f} entries): without a grid"
    return at_most(title, theirs / len(files), ours / len(files), most, "ms")


def grid_rows(sizes: dict[str, list[np.ndarray]], repeats: int) -> list[Row]:
    """Compare counting with an 8x8 grid to counting without: PNG files, and arrays of each dtype."""
    rows: list[Row] = []
    grid, volume_grid = Grid(8, 8), Grid(8, 8, 8)
    for size, maps in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            files = [f"{number}.png" for number in range(len(maps))]
            for file, labels in zip(files, maps, strict=True):
                Image.fromarray(labels).save(Path(folder) / file)
            plain = CountOptions(folder, 1 << 28, "cpu")
            options = plain, replace(plain, counting=Counting(grid=grid))
            rows.append(with_grid(f"PNG {size}", options, files, repeats, 1.25))
            noise = np.random.default_rng(0).integers(0, CLASSES, maps[0].shape).astype(np.uint8)
            arrays = {f"NPY {size} {kind}": maps[0].astype(kind) for kind in ("uint8", "uint16", "int64")}
            for name, array in {**arrays, f"NPY {size} uint8 noise": noise}.items():
                np.save(Path(folder) / "array.npy", array)
                most = 2 if "noise" in name else 1.5
                rows.append(with_grid(name, options, ["array.npy"], repeats, most))
            np.save(Path(folder) / "volume.npy", np.stack([maps[0]] * 8))
            options = plain, replace(plain, counting=Counting(grid=volume_grid))
            rows.append(with_grid(f"NPY volume of 8 x {size}", options, ["volume.npy"], repeats, 1.5))
    return rows


def by_nibabel(path: Path) -> np.ndarray:
    import nibabel

    # In memory order: ravel() without an order would copy the voxels.
    return np.bincount(np.asanyarray(nibabel.load(path).dataobj).ravel(order="K"))


def by_stream(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        counter = Counter()
        for chunk in open_label_map(path.name, file, 1 << 30).chunks:
            counter.add(chunk)
    return counter.result()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", default="2048x1024", metavar="WxH")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))

    def generate(size: tuple[int, int]) -> list[np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            make_demo(Path(folder), images=options.images, size=size, seed=0)
            return [np.asarray(Image.open(file)) for file in sorted(Path(folder).rglob("*.png"))]

    maps, small = generate((width, height)), generate((480, 360))
    start = time.perf_counter()
    for kind in ("uint8", "uint16", "int32", "int64"):
        count_array(small[0].astype(kind))
    with tempfile.TemporaryDirectory() as folder:
        by_statsvc(write_maps(Path(folder), small[:1])["palette"][0])
    print(f"kernels compiled or loaded from the cache in {time.perf_counter() - start:.1f} s")
    rows = png_rows(options.size, maps, options.repeats, 10)
    rows += png_rows("480x360", small, 3 * options.repeats, 5)
    rows += array_rows(maps[0], options.repeats)
    if installed("cv2"):
        rows += noise_rows(maps[0].shape, 5 * options.repeats)
    rows += grid_rows({options.size: maps, "480x360": small}, options.repeats)
    if installed("nibabel"):
        rows += volume_rows(options.repeats)
    title = f"one core, {options.images} label maps, CPU time, medians of {options.repeats}"
    missing = not_installed({"cv2": "OpenCV", "nibabel": "nibabel", "torch": "Torch"})
    report(title, rows, options.json, missing)


if __name__ == "__main__":
    main()
