"""Small files of every kind that segmentation datasets contain: label maps, photographs and scans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = (24, 32)


def labels(seed: int, ids: int = 3) -> NDArray[np.uint8]:
    """Return a label map of rectangles."""
    random = np.random.default_rng(seed)
    picture = np.zeros(SHAPE, np.uint8)
    for each in range(1, ids):
        top, left = random.integers(0, SHAPE[0] - 8), random.integers(0, SHAPE[1] - 8)
        picture[top : top + 8, left : left + 8] = each
    return picture


def gray(seed: int) -> NDArray[np.uint8]:
    """Return a gray photograph: a gradient with noise."""
    random = np.random.default_rng(seed)
    ramp = np.add.outer(np.linspace(0, 120, SHAPE[0]), np.linspace(0, 100, SHAPE[1]))
    return np.clip(ramp + random.normal(0, 6, SHAPE), 0, 255).astype(np.uint8)


COLORS = ((0, 0, 0), (128, 0, 0), (0, 128, 0))


def write(path: Path, content: str, seed: int, colors: tuple[tuple[int, int, int], ...] = COLORS) -> None:
    """Write labels, mask, float, ids16, palette, gray, rgb or colors in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture: NDArray[Any] = labels(seed)
    if content == "ids16":
        picture = labels(seed).astype(np.uint16) * 256 + seed % 3
    elif content == "mask":
        picture = labels(seed, 2)
    elif content == "float":
        picture = gray(seed) / np.float32(3)
    elif content == "gray":
        picture = gray(seed)
    elif content == "rgb":
        picture = np.stack([gray(seed), gray(seed + 1), gray(seed + 2)], -1)
    elif content == "colors":
        picture = np.array(colors, np.uint8)[labels(seed)]
    if path.name.endswith((".nii.gz", ".nii")):
        import nibabel

        volume = np.stack([picture] * 3, -1)
        image = nibabel.Nifti1Image(volume.astype(np.int16) if content == "gray" else volume, np.eye(4))
        nibabel.save(image, path)
    elif path.suffix == ".npy":
        np.save(path, picture)
    elif path.suffix in {".jpg", ".json", ".txt"}:
        path.write_bytes(b"...")
    else:
        image = Image.fromarray(picture)
        if content == "palette":
            image.putpalette(bytes(range(9)))
        image.save(path)
