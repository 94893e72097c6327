"""COCO annotations of one image, polygons and run lengths, drawn into a label map.

pycocotools fills the polygons. Annotations are drawn in the order of the file, so a later annotation covers
an earlier one; all other pixels are background. Format: https://cocodataset.org/#format-data.
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

POLYGON_NUMBERS = 6
"""Fewest numbers of a polygon: x and y of three points."""

RUN_BITS_LIMIT = 60
"""Most bits of one compressed run length; a longer one would not fit int64."""

FAR_OUTSIDE = 4
"""Polygon points are clipped this many image sizes away from the image."""


def open_annotations(file: BinaryIO, max_pixels: int) -> LabelMap:
    """Open the annotations of an image, in the JSON form that `statsvc_workers.containers.coco` writes.

    The JSON object contains `size` (height, width), `background` (an id) and `annotations`.

    Raises `UnreadableSample` for masks whose size differs from the image's.
    """
    image = json.loads(file.read())
    height, width = image["size"]
    if height < 0 or width < 0:
        raise UnreadableSample(f"has the size {width} x {height}; use the JSON file as published")
    check_pixels(height, width, max_pixels)
    objects: list[tuple[int, int]] = []

    def sizes() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        ids, pixels = np.array(sorted(objects), np.int64).reshape(-1, 2).T
        return ids, pixels

    chunks = _drawn(image, height, width, objects)
    return LabelMap(Mode.ARRAY, height, width, chunks, layout="rows", objects=sizes)


def _drawn(
    image: dict[str, Any], height: int, width: int, objects: list[tuple[int, int]]
) -> Iterator[NDArray[Any]]:
    """Yield the label map; append the category and pixels of each object that has pixels to `objects`."""
    objects.clear()
    canvas = np.full((height, width), image["background"], np.int32)
    for number, annotation in enumerate(image["annotations"]):
        try:
            mask = _mask(annotation["segmentation"], height, width)
        except UnreadableSample as error:
            raise UnreadableSample(
                f"has an invalid annotation, number {number} of the image: {error}"
            ) from None
        canvas[mask] = annotation["category"]
        if pixels := int(np.count_nonzero(mask)):
            objects.append((annotation["category"], pixels))
    yield canvas


def _mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels of one annotation, bool [height, width]."""
    if isinstance(segmentation, list):
        return _filled(segmentation, height, width)
    size, counts = list(segmentation["size"]), segmentation["counts"]
    if size != [height, width]:
        raise UnreadableSample(f"its mask has the size {size}, the image {[height, width]} (height, width)")
    runs = np.array(_runs(counts) if isinstance(counts, str) else counts, object)
    # The sum uses Python integers: overflowing runs must not add up to the right number.
    if (runs < 0).any() or runs.sum() != height * width:
        raise UnreadableSample(f"its run lengths cover {runs.sum()} pixels of {height * width}")
    # Runs are in column order and alternate, starting outside the mask.
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs.astype(np.int64))
    return np.asarray(flat.reshape(width, height).T)


def _filled(polygons: list[Any], height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels inside the union of polygons, as pycocotools fills them, bool [height, width]."""
    from pycocotools import mask as masks

    if not all(isinstance(p, list) and len(p) >= POLYGON_NUMBERS and len(p) % 2 == 0 for p in polygons):
        raise UnreadableSample("a polygon must be a list of the x and y of at least three points")
    if not polygons:
        return np.zeros((height, width), bool)
    # pycocotools allocates memory in proportion to the distance of points outside the image.
    far = FAR_OUTSIDE * max(height, width)
    points = [np.clip(np.asarray(polygon, float), -far, far).tolist() for polygon in polygons]
    counts = masks.merge(masks.frPyObjects(points, height, width))["counts"].decode("ascii")
    return _mask({"size": [height, width], "counts": counts}, height, width)


def _runs(text: str) -> list[int]:
    """Return the runs of COCO's compressed text form.

    A character encodes five bits and whether more follow. From the fourth run on, a value is the difference
    from the run two before. Source: `rleFrString` in common/maskApi.c of cocoapi.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text.encode("ascii"):
        bits = letter - 48
        if not 0 <= bits < 64:
            raise UnreadableSample(f"its run lengths contain the invalid character {chr(letter)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            if shift > RUN_BITS_LIMIT:
                raise UnreadableSample("its run lengths are damaged")
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
