"""COCO annotations of one image, polygons and run lengths, drawn into a label map.

pycocotools fills the polygons. Annotations are drawn in the order of the file, so a later one covers an
earlier one; what none covers is the background. Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import LabelMap, Mode, check_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def open_annotations(file: BinaryIO, max_pixels: int) -> LabelMap:
    """Read what `statsvc_workers.containers.coco` wrote of an image: size, background and annotations.

    Raises `UnreadableSample` for masks of another size than the image's.
    """
    described = json.loads(file.read())
    height, width = described["size"]
    if height < 0 or width < 0:
        raise UnreadableSample(f"has the size {width} x {height}; take the JSON as it was published")
    check_pixels(height, width, max_pixels)
    return LabelMap(Mode.ARRAY, height, width, _drawn(described, height, width))


def _drawn(described: dict[str, Any], height: int, width: int) -> Iterator[NDArray[Any]]:
    canvas = np.full((height, width), described["background"], np.int32)
    for number, annotation in enumerate(described["annotations"]):
        try:
            mask = _mask(annotation["segmentation"], height, width)
        except UnreadableSample as error:
            raise UnreadableSample(f"has a bad annotation, number {number} of the image: {error}") from None
        canvas[mask] = annotation["category"]
    yield canvas


def _mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels of one annotation, bool [height, width]."""
    if isinstance(segmentation, list):
        return _filled(segmentation, height, width)
    size, counts = list(segmentation["size"]), segmentation["counts"]
    if size != [height, width]:
        raise UnreadableSample(f"a mask of {size} for an image of {[height, width]} (height, width)")
    runs = np.array(_runs(counts) if isinstance(counts, str) else counts, object)
    # Summed as Python's integers: runs that wrap around must not come out right.
    if (runs < 0).any() or runs.sum() != height * width:
        raise UnreadableSample(f"runs of {runs.sum()} pixels for {height * width}")
    # Runs go down the columns, the first of them outside the mask.
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs.astype(np.int64))
    return np.asarray(flat.reshape(width, height).T)


def _filled(polygons: list[Any], height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels inside any of some polygons, as pycocotools fills them."""
    from pycocotools import mask as masks

    if not all(isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 for part in polygons):
        raise UnreadableSample("a polygon is a list of x, y of at least three points")
    if not polygons:
        return np.zeros((height, width), bool)
    # Points far outside would make pycocotools walk, and allocate, all the way there.
    far = 4 * max(height, width)
    points = [np.clip(np.asarray(part, float), -far, far).tolist() for part in polygons]
    counts = masks.merge(masks.frPyObjects(points, height, width))["counts"].decode("ascii")
    return _mask({"size": [height, width], "counts": counts}, height, width)


def _runs(text: str) -> list[int]:
    """Return the runs of COCO's compressed form: five bits a character, from the fourth run on differences.

    Written as `rleFrString` of cocoapi, common/maskApi.c, reads it.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text.encode("ascii"):
        bits = letter - 48
        if not 0 <= bits < 64:
            raise UnreadableSample(f"run lengths with the letter {chr(letter)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            if shift > 60:
                raise UnreadableSample("run lengths that are damaged")
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
