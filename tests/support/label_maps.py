"""Folders of valid label maps, and their histograms according to Pillow and NumPy.

`expected_counts` is the oracle of the tests of scans: it shares no code with statsvc.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FILE_COUNT = 12
"""Number of label maps that `write_folder` writes by default."""
HUGE_PIXELS = 1 << 26
"""Pixels of each array that `write_huge_arrays` writes: counting it takes about 0.1 s."""


def write_png(file: Path, labels: NDArray[Any]) -> Path:
    """Write a label map as PNG with Pillow: 8 bits per pixel for uint8, 16 bits for uint16."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(file)
    return file


def gray_png(value: int, shape: tuple[int, int]) -> bytes:
    """Return an 8-bit PNG, as Pillow writes it, in which every pixel has the same value."""
    data = io.BytesIO()
    Image.fromarray(np.full(shape, value, np.uint8)).save(data, "PNG")
    return data.getvalue()


def random_labels(seed: int, classes: int = 6, shape: tuple[int, int] = (16, 24)) -> NDArray[np.uint8]:
    """Return a label map in which lower ids are more frequent; some pixels of the first row are 255."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.4, shape) - 1, classes - 1).astype(np.uint8)
    labels[0, : int(rng.integers(0, shape[1]))] = 255
    return labels


def write_folder(folder: Path, seed: int = 0, files: int = FILE_COUNT) -> Path:
    """Write label maps `train/00.png`, `val/03.png`, … and return the folder."""
    for number in range(files):
        split = "val" if number % 4 == 3 else "train"
        write_png(folder / split / f"{number:02}.png", random_labels(1000 * seed + number))
    return folder


def write_huge_arrays(folder: Path, files: int = 2000) -> Path:
    """Write NPY arrays of 64 MiB into the new subfolder `zz-huge`, which is counted last; return it.

    Counting the default number of files takes longer than any test waits. The arrays are zeros in sparse
    files, which use no disk space but must be read completely.
    """
    huge = folder / "zz-huge"
    huge.mkdir(parents=True)
    header = {"shape": (1, HUGE_PIXELS), "fortran_order": False, "descr": "|u1"}
    for number in range(files):
        with (huge / f"{number:04d}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + HUGE_PIXELS)
    return huge


@dataclass(frozen=True)
class ExpectedCounts:
    """The histogram of every label map of a folder, by `numpy.unique`.

    counts      {path: {raw id: pixels}}, in path order
    failed      paths of the files that Pillow cannot read
    """

    counts: dict[str, dict[int, int]]
    failed: list[str]

    @property
    def ids(self) -> list[int]:
        """All raw ids, ascending."""
        return sorted({raw for row in self.counts.values() for raw in row})

    def table(self) -> NDArray[np.int64]:
        """Return int64 [samples, ids], without the failed samples."""
        rows = [[row.get(raw, 0) for raw in self.ids] for row in self.counts.values()]
        return np.array(rows, np.int64).reshape(len(self.counts), len(self.ids))


def expected_counts(folder: Path, pattern: str = "*.png") -> ExpectedCounts:
    """Count every file that is in the folder now."""
    counts: dict[str, dict[int, int]] = {}
    failed = []
    for file in sorted(folder.rglob(pattern), key=lambda file: file.relative_to(folder).as_posix()):
        path = file.relative_to(folder).as_posix()
        try:
            with Image.open(file) as image:
                values, pixels = np.unique(np.asarray(image), return_counts=True)
        except (OSError, SyntaxError, ValueError):
            failed.append(path)
            continue
        counts[path] = {int(v): int(n) for v, n in zip(values, pixels, strict=True)}
    return ExpectedCounts(counts, failed)
